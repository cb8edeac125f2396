"""The engine's own counters and gauges, as a Prometheus collector."""

from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tenfold.core.request import EngineInfo, EngineStats
from tenfold.engine.client import Health, State
from tenfold.observe.requests import cost_of


class EngineCollector(Collector):
    """Shows the latest report it was given. Counters start anew when the engine restarts, as Prometheus expects.

    ``price`` is that of an hour of the machine.
    """

    def __init__(self, price: float | None = None) -> None:
        self._price = price
        self._latest: tuple[Health, EngineStats | None, EngineInfo | None, str] | None = None

    def update(self, health: Health, stats: EngineStats | None, info: EngineInfo | None, version: str) -> None:
        """Show these from now on; without ``stats`` only the engine's state is known."""
        self._latest = (health, stats, info, version)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        if self._latest is None:
            return
        health, stats, info, version = self._latest
        yield from _state(health)
        if info is not None:
            about = GaugeMetricFamily(
                "tenfold_model_info", "What is served, and on what", labels=("model", "backend", "version")
            )
            about.add_metric((info.model, info.backend, version), 1)
            yield about
        if stats is not None:
            yield from _gauges(stats)
            yield from _counters(stats)
            yield from _bill(stats, self._price)


def _state(health: Health) -> Iterator[Metric]:
    state = GaugeMetricFamily("tenfold_engine_state", "1 for the state the engine is in", labels=("state",))
    for name in get_args(State):
        state.add_metric((name,), float(name == health.state))
    yield state
    yield CounterMetricFamily("tenfold_engine_restarts", "Times the engine was restarted", value=health.restarts)
    yield GaugeMetricFamily(
        "tenfold_engine_progress_age_seconds", "Since the engine last showed progress", value=health.progress_age
    )


def _gauges(stats: EngineStats) -> Iterator[Metric]:
    usage = stats.blocks_held / stats.blocks if stats.blocks else 0.0
    yield GaugeMetricFamily("tenfold_num_requests_running", "Sequences in the running batch", value=stats.running)
    yield GaugeMetricFamily("tenfold_num_requests_waiting", "Sequences in the queue", value=stats.waiting)
    waiting = GaugeMetricFamily("tenfold_num_requests_waiting_by_class", "The same, by class", labels=("slo_class",))
    for name, count in stats.waiting_by_class.items():
        waiting.add_metric((name,), count)
    yield waiting
    yield GaugeMetricFamily("tenfold_kv_cache_usage_perc", "KV blocks held, 1 means all of them", value=usage)
    blocks = GaugeMetricFamily("tenfold_kv_blocks", "KV blocks by state", labels=("state",))
    for name, count in (("free", stats.blocks_free), ("cached", stats.blocks_cached), ("held", stats.blocks_held)):
        blocks.add_metric((name,), count)
    yield blocks
    if stats.step_cost_error is not None:
        yield GaugeMetricFamily(
            "tenfold_step_cost_error_ratio",
            "Median relative error of the last steps' predicted seconds",
            value=stats.step_cost_error,
        )
    yield GaugeMetricFamily(
        "tenfold_step_cost_drift_ratio", "How many times as long as calibrated steps take", value=stats.step_cost_drift
    )


def _counters(stats: EngineStats) -> Iterator[Metric]:
    for name, text, value in (
        ("engine_steps", "Steps of the engine", stats.steps_total),
        ("engine_step_seconds", "Time spent in steps", stats.step_seconds_total),
        ("engine_prompt_tokens", "Prompt tokens computed, prefix hits not counted", stats.prompt_tokens_total),
        ("engine_generation_tokens", "Tokens sampled", stats.generated_tokens_total),
        ("prefix_cache_hits", "Prompt tokens found in the prefix cache", stats.cached_tokens_total),
        (
            "prefix_cache_queries",
            "Prompt tokens looked up in the prefix cache",
            stats.cached_tokens_total + stats.prompt_tokens_total,
        ),
        ("engine_busy_seconds", "What all steps took, with what was between them", stats.busy_seconds_total),
        (
            "engine_billed_seconds",
            "The part of that of samples that have ended",
            sum(sum(account.values()) for account in stats.billed_seconds_total.values()),
        ),
    ):
        yield CounterMetricFamily(f"tenfold_{name}", text, value=value)
    drafted, accepted = stats.draft_tokens_total, stats.accepted_tokens_total
    for name, text, label, counts in (
        ("num_preemptions", "Sequences that lost their place, by reason", "reason", stats.preemptions_total),
        ("requests_refused", "Requests answered with 429, by reason", "reason", stats.refused_total),
        ("engine_finished", "Samples ended in the engine, by reason", "finished_reason", stats.finished_total),
        ("spec_decode_num_draft_tokens", "Tokens drafted, by who proposed them", "proposer", drafted),
        ("spec_decode_num_accepted_tokens", "Drafted tokens that were right, likewise", "proposer", accepted),
    ):
        family = CounterMetricFamily(f"tenfold_{name}", text, labels=(label,))
        for one, count in counts.items():
            family.add_metric((one,), count)
        yield family
    seconds = CounterMetricFamily(
        "tenfold_spec_decode_seconds",
        "Predicted: that steps took longer for drafted tokens (spent), and that accepted ones saved",
        labels=("kind",),
    )
    seconds.add_metric(("spent",), stats.draft_seconds_total)
    seconds.add_metric(("saved",), stats.saved_seconds_total)
    yield seconds


def _bill(stats: EngineStats, price: float | None) -> Iterator[Metric]:
    """By class and tenant; from the engine, which also knows those whose clients left."""
    labels = ("slo_class", "tenant")
    seconds = CounterMetricFamily(
        "tenfold_request_machine_seconds", "What ended samples used of the engine's busy seconds", labels=labels
    )
    costs = CounterMetricFamily("tenfold_request_cost", "What that cost, at the price per hour", labels=labels)
    for slo_class, account in stats.billed_seconds_total.items():
        for tenant, used in account.items():
            seconds.add_metric((slo_class, tenant), used)
            if (cost := cost_of(used, price)) is not None:
                costs.add_metric((slo_class, tenant), cost)
    yield seconds
    if price is not None:
        yield costs
