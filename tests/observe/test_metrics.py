"""Names, buckets, budgets; and that boards and alerts ask only for what there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tenfold.core.request import EngineInfo, EngineStats
from tenfold.engine.client import Health
from tenfold.observe.budget import WINDOW
from tenfold.observe.metrics import Metrics
from tenfold.observe.requests import ChoiceTimeline
from tests.server.fakes import INFO

DEPLOY = Path(__file__).parents[2] / "deploy"
STATS = EngineStats(
    running=3,
    waiting=2,
    waiting_by_class={"batch": 2},
    preemptions_total={"memory": 2, "slo": 3},
    refused_total={"ttft": 1},
    finished_total={"stop": 1},
    step_cost_error=0.1,
    billed_seconds_total={"batch": {"acme": 1.0}},
    draft_tokens_total={"lookup": 4, "model": 5},
    accepted_tokens_total={"lookup": 2, "model": 1},
)


def line(slo_class: str = "batch", **more: Any) -> ChoiceTimeline:
    times = dict.fromkeys(("tokenize", "queue", "decode", "preempted", "recompute", "delivery"), 0.01)
    counts = dict.fromkeys(("prompt_tokens", "cached_tokens", "output_tokens", "machine_seconds"), 1)
    fields = {"prefill": 0.02, "interference": 0.005, "total": 0.085, **times, **counts, **more}
    return ChoiceTimeline(slo_class=slo_class, **fields)


def shown(metrics: Metrics, info: EngineInfo | None = INFO, stats: EngineStats | None = STATS) -> str:
    return metrics.render(Health(state="ready", progress_age=0.0), stats, info, "1").decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def busy() -> Metrics:
    metrics = Metrics(price=1.0, model="m", slo_target=0.9)
    metrics.http_began()
    metrics.http_ended("/v1/completions", "POST", 200)
    metrics.first_token(0.0042, queued=0.001, prompt_tokens=7)
    for gap in (0.0015, 0.0025, 0.0031):
        metrics.tokens(1, gap)
    metrics.choice_ended("stop", 4, 0.002)
    metrics.where_time_went(line(ttft=0.05, tpot=0.01, ttft_bound=1.0, tpot_bound=0.02))
    metrics.where_time_went(line(ttft=2.0, tpot=0.01, ttft_bound=1.0, tpot_bound=0.02))
    metrics.request_ended(0.085)
    return metrics


def test_the_same_figures_under_vllms_names() -> None:
    found = samples(shown(busy()))

    def vllm(name: str, **labels: str) -> float:
        return found[f"vllm:{name}", frozenset({"model_name": "m", "engine": "0", **labels}.items())]

    assert vllm("num_requests_running") == 3
    assert vllm("num_preemptions_total") == 5  # over all reasons
    assert vllm("spec_decode_num_draft_tokens_total") == 9
    assert vllm("request_success_total", finished_reason="stop") == 1
    assert vllm("time_to_first_token_seconds_count") == 1
    assert vllm("time_to_first_token_seconds_bucket", le="0.005") == 1
    assert vllm("time_per_output_token_seconds_count") == vllm("inter_token_latency_seconds_count") == 3
    assert vllm("request_prefill_time_seconds_sum") == pytest.approx(0.04)
    assert vllm("request_decode_time_seconds_sum") == pytest.approx(0.07)
    assert vllm("request_inference_time_seconds_sum") == pytest.approx(0.11)
    assert vllm("prompt_tokens_total") == found["tenfold_prompt_tokens_total", frozenset()] == 7


def test_counters_are_there_before_anything_is_counted() -> None:
    found = samples(shown(Metrics(model="m"), stats=EngineStats()))
    assert found["vllm:num_preemptions_total", frozenset({"model_name": "m", "engine": "0"}.items())] == 0


def test_gaps_a_millisecond_apart_are_told_apart() -> None:
    found = samples(shown(busy()))
    name = "tenfold_inter_token_latency_seconds_bucket"
    below = {le: found[name, frozenset({("le", le)})] for le in ("0.001", "0.002", "0.003", "0.004")}
    assert below == {"0.001": 0, "0.002": 1, "0.003": 2, "0.004": 3}


def test_attainment_and_budget_are_of_the_last_answers() -> None:
    metrics = Metrics(slo_target=0.9)

    def told() -> list[float]:
        found = samples(shown(metrics))
        by_class = frozenset({("slo_class", "batch")})
        names = ("tenfold_slo_attainment_ratio", "tenfold_slo_error_budget_remaining_ratio")
        return [found[name, by_class] for name in names]

    good, bad = ({"ttft": ttft, "ttft_bound": 1.0} for ttft in (0.5, 1.5))
    for more in (good, good, good, bad):
        metrics.where_time_went(line(**more))
    assert told() == pytest.approx([0.75, -1.5])
    metrics.where_time_went(line("standard"))  # has no bounds: not judged
    for _ in range(WINDOW):
        metrics.where_time_went(line(**good))
    assert told() == pytest.approx([1.0, 1.0])
    found = samples(shown(metrics))
    assert found["tenfold_slo_target_ratio", frozenset()] == 0.9
    assert found["tenfold_slo_requests_total", frozenset({("slo_class", "batch"), ("outcome", "ttft_missed")})] == 1


def asked_for(value: Any) -> Iterator[str]:
    """The queries of a board or of rules."""
    if isinstance(value, dict):
        yield from (one for key, one in value.items() if key in ("expr", "query") and isinstance(one, str))
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from asked_for(one)


def known() -> tuple[set[str], dict[str, set[str]]]:
    """Names of all samples there can be, and the labels of those there are."""
    names: set[str] = set()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(shown(busy())):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return names, labels


@pytest.mark.parametrize("path", ["grafana/tenfold.json", "prometheus/rules.yaml"])
def test_boards_and_alerts_ask_for_what_there_is(path: str) -> None:
    text = (DEPLOY / path).read_text()
    content = json.loads(text) if path.endswith("json") else yaml.safe_load(text)
    queries = list(asked_for(content))
    names, labels = known()
    recorded = set(re.findall(r"record: (\S+)", text))
    assert len(queries) > 5
    for query in queries:
        found = re.findall(r"((?:tenfold|vllm)[_:][\w:]+)(?:\{([^}]*)\})?", query)
        assert found or query == "prometheus", query
        for name, selector in found:
            assert name in names | recorded, name
            used = set(re.findall(r"(\w+)[!=]", selector)) - {"job", "instance"}
            assert used <= labels.get(name, set()), (name, used)


def test_the_board_has_every_panel_in_its_own_place() -> None:
    board = json.loads((DEPLOY / "grafana" / "tenfold.json").read_text())
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_every_name_is_in_the_docs() -> None:
    page = (DEPLOY.parent / "docs" / "observability.md").read_text()
    families = {family.name for family in text_string_to_metric_families(shown(busy()))}
    ours = {name for name in families if name.startswith("tenfold_") and not name.endswith("_created")}
    assert not {name for name in ours if f"`{name}" not in page}
