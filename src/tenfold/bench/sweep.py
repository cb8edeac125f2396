"""Several rates in turn, and the greatest at which bounds are kept."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenfold.core.errors import ConfigError, EngineUnavailable
from tenfold.traffic.figures import percentile

if TYPE_CHECKING:
    from rich.table import Table

Run = Callable[[float], Awaitable[dict[str, Any]]]  # a rate's report

_NEAR = 1.1  # the search ends where what held and what did not are no further apart
_LEAST = 1 / 64  # of the first rate: below it nothing is tried,
_MOST = 1024.0  # nor above so many times it


@dataclass(frozen=True, slots=True)
class Found:
    """The greatest rate that held, and the least that did not; None where there was none in reach."""

    held: float | None
    missed: float | None
    reports: tuple[dict[str, Any], ...]  # by rate

    def words(self, attained: float) -> str:
        """What the search came to; where nothing held, what the lowest rate had."""
        if any("partial" in report for report in self.reports):
            return "the search ended early: nobody answers any more"
        if self.held is None:
            return f"the bounds are not kept even at {self.missed:.3g} requests/s: {_least(self.reports[0], attained)}"
        beyond = f"; at {self.missed:.3g} not any more" if self.missed is not None else ", the most that was tried"
        return f"{attained:.0%} meet the bounds up to {self.held:.3g} requests/s{beyond}"


def _least(report: dict[str, Any], attained: float) -> str:
    """What those requests had: the bounds that so many would have met, and what else went wrong."""
    answered = [row for row in report["requests"] if "error" not in row]
    told = []
    for name, key in (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms")):
        reached = percentile([row[key] for row in answered if row[key] is not None], 100 * attained)
        told.append(f"{name} p{attained * 100:.0f} " + ("-" if reached is None else f"{reached:,.0f} ms"))
    every = report["all"]
    counts = [
        f"{every[key]} {what}"
        for key, what in (("refused", "refused"), ("short_out", "answers too short"))
        if every[key]
    ]
    if every["errors"] > every["refused"]:
        counts.append(f"{every['errors'] - every['refused']} failed")
    return "there " + ", ".join([*told, *counts]) + f" of {every['n']}"


async def sweep(run: Run, rates: Sequence[float]) -> list[dict[str, Any]]:
    """A report for each rate, in their order; it ends early where the target is gone."""
    reports: list[dict[str, Any]] = []
    for rate in rates:
        if not await _next(run, rate, reports):
            break
    return reports


async def find_rate(run: Run, attained: float, start: float, most: float = float("inf")) -> Found:
    """Search for the greatest rate, up to ``most``, at which ``attained`` (0 to 1) of the requests meet their bounds.

    From ``start`` on the rate is doubled while it holds, or halved until it does; then the interval is halved, by
    ratio, until its ends are within a tenth of each other. Raises ConfigError where the numbers make no sense.
    """
    check_search(attained, start)
    reports: list[dict[str, Any]] = []
    held: float | None = None
    missed: float | None = None
    rate = min(start, most)
    while start * _LEAST <= rate <= start * _MOST:
        if not await _next(run, rate, reports):
            break
        if reports[-1]["attained"] >= attained:
            held = rate
        else:
            missed = rate
        if held is None:
            rate /= 2
        elif missed is None:
            if held >= most:
                break
            rate = min(2 * rate, most)
        elif missed / held <= _NEAR:
            break
        else:
            rate = (held * missed) ** 0.5
    return Found(held, missed, tuple(sorted(reports, key=lambda report: report["rate"] or 0.0)))


def check_search(attained: float, start: float) -> None:
    """Raise ConfigError where a search by these numbers makes no sense."""
    if not 0 < attained <= 1:
        raise ConfigError(
            f"--attain, the part of requests to meet --slo, must be above 0 and at most 1, got {attained:g}"
        )
    if not 0 < start < float("inf"):
        raise ConfigError(f"--rate, where the search begins, must be above 0, got {start:g}")


async def _next(run: Run, rate: float, reports: list[dict[str, Any]]) -> bool:
    """One more report; False where the target is gone. Raises EngineUnavailable where it never was there."""
    try:
        reports.append(await run(rate))
    except EngineUnavailable as error:
        if not reports:
            raise
        reports[-1]["partial"] = f"nobody answered at the next rate, {rate:.3g}: {error}"
    return "partial" not in reports[-1]


def table(reports: Sequence[dict[str, Any]]) -> "Table":
    """A line per rate."""
    from rich.markup import escape
    from rich.table import Table

    first = reports[0]
    shown = Table(title=escape(f"{first['workload']}, seed {first['seed']}\n{first['target']}"))
    bounded = "slo" in first
    columns = ["requests/s", "requests", "refused", "output tok/s", "TTFT p50", "p95, ms", "TPOT p50", "p95, ms"]
    for column in [*columns, *(["met the bounds", "good req/s"] if bounded else [])]:
        shown.add_column(column, justify="right")
    for report in reports:
        every = report["all"]
        cells = [f"{report['rate'] or 0:.3g}", str(every["n"]), str(every["refused"])]
        cells.append(f"{report['out_tok_s']:g}")
        for name in ("ttft_ms", "tpot_ms"):
            cells += ["-" if every[name][p] is None else f"{every[name][p]:,.4g}" for p in ("p50", "p95")]
        if bounded:
            cells += [f"{report['attained']:.1%}", f"{report['goodput_req_s']:g}"]
        shown.add_row(*cells)
    return shown
