"""Two runs: what is a difference and what is noise."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tenfold.bench.compare import as_json, compare, differences, read_report, table
from tenfold.core.errors import ConfigError


def run(seed: int, slower: float = 1.0, good: float = 0.9, count: int = 200) -> dict[str, Any]:
    draws = random.Random(seed)
    rows = []
    for _ in range(count):
        ttft, tpot = draws.lognormvariate(5, 0.5) * slower, draws.uniform(9, 11) * slower
        times = {"ttft_ms": ttft, "tpot_ms": tpot, "e2e_ms": ttft + 63 * tpot}
        rows.append({**times, "output_tokens": 64, "good": draws.random() < good})
    rows.append({"ttft_ms": None, "tpot_ms": None, "e2e_ms": 1.0, "output_tokens": 0, "error": "500", "good": False})
    return {"n": len(rows), "requests": rows, "slo": {"ttft_ms": 500.0, "tpot_ms": 20.0}}


def test_noise_is_no_difference() -> None:
    changes = compare(run(1), run(2))
    assert [change.name for change in changes][-1] == "part that met the bounds"
    assert len(changes) == 9
    assert as_json(changes, 0.05)["worse"] == []
    assert not any(change.better(0.05) for change in changes)
    assert all(change.low <= change.ratio <= change.high for change in changes)


def test_what_is_slower_is_worse_and_the_reverse_better() -> None:
    changes = compare(run(1), run(2, slower=1.3))
    worse = as_json(changes, 0.05)["worse"]
    assert {"TPOT p50", "TPOT p95", "E2E p50", "tokens per second of a request"} <= set(worse)
    assert "part that met the bounds" not in worse
    back = compare(run(2, slower=1.3), run(1))
    assert as_json(back, 0.05)["worse"] == []
    assert {"TPOT p50", "tokens per second of a request"} <= {change.name for change in back if change.better(0.05)}
    assert as_json(changes, 0.5)["worse"] == []


def test_fewer_that_met_their_bounds() -> None:
    assert as_json(compare(run(1), run(2, good=0.6)), 0.05)["worse"] == ["part that met the bounds"]


def test_what_one_of_them_has_not_is_left_out() -> None:
    single = {"requests": [{"ttft_ms": 5.0, "tpot_ms": None, "e2e_ms": 5.0, "output_tokens": 1}]}
    names = [change.name for change in compare(single, run(1))]
    assert names == ["TTFT p50", "TTFT p95", "E2E p50", "E2E p95", "tokens per second of a request", "part answered"]


def failing(report: dict[str, Any], every: int) -> dict[str, Any]:
    rows = [{**row, "error": "429"} if i % every == 0 else row for i, row in enumerate(report["requests"])]
    return {**report, "requests": rows}


def test_a_run_that_failed_is_worse() -> None:
    changes = compare(run(1), failing(run(1), 1))
    assert {"TTFT p50", "part answered"} <= set(as_json(changes, 0.05)["worse"])
    assert all(change.after is None or change.after == 0 for change in changes if "met" not in change.name)
    assert "part answered" in as_json(compare(run(1), failing(run(1), 2)), 0.05)["worse"]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table(changes, 0.05))
    assert "-" in console.export_text()


def test_what_a_partial_run_did_not_do_counts() -> None:
    whole = run(1)
    part = {**whole, "requests": whole["requests"][:50]}
    assert {"part answered", "part that met the bounds"} <= set(as_json(compare(whole, part), 0.05)["worse"])


def test_few_requests_give_no_verdict() -> None:
    changes = compare(run(1, count=5), run(2, slower=3.0, count=5))
    assert not any(change.sure for change in changes)
    assert as_json(changes, 0.05)["worse"] == []
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table(changes, 0.05, differences(run(1, count=5), run(1))))
    shown = console.export_text()
    assert "too few for a verdict" in shown
    assert "differ in: n" in shown


def test_a_table() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table(compare(run(1), run(2, slower=1.3)), 0.05))
    assert "worse" in console.export_text()


def test_files_that_are_no_reports(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for text in ("{", "[]", '{"requests": []}', '{"requests": [1]}', '{"requests": [{}]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="no report"):
            read_report(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_report(tmp_path / "none.json")
    path.write_text(json.dumps(run(1)))
    assert read_report(path) == run(1)
