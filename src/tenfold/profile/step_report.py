"""Step profiles for programs and for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tenfold.ops.limits import MachineLimits
from tenfold.profile.steps import OpProfile, StepProfile
from tenfold.profile.verdict import verdict

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def as_json(
    steps: Sequence[StepProfile], limits: MachineLimits, backend: str, level_words: Sequence[str]
) -> dict[str, Any]:
    """Seconds, bytes and multiply-adds as they are; shares from 0 to 1."""
    return {
        "backend": backend,
        "level": level_words,
        "limits": {
            "memory_bytes_s": limits.memory,
            "cache_bytes_s": limits.cache,
            "cache_bytes": limits.cache_bytes,
            "macs_s": {kind: {"instructions": r.instructions, "rate": r.rate} for kind, r in limits.macs.items()},
        },
        "steps": [
            {
                "phase": step.shape.phase,
                "rows": step.shape.rows,
                "context": step.shape.context,
                "seconds": step.seconds,
                "limit_seconds": step.roof_seconds,
                "limit_share": step.roof_seconds / step.seconds,
                "tokens_per_second": step.tokens_per_second,
                "read_bytes_s": step.read_rate,
                "ops": [_op_json(op, step) for op in step.ops],
                "verdict": verdict(step, limits),
            }
            for step in steps
        ],
    }


def _op_json(op: OpProfile, step: StepProfile) -> dict[str, Any]:
    found: dict[str, Any] = {
        "op": op.op,
        "kernel": op.kernel,
        "seconds": op.seconds,
        "share": op.seconds / step.seconds,
    }
    if op.work is None or op.roof is None:
        return found
    return found | {
        "bytes": {
            "weights": op.work.weights,
            "kv_read": op.work.kv_read,
            "kv_written": op.work.kv_written,
            "activations": op.work.activations,
        },
        "macs": op.work.macs,
        "binds": op.roof.binds,
        "limit_seconds": op.roof.seconds,
        "limit_share": op.limit_share,
    }


def shown(steps: Sequence[StepProfile], limits: MachineLimits, backend: str, level_words: Sequence[str]) -> "Group":
    """The machine, then a table and its verdict per shape."""
    from rich.console import Group

    head = [backend, *level_words, _machine(limits), ""]
    parts: list[Any] = ["\n".join(head)]
    for step in steps:
        parts += [_table(step), "\n".join(verdict(step, limits)), ""]
    return Group(*parts)


def _machine(limits: MachineLimits) -> str:
    macs = ", ".join(f"{kind} {rate.rate / 1e9:,.0f} ({rate.instructions})" for kind, rate in limits.macs.items())
    cached = limits.cache_bytes >> 20
    return (
        f"Limits measured with {limits.threads} thread{'s' if limits.threads > 1 else ''}: "
        f"{limits.memory / 1e9:.0f} GB/s from memory, {limits.cache / 1e9:.0f} GB/s from {cached} MiB in cache; "
        f"GMAC/s: {macs}."
    )


def _table(step: StepProfile) -> "Table":
    from rich import box
    from rich.table import Table

    title = (
        f"{step.shape.title}: {1e3 * step.seconds:.2f} ms, {step.tokens_per_second:,.0f} tok/s, "
        f"bytes at {step.read_rate / 1e9:.0f} GB/s"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for name in ("op", "kernel"):
        table.add_column(name, no_wrap=name == "op")
    for name in ("ms", "share", "MB", "GMAC", "GB/s", "GMAC/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("binds")
    table.add_column("of limit", justify="right", no_wrap=True)
    for op in step.ops:
        table.add_row(op.op, op.kernel, *_cells(op, step))
    table.add_section()
    works = [op.work for op in step.ops if op.work is not None]
    moved, macs = sum(work.moved for work in works), sum(sum(work.macs.values()) for work in works)
    table.add_row("step", "", *_amounts(step.seconds, 1.0, moved, macs), "", _percent(step.roof_seconds / step.seconds))
    return table


def _cells(op: OpProfile, step: StepProfile) -> tuple[str, ...]:
    share = op.seconds / step.seconds
    if op.work is None or op.roof is None:
        return (f"{1e3 * op.seconds:.2f}", _percent(share), *[""] * 6)
    amounts = _amounts(op.seconds, share, op.work.moved, sum(op.work.macs.values()))
    return (*amounts, op.roof.binds, _percent(op.limit_share))


def _amounts(seconds: float, share: float, moved: int, macs: int) -> tuple[str, ...]:
    rates = (f"{moved / seconds / 1e9:.1f}", f"{macs / seconds / 1e9:,.0f}") if seconds else ("", "")
    return (f"{1e3 * seconds:.2f}", _percent(share), f"{moved / 1e6:,.1f}", f"{macs / 1e9:.2f}", *rates)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
