"""The engine's share for programs and for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tenfold.profile.engine import MEANING, PARTS, EngineShare

if TYPE_CHECKING:
    from rich.table import Table


def as_json(shares: Sequence[EngineShare], backend: str) -> dict[str, Any]:
    """Microseconds per step and shares, by batch."""
    return {
        "backend": backend,
        "decode": [
            {
                "batch": share.batch,
                "steps": share.steps,
                "step_us": 1e6 * share.seconds,
                "python_share": share.python,
                "client_cpu_us": 1e6 * share.client,
                "parts": {
                    part: {"us": 1e6 * seconds, "share": seconds / share.seconds}
                    for part, seconds in share.parts.items()
                },
            }
            for share in shares
        ],
    }


def table(shares: Sequence[EngineShare], backend: str) -> "Table":
    """A column pair per batch."""
    from rich import box
    from rich.table import Table

    title = f"A decode step of the engine, part by part\n{backend}"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    shown.add_column("part")
    for share in shares:
        shown.add_column(f"batch {share.batch}, µs", justify="right")
        shown.add_column("share", justify="right")
    shown.add_column("what it is")
    for part in PARTS:
        cells = [_cells(share.parts[part], share) for share in shares]
        shown.add_row(part, *(cell for pair in cells for cell in pair), MEANING[part])
    shown.add_section()
    totals = [(f"{1e6 * share.seconds:,.0f}", "100.0 %") for share in shares]
    shown.add_row("step", *(cell for pair in totals for cell in pair), "the loop's own time")
    python = [_cells(share.seconds * share.python, share) for share in shares]
    shown.add_row("outside forward", *(cell for pair in python for cell in pair), "Python's share")
    client = [_cells(share.client, share) for share in shares]
    shown.add_row(
        "client", *(cell for pair in client for cell in pair), "CPU time of the client's process, beside the loop"
    )
    return shown


def _cells(seconds: float, share: EngineShare) -> tuple[str, str]:
    return f"{1e6 * seconds:,.0f}", f"{seconds / share.seconds:.1%}".replace("%", " %")
