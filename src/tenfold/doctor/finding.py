"""What a look came to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from rich.table import Table

Level = Literal["problem", "note", "fine"]
_MARKS = {"problem": "[bold red]problem[/]", "note": "note", "fine": "[green]fine[/]"}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is for programs; ``words`` say what is so, with figures; ``advice`` what to change, the best first.

    ``weight``: of the time that users wait, what part this takes, or its like: larger ones come first.
    """

    name: str
    level: Level
    words: str
    advice: tuple[str, ...] = ()
    evidence: dict[str, Any] = {}
    weight: float = 0.0


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Problems first, the heaviest at the top."""
    levels = ("problem", "note", "fine")
    return sorted(findings, key=lambda one: (levels.index(one.level), -one.weight))


def of_the_past(findings: Sequence[Finding], seconds: float) -> list[Finding]:
    """What was found in steps from before: nothing of it is a problem of now."""
    words = f"Nothing was computed in these {seconds:.3g} seconds: what is said of steps is from before."
    told = [msgspec.structs.replace(one, level="note") if one.level == "problem" else one for one in findings]
    return [*told, Finding(name="past", level="note", words=words)]


def table(title: str, findings: Sequence[Finding]) -> "Table":
    """For a terminal."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=escape(title), show_lines=True)
    for column in ("", "what", "what to change"):
        shown.add_column(column)
    for one in findings:
        advice = "\n".join(f"· {escape(text)}" for text in one.advice)
        shown.add_row(_MARKS[one.level], escape(one.words), advice)
    return shown
