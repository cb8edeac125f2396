"""A plan for people and for programs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tenfold.bench import plots
from tenfold.bench.page import plan_page
from tenfold.core.slo import Slo
from tenfold.plan.search import Plan, pareto
from tenfold.plan.setting import Point

if TYPE_CHECKING:
    from rich.table import Table

_MILLION = 1e6


def words_of(plan: Plan, rate: float, attain: float) -> list[str]:
    """What was found, sentence by sentence."""
    capacity = ", ".join(f"{name} {rate:.3g}" for name, rate in plan.capacity.items())
    told = [f"One replica serves within the bounds, in requests per second: {capacity}."]
    chosen = plan.chosen
    if chosen is None:
        return [*told, f"Nothing that was tried keeps the bounds for {attain:.0%} of {rate:.3g} requests per second."]
    told.append(
        f"For {rate:.3g} requests per second: {chosen.setting.words}. {chosen.attained:.1%} meet the bounds, "
        f"{chosen.refused:.1%} are refused; busy {chosen.busy:.0%} of the time, KV memory used up to {chosen.held:.0%}."
    )
    if chosen.per_hour is not None:
        told.append(
            f"It costs {chosen.per_hour:.4g} an hour: {_money(chosen.per(chosen.tokens, _MILLION))} per million output "
            f"tokens, {_money(chosen.per(chosen.requests))} per request, {_money(chosen.per(chosen.good))} per request "
            "that met its bounds."
        )
    if plan.doubled is not None:
        cost = f", {plan.doubled.per_hour:.4g} an hour" if plan.doubled.per_hour is not None else ""
        told.append(f"Twice that traffic needs {plan.doubled.setting.words}{cost} ({plan.doubled.attained:.1%}).")
    else:
        told.append("Twice that traffic: nothing that was tried keeps the bounds.")
    return told


def as_json(plan: Plan, rate: float, attain: float, slo: Slo) -> dict[str, Any]:
    """All of it."""
    return {
        "rate": rate,
        "attain": attain,
        "slo": {"ttft_s": slo.ttft, "tpot_s": slo.tpot},
        "capacity_req_s": plan.capacity,
        "chosen": None if plan.chosen is None else plan.chosen.as_json(),
        "serve": None if plan.chosen is None else plan.chosen.setting.options(slo),
        "doubled": None if plan.doubled is None else plan.doubled.as_json(),
        "pareto": [point.as_json() for point in pareto(plan.points)],
        "tried": [point.as_json() for point in plan.points],
        "words": words_of(plan, rate, attain),
    }


COLUMNS = (
    "replicas",
    "settings",
    "requests/s",
    "met the bounds",
    "refused",
    "busy",
    "TTFT p95",
    "TPOT p95, ms",
    "an hour",
)


def rows_of(points: Sequence[Point], rate: float) -> list[list[str]]:
    """A line for each."""
    return [
        [
            f"{point.setting.replicas} × {point.setting.variant.name}",
            ", ".join(_settings(point)),
            f"{point.factor * rate:.3g}",
            f"{point.attained:.1%}",
            f"{point.refused:.1%}",
            f"{point.busy:.0%}",
            _number(point.ttft_p95),
            _number(point.tpot_p95),
            _money(point.per_hour),
        ]
        for point in points
    ]


def _settings(point: Point) -> list[str]:
    one = point.setting
    told = [one.profile, f"{one.max_step_tokens} tokens a step", f"{one.max_running} places"]
    return [*told, one.router] if one.replicas > 1 else told


def table(plan: Plan, rate: float, attain: float) -> "Table":
    """The best of each cost, and what was found."""
    from rich.table import Table

    best = pareto(plan.points)
    shown = Table(caption="\n".join(words_of(plan, rate, attain)), caption_justify="left")
    for column in COLUMNS:
        shown.add_column(column)
    marked = best if plan.chosen is None or plan.chosen in best else [*best, plan.chosen]
    for point, row in zip(marked, rows_of(marked, rate), strict=True):
        shown.add_row(*row, style="bold" if point is plan.chosen else None)
    return shown


def page(plan: Plan, rate: float, attain: float, about: str) -> str:
    """The same with a picture, and all that was tried."""
    mine = [point for point in plan.points if point.factor == 1.0]
    picture = None
    if plots.available() and mine:
        cost = {id(point): point.per_hour if point.per_hour is not None else point.setting.replicas for point in mine}
        picture = plots.cost_against_bounds(
            [(cost[id(point)], point.attained, point.setting.variant.name) for point in mine],
            [(cost[id(point)], point.attained) for point in pareto(plan.points)],
        )
    return plan_page("plan", about, words_of(plan, rate, attain), COLUMNS, rows_of(plan.points, rate), picture)


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
