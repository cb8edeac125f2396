"""Several rates, and the search for the greatest."""

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console

from tenfold.bench.sweep import Found, find_rate, sweep, table
from tenfold.core.errors import ConfigError, EngineUnavailable


def report(rate: float, attained: float, **more: Any) -> dict[str, Any]:
    times = {"p50": 10.0, "p95": 20.0, "p99": None}
    return {
        "target": "scripted",
        "workload": "chat",
        "seed": 7,
        "load": {"rate": rate},
        "rate": rate,
        "out_tok_s": 100.0,
        "slo": {"ttft_ms": 1.0, "tpot_ms": None},
        "attained": attained,
        "goodput_req_s": rate * attained,
        "all": {"n": 9, "refused": 0, "errors": 0, "short_out": 0, "ttft_ms": times, "tpot_ms": times},
        "kinds": {},
        "requests": [{"ttft_ms": 1000.0 * rate, "tpot_ms": 5.0}],
        **more,
    }


class Machine:
    """Keeps bounds up to a rate."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.tried: list[float] = []

    async def run(self, rate: float) -> dict[str, Any]:
        self.tried.append(rate)
        return report(rate, 1.0 if rate <= self.most else 0.5)


@pytest.mark.parametrize(("most", "start"), [(5.3, 1.0), (5.3, 64.0), (1.0, 1.0), (0.3, 1.0)])
def test_the_greatest_rate_is_found(most: float, start: float) -> None:
    machine = Machine(most)
    found = asyncio.run(find_rate(machine.run, 0.9, start))
    assert found.held is not None
    assert found.missed is not None
    assert found.held <= most < found.missed <= 1.1 * found.held
    assert len(machine.tried) < 14
    assert [one["rate"] for one in found.reports] == sorted(machine.tried)
    assert f"{found.held:.3g} requests/s" in found.words(0.9)


def test_where_no_rate_keeps_the_bounds_the_best_there_is_is_told() -> None:
    found = asyncio.run(find_rate(Machine(0.0).run, 0.9, 1.0))
    assert found.held is None
    assert "not kept even at 0.0156 requests/s" in found.words(0.9)
    assert "TTFT p90 16 ms, TPOT p90 5 ms of 9" in found.words(0.9)


def test_where_every_rate_keeps_them() -> None:
    found = asyncio.run(find_rate(Machine(1e9).run, 0.9, 1.0))
    assert (found.held, found.missed) == (1024.0, None)
    assert "the most that was tried" in found.words(0.9)


def test_a_search_has_an_end_where_no_more_can_be_had() -> None:
    machine = Machine(1e9)
    found = asyncio.run(find_rate(machine.run, 0.9, 1.0, most=5.0))
    assert machine.tried == [1.0, 2.0, 4.0, 5.0]
    assert (found.held, found.missed) == (5.0, None)


def test_what_else_went_wrong_is_told() -> None:
    async def run(rate: float) -> dict[str, Any]:
        made = report(rate, 0.0, requests=[{"error": "429", "ttft_ms": None, "tpot_ms": None}])
        made["all"] |= {"refused": 4, "errors": 6, "short_out": 1}
        return made

    words = asyncio.run(find_rate(run, 0.9, 1.0)).words(0.9)
    assert "TTFT p90 -, TPOT p90 -, 4 refused, 1 answers too short, 2 failed of 9" in words


def test_what_was_measured_before_the_target_went_is_kept() -> None:
    async def run(rate: float) -> dict[str, Any]:
        if rate > 2:
            raise EngineUnavailable("the first request failed")
        return report(rate, 1.0)

    reports = asyncio.run(sweep(run, [1.0, 2.0, 3.0, 4.0]))
    assert [one["rate"] for one in reports] == [1.0, 2.0]
    assert "first request failed" in reports[1]["partial"]
    with pytest.raises(EngineUnavailable):
        asyncio.run(sweep(run, [3.0]))


def test_a_target_that_is_gone_ends_both() -> None:
    async def run(rate: float) -> dict[str, Any]:
        return report(rate, 0.0, partial="nobody answered") if rate > 1 else report(rate, 1.0)

    assert len(asyncio.run(sweep(run, [1.0, 2.0, 3.0]))) == 2
    found = asyncio.run(find_rate(run, 0.9, 1.0))
    assert len(found.reports) == 2
    assert "nobody answers" in found.words(0.9)


@pytest.mark.parametrize(("attained", "start"), [(0.0, 1.0), (1.1, 1.0), (0.9, 0.0), (0.9, float("inf"))])
def test_searches_that_make_no_sense(attained: float, start: float) -> None:
    with pytest.raises(ConfigError):
        asyncio.run(find_rate(Machine(1.0).run, attained, start))


def test_a_table() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(table([report(1.0, 1.0), report(2.0, 0.5)]))
    shown = console.export_text()
    assert "100.0%" in shown
    assert "50.0%" in shown
    assert isinstance(Found(1.0, 2.0, ()).words(0.9), str)
