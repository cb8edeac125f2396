"""From records to figures: percentiles as DESIGN defines them, a JSON object, a table."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tenfold.bench.load import Outcome
from tenfold.bench.record import Record

if TYPE_CHECKING:
    from rich.table import Table

PERCENTILES = (50, 95, 99)
_TIMES = (("ttft", "TTFT"), ("itl", "ITL"), ("tpot", "TPOT"), ("e2e", "E2E"))


def percentile(values: Iterable[float], p: float) -> float | None:
    """The value at rank floor(p/100 x count), as load clients commonly take it; None of no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))] if ordered else None


def summary(outcome: Outcome, target: str) -> dict[str, Any]:
    """All figures as a JSON object; times in milliseconds, rates per second of wall time.

    Errors are counted and left out of the percentiles; ``short_out`` counts answers with fewer tokens than asked for.
    """
    load, records, wall = outcome.load, outcome.records, outcome.wall
    output = sum(record.output_tokens for record in records)
    prompt = sum(record.prompt_tokens for record in records)
    report: dict[str, Any] = {
        "target": target,
        "workload": load.workload,
        "n": load.count,
        "concurrency": load.users if load.rate is None else None,
        "rate": load.rate,
        "seed": load.seed,
        "wall_s": round(wall, 3),
        "out_tok_s": round(output / wall, 1),
        "total_tok_s": round((output + prompt) / wall, 1),
        "req_s": round(len(records) / wall, 3),
        "all": _figures(records),
    }
    for kind in sorted({record.kind for record in records}):
        report[kind] = _figures([record for record in records if record.kind == kind])
    failed = [record.error for record in records if record.error is not None]
    if failed:
        report["first_error"] = failed[0]
    return report


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    good = [record for record in records if record.error is None]
    times: dict[str, list[float]] = {
        "ttft": [record.ttft for record in good if record.ttft is not None],
        "itl": [gap for record in good for gap in record.gaps],
        "tpot": [record.tpot for record in good if record.tpot is not None],
        "e2e": [record.e2e for record in good if record.e2e is not None],
    }
    figures: dict[str, Any] = {
        "n": len(records),
        "errors": len(records) - len(good),
        "short_out": sum(record.output_tokens < record.wanted for record in good),
    }
    for name, values in times.items():
        found = {f"p{p}": percentile(values, p) for p in PERCENTILES}
        figures[f"{name}_ms"] = {p: None if v is None else round(v * 1000, 2) for p, v in found.items()}
    return figures


def table(report: dict[str, Any]) -> "Table":
    """The report for a terminal."""
    from rich.table import Table

    how = f"{report['concurrency']} users" if report["rate"] is None else f"{report['rate']:g} requests/s"
    shown = Table(
        title=f"{report['workload']}, {report['n']} requests, {how}, seed {report['seed']}\n{report['target']}",
        caption=(
            f"{report['out_tok_s']:g} output tok/s   {report['total_tok_s']:g} total tok/s   "
            f"{report['req_s']:g} req/s   {report['wall_s']:g} s"
        ),
    )
    shown.add_column("requests")
    for name in ("ms", *(f"p{p}" for p in PERCENTILES)):
        shown.add_column(name, justify="right")
    kinds = [key for key, value in report.items() if isinstance(value, dict) and key != "all"]
    for kind in [*kinds, "all"] if len(kinds) > 1 else ["all"]:
        row = report[kind]
        about = [f"{kind}: {row['n']}", f"errors: {row['errors']}", f"short answers: {row['short_out']}", ""]
        for (name, label), note in zip(_TIMES, about, strict=True):
            cells = [_cell(row[f"{name}_ms"][f"p{p}"]) for p in PERCENTILES]
            shown.add_row(note, label, *cells, end_section=label == "E2E")
    return shown


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
