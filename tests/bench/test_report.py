"""From times to figures."""

import io

from rich.console import Console

from tenfold.bench.load import Outcome, closed
from tenfold.bench.phases import decode_rate
from tenfold.bench.record import Record
from tenfold.bench.report import summary, table
from tenfold.core.clock import VirtualClock
from tenfold.traffic.figures import percentile


def record(kind: str, start: float, first: float, gap: float, tokens: int, wanted: int | None = None) -> Record:
    clock = VirtualClock(start)
    made = Record(kind, tokens if wanted is None else wanted, clock.now(), prompt_tokens=10)
    clock.advance(first)
    for at in range(tokens):
        if at:
            clock.advance(gap)
        made.output(clock.now())
    made.output_tokens = tokens
    return made.end(clock)


def test_percentiles() -> None:
    assert percentile([], 50) is None
    assert percentile([3.0], 99) == 3.0
    assert percentile(range(100), 50) == 50
    assert percentile(range(100), 95) == 95
    assert percentile([5, 1, 3], 50) == 3


def test_a_records_times() -> None:
    one = record("short", 100.0, 0.5, 0.25, 5)
    assert (one.ttft, one.tpot, one.e2e) == (0.5, 0.25, 1.5)
    assert one.gaps == [0.25] * 4
    assert record("short", 0.0, 0.5, 0.25, 1).tpot is None


def test_a_summary() -> None:
    failed = Record("short", 4, 0.0, error="503 down")
    failed.ended = 0.1
    records = (record("long", 0.0, 1.0, 0.125, 3), record("short", 0.0, 0.5, 0.25, 2, wanted=4), failed)
    report = summary(Outcome(closed("mixed", 3, 2), records, wall=2.0), "here")
    assert report["out_tok_s"] == 2.5
    assert report["total_tok_s"] == 12.5
    assert report["req_s"] == 1.0
    assert report["concurrency"] == 2
    assert report["all"]["errors"] == 1
    assert report["all"]["short_out"] == 1
    assert report["all"]["ttft_ms"] == {"p50": 1000.0, "p95": 1000.0, "p99": 1000.0}
    assert report["kinds"]["short"]["ttft_ms"]["p50"] == 500.0
    assert report["kinds"]["long"]["itl_ms"]["p99"] == 125.0
    assert report["first_error"] == "503 down"

    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(report))
    shown = console.export_text()
    for text in ("2.5 output tok/s", "errors: 1", "1,000", "long: 1"):
        assert text in shown


def test_decode_is_measured_where_all_sequences_decode() -> None:
    early = record("phase", 0.0, 1.0, 0.5, 9)  # tokens from 1 to 5
    late = record("phase", 0.0, 2.0, 0.5, 9)  # tokens from 2 to 6
    assert decode_rate([early, late]) == 4.0  # two sequences, two tokens per second each, from 2 to 5
    assert decode_rate([record("phase", 0.0, 1.0, 0.5, 1)]) == 0.0
