"""Two runs beside each other: ratios with confidence, and whether the second is worse.

Bootstrap (Efron, 1979): requests of each run are drawn again, with replacement, many times; the middle 95 % of the
ratios so found is the interval. A figure is worse where all of it is on the wrong side of what is tolerated.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tenfold.core.errors import ConfigError
from tenfold.traffic.figures import percentile

if TYPE_CHECKING:
    from rich.table import Table

_DRAWS = 1000
_WORK = 2_000_000  # requests drawn for a figure, at most
_OUTER = 0.025  # of the draws, on each side
_ENOUGH = 20  # answers: of fewer nothing is said to be sure
_TIMES = (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("E2E", "e2e_ms"))
_SAME = ("workload", "load", "n", "concurrency", "seed", "slo")  # what is to be the same in both

Requests = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both runs; ``low`` and ``high`` bound the ratio with 95 % confidence.

    ``after`` is None where only the first run has the figure. ``sure``: there are answers enough to judge.
    """

    name: str
    before: float
    after: float | None
    low: float
    high: float
    sure: bool = True
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        """After to before."""
        return self.after / self.before if self.after is not None else float("nan")

    def worse(self, tolerance: float) -> bool:
        """Whether it surely is, by more than ``tolerance`` (0.05: five per cent)."""
        if self.after is None:
            return True
        beyond = self.high < 1 - tolerance if self.more_is_better else self.low > 1 + tolerance
        return self.sure and beyond

    def better(self, tolerance: float) -> bool:
        """The reverse."""
        if self.after is None:
            return False
        return self.sure and (self.low > 1 + tolerance if self.more_is_better else self.high < 1 - tolerance)


def read_report(path: Path) -> dict[str, Any]:
    """What ``tenfold bench --output`` wrote. Raises ConfigError where it is not that."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no report of `tenfold bench`: {error}") from None
    rows = report.get("requests")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "e2e_ms" in row for row in rows):
        raise ConfigError(f"{path} is no report of a load of `tenfold bench`: it has no rows of requests")
    return report


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """In what the two loads differ: then so may their figures."""
    return [key for key in _SAME if before.get(key) != after.get(key)]


def compare(before: dict[str, Any], after: dict[str, Any], seed: int = 0) -> list[Change]:
    """Times, speed, the part that was answered and (where both had the same bounds) the part that met them.

    What only the second run has is left out. Requests that a partial run did not make count as not answered.
    """
    rng = random.Random(seed)
    runs = _all(before), _all(after)
    found = [_change(f"{label} p{p}", *runs, _percentile_of(key, p), rng) for label, key in _TIMES for p in (50, 95)]
    found.append(_change("tokens per second of a request", *runs, _tokens_per_second, rng, more_is_better=True))
    found.append(_change("part answered", *runs, _answered, rng, more_is_better=True))
    if before.get("slo") and before.get("slo") == after.get("slo"):
        found.append(_change("part that met the bounds", *runs, _attained, rng, more_is_better=True))
    return [change for change in found if change is not None]


def _all(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = report["requests"]
    missing = max(0, int(report.get("n", 0)) - len(rows))
    return rows + [{"error": "never made", "e2e_ms": None, "output_tokens": 0}] * missing


def _change(
    name: str,
    before: Requests,
    after: Requests,
    figure: Callable[[Requests], float | None],
    rng: random.Random,
    *,
    more_is_better: bool = False,
) -> Change | None:
    a, b = figure(before), figure(after)
    if not a:
        return None
    if b is None:
        return Change(name, a, None, 0.0, 0.0, more_is_better=more_is_better)
    ratios = []
    for _ in range(max(200, min(_DRAWS, _WORK // (len(before) + len(after))))):
        x, y = figure(rng.choices(before, k=len(before))), figure(rng.choices(after, k=len(after)))
        if x is not None and y is not None:
            ratios.append(y / x if x else float("inf") if y else 1.0)
    ratios.sort()
    low, high = ratios[int(_OUTER * len(ratios))], ratios[int((1 - _OUTER) * (len(ratios) - 1))]
    sure = min(len(before), len(after)) >= _ENOUGH
    return Change(name, a, b, low, high, sure, more_is_better)


def _percentile_of(key: str, p: int) -> Callable[[Requests], float | None]:
    return lambda rows: percentile([row[key] for row in rows if row.get(key) is not None and "error" not in row], p)


def _tokens_per_second(rows: Requests) -> float | None:
    """Tokens by the requests' own times, summed: what a user sees. Wall time cannot be drawn again."""
    answered = [row for row in rows if "error" not in row and row["e2e_ms"]]
    seconds = sum(row["e2e_ms"] for row in answered) / 1000
    return sum(row["output_tokens"] for row in answered) / seconds if seconds else None


def _answered(rows: Requests) -> float | None:
    return sum("error" not in row for row in rows) / len(rows)


def _attained(rows: Requests) -> float | None:
    return sum(bool(row.get("good")) for row in rows) / len(rows)


def as_json(changes: Sequence[Change], tolerance: float, differs: Sequence[str] = ()) -> dict[str, Any]:
    """All of it, and ``worse``: the names of what got worse. ``differs``: in what the loads do."""
    return {
        "tolerance": tolerance,
        "differs": list(differs),
        "worse": [change.name for change in changes if change.worse(tolerance)],
        "figures": {
            change.name: {
                "before": change.before,
                "after": change.after,
                "ratio": None if change.after is None else round(change.ratio, 4),
                "low": round(change.low, 4),
                "high": round(change.high, 4),
                "sure": change.sure,
            }
            for change in changes
        },
    }


def table(changes: Sequence[Change], tolerance: float, differs: Sequence[str] = ()) -> "Table":
    """A line per figure, with a verdict."""
    from rich.table import Table

    caption = f"95 % intervals; worse or better: by more than {tolerance:.0%}"
    if differs:
        caption += f"\nThe loads differ in: {', '.join(differs)}"
    if not all(change.sure for change in changes):
        caption += f"\nFewer than {_ENOUGH} requests: too few for a verdict"
    shown = Table(caption=caption)
    for column in ("", "before", "after", "ratio", "from", "to", ""):
        shown.add_column(column, justify="right" if column else "left")
    for change in changes:
        verdict = "worse" if change.worse(tolerance) else "better" if change.better(tolerance) else ""
        if change.after is None:
            shown.add_row(change.name, f"{change.before:,.4g}", "-", "-", "-", "-", verdict)
            continue
        ratios = (change.ratio, change.low, change.high)
        numbers = (change.before, change.after)
        shown.add_row(change.name, *(f"{n:,.4g}" for n in numbers), *(f"{n:.3f}" for n in ratios), verdict)
    return shown
