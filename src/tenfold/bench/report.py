"""From records to figures: percentiles as DESIGN defines them, a JSON object, a table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tenfold.bench.load import Outcome
from tenfold.bench.record import Record
from tenfold.core.slo import NO_SLO, Slo
from tenfold.traffic.figures import PERCENTILES, milliseconds

if TYPE_CHECKING:
    from rich.table import Table

TIMES = (("ttft", "TTFT"), ("itl", "ITL"), ("tpot", "TPOT"), ("e2e", "E2E"))
_TENANTS = 20  # told apart at most, those with most requests


def summary(outcome: Outcome, target: str, slo: Slo = NO_SLO) -> dict[str, Any]:
    """All figures as a JSON object; times in milliseconds, rates per second of wall time.

    Errors are counted and left out of the percentiles; ``short_out`` counts answers with fewer tokens than asked for.
    With bounds, ``good`` counts the requests that met them: refused, failed and short ones did not. ``requests`` has a
    row for each, in order of their start, which ``compare`` draws from.
    """
    load, records, wall = outcome.load, sorted(outcome.records, key=lambda record: record.began), outcome.wall
    output = sum(record.output_tokens for record in records)
    prompt = sum(record.prompt_tokens for record in records)
    report: dict[str, Any] = {
        "target": target,
        "workload": load.workload,
        "load": dict(load.told),
        "n": len(load.work),
        "concurrency": load.users,
        "rate": None if load.rate is None else round(load.rate, 4),
        "seed": load.seed,
        "wall_s": round(wall, 3),
        "out_tok_s": round(output / wall, 1),
        "total_tok_s": round((output + prompt) / wall, 1),
        "req_s": round(sum(record.error is None for record in records) / wall, 3),
    }
    if slo.bounded:
        report["slo"] = {"ttft_ms": _milliseconds(slo.ttft), "tpot_ms": _milliseconds(slo.tpot)}
        report["attained"] = round(sum(record.good(slo) for record in records) / len(load.work), 4)
        report["goodput_req_s"] = round(sum(record.good(slo) for record in records) / wall, 3)
    if outcome.partial is not None:
        report["partial"] = outcome.partial
    report["all"] = _figures(records, slo)
    report["kinds"] = _apart(records, slo, [record.kind for record in records])
    if any(record.slo_class for record in records):
        report["classes"] = _apart(records, slo, [record.slo_class for record in records])
    if any(record.tenant for record in records):
        report["tenants"] = _apart(records, slo, [record.tenant for record in records])
    failed = [record.error for record in records if record.error is not None]
    if failed:
        report["first_error"] = failed[0]
    report["requests"] = [_row(record, records[0].began, slo) for record in records]
    return report


def _apart(records: Sequence[Record], slo: Slo, names: Sequence[str]) -> dict[str, Any]:
    groups: dict[str, list[Record]] = {}
    for record, name in zip(records, names, strict=True):
        groups.setdefault(name, []).append(record)
    shown = sorted(groups, key=lambda name: (-len(groups[name]), name))[:_TENANTS]
    return {name: _figures(groups[name], slo) for name in sorted(shown)}


def _figures(records: Sequence[Record], slo: Slo) -> dict[str, Any]:
    answered = [record for record in records if record.error is None]
    times: dict[str, list[float]] = {
        "ttft": [record.ttft for record in answered if record.ttft is not None],
        "itl": [gap for record in answered for gap in record.gaps],
        "tpot": [record.tpot for record in answered if record.tpot is not None],
        "e2e": [record.e2e for record in answered if record.e2e is not None],
    }
    figures: dict[str, Any] = {
        "n": len(records),
        "errors": len(records) - len(answered),
        "refused": sum(record.refused for record in records),
        "short_out": sum(record.output_tokens < record.wanted for record in answered),
    }
    if slo.bounded:
        figures["good"] = sum(record.good(slo) for record in records)
    for name, values in times.items():
        figures[f"{name}_ms"] = milliseconds(values)
    return figures


def _row(record: Record, start: float, slo: Slo) -> dict[str, Any]:
    row: dict[str, Any] = {
        "at_s": round(record.began - start, 4),
        "kind": record.kind,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "ttft_ms": _milliseconds(record.ttft),
        "tpot_ms": _milliseconds(record.tpot),
        "e2e_ms": _milliseconds(record.e2e),
    }
    if record.slo_class:
        row["slo_class"] = record.slo_class
    if record.tenant:
        row["tenant"] = record.tenant
    if slo.bounded:
        row["good"] = record.good(slo)
    if record.error is not None:
        row["error"] = record.error
    return row


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def how(report: Mapping[str, Any]) -> str:
    """The load in a few words."""
    if report["concurrency"] is not None:
        return f"{report['concurrency']} users"
    return f"{report['rate']:.3g} requests/s" if report["rate"] is not None else "all at once"


def table(report: dict[str, Any]) -> "Table":
    """The report for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    caption = (
        f"{report['out_tok_s']:g} output tok/s   {report['total_tok_s']:g} total tok/s   "
        f"{report['req_s']:g} req/s   {report['wall_s']:g} s"
    )
    if "slo" in report:
        caption += f"\n{report['attained']:.1%} met the bounds: {report['goodput_req_s']:g} good req/s"
    if "first_error" in report:
        caption += f"\nfirst error: {report['first_error']}"
    if "partial" in report:
        caption += f"\nPARTIAL: {report['partial']}"
    title = f"{report['workload']}, {report['n']} requests, {how(report)}, seed {report['seed']}\n{report['target']}"
    shown = Table(title=escape(title), caption=escape(caption))
    shown.add_column("requests")
    for name in ("ms", *(f"p{p}" for p in PERCENTILES)):
        shown.add_column(name, justify="right")
    groups = dict(report["kinds"]) if len(report["kinds"]) > 1 else {}
    groups |= {f"class {name or '-'}": row for name, row in report.get("classes", {}).items()}
    groups |= {f"tenant {name or '-'}": row for name, row in report.get("tenants", {}).items()}
    for name, row in {**groups, "all": report["all"]}.items():
        about = [escape(f"{name}: {row['n']}"), f"errors: {row['errors']}", f"short answers: {row['short_out']}", ""]
        if row["refused"]:
            about[1] += f" ({row['refused']} refused)"
        if "good" in row:
            about[3] = f"good: {row['good']}"
        for (key, label), note in zip(TIMES, about, strict=True):
            cells = [_cell(row[f"{key}_ms"][f"p{p}"]) for p in PERCENTILES]
            shown.add_row(note, label, *cells, end_section=label == "E2E")
    return shown


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
