"""Pictures of reports, as SVG. Needs the extra ``plot``."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tenfold.core.errors import ConfigError
from tenfold.engine.inspection import StepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, BROWN, GREY, RED = "#1f5fa8", "#b0763a", "#8c8c8c", "#b03a3a"
_SIZE = (4.6, 3.2)  # inches, of a panel


def available() -> bool:
    """Whether there is something to draw with."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def distributions(report: dict[str, Any]) -> str:
    """What part of the requests had a TTFT, TPOT, E2E of so much or less, by kind."""
    figure, panels = _panels(3)
    for axes, (key, label) in zip(panels, (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT"), ("e2e_ms", "E2E")), strict=True):
        for kind, colour in zip(report["kinds"], (BLUE, BROWN, GREY, RED), strict=False):
            rows = [row for row in report["requests"] if row["kind"] == kind and "error" not in row]
            values = sorted(row[key] for row in rows if row[key])
            if values:
                axes.step(values, [(i + 1) / len(values) for i in range(len(values))], color=colour, label=kind)
        bound = report.get("slo", {}).get(key)
        if bound is not None:
            axes.axvline(bound, color="#222222", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_xlabel(f"{label}, ms")
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("part of the requests")
    panels[0].legend(fontsize=8)
    return _svg(figure)


def over_time(report: dict[str, Any]) -> str:
    """TTFT of each request by when it came, and what was refused or failed; requests under way."""
    figure, (times, busy) = _panels(2)
    rows = report["requests"]
    for good, colour, label in ((True, BLUE, "good"), (False, RED, "late")):
        mine = [row for row in rows if row["ttft_ms"] and "error" not in row and row.get("good", True) is good]
        if mine:
            times.plot([row["at_s"] for row in mine], [row["ttft_ms"] for row in mine], ".", color=colour, label=label)
    failed = [row["at_s"] for row in rows if "error" in row]
    if failed:
        low = min((row["ttft_ms"] for row in rows if row["ttft_ms"]), default=1.0)
        times.plot(failed, [low] * len(failed), "x", color=GREY, label="refused or failed")
    times.set_yscale("log")
    times.set_ylabel("TTFT, ms")
    times.legend(fontsize=8)
    events = [(row["at_s"], 1) for row in rows] + [(row["at_s"] + (row["e2e_ms"] or 0) / 1000, -1) for row in rows]
    at, now, count = [], [], 0
    for moment, change in sorted(events):
        count += change
        at.append(moment)
        now.append(count)
    busy.step(at, now, color=BLUE, where="post")
    busy.set_ylabel("requests under way")
    for axes in (times, busy):
        axes.set_xlabel("seconds")
    return _svg(figure)


def step_timeline(steps: Sequence[StepRecord]) -> str:
    """What the engine did, step by step: how long, tokens of prompts and of answers, who waits, KV blocks held."""
    figure, (times, tokens, queue) = _panels(3)
    start = steps[0].began
    at = [step.began - start for step in steps]
    for wanted, colour, label in ((False, BLUE, "decode only"), (True, BROWN, "with prompts")):
        mine = [(one, 1000 * step.seconds) for one, step in zip(at, steps, strict=True) if bool(step.prefill) is wanted]
        if mine:
            times.plot(*zip(*mine, strict=True), ".", markersize=2, color=colour, label=label)
    times.set_ylabel("a step, ms")
    times.set_yscale("log")
    times.legend(fontsize=8)
    tokens.plot(at, [step.prefill for step in steps], color=BROWN, linewidth=0.7, label="of prompts")
    tokens.plot(at, [step.decode for step in steps], color=BLUE, linewidth=0.9, label="of answers")
    tokens.set_ylabel("tokens per step")
    tokens.legend(fontsize=8)
    queue.step(at, [step.running for step in steps], where="post", color=BLUE, label="running")
    queue.step(at, [step.waiting for step in steps], where="post", color=RED, label="waiting")
    held = queue.twinx()
    held.plot(at, [step.held for step in steps], color=GREY, linewidth=0.8)
    held.set_ylabel("KV blocks held", color=GREY)
    queue.set_ylabel("requests")
    queue.legend(fontsize=8)
    for axes in (times, tokens, queue):
        axes.set_xlabel("seconds")
    return _svg(figure)


def against_rate(reports: Sequence[dict[str, Any]]) -> str:
    """TTFT, TPOT and, with bounds, goodput against the rate of arrivals."""
    bounded = "slo" in reports[0]
    rates = [report["rate"] or 0.0 for report in reports]
    figure, panels = _panels(4 if bounded else 2)
    for axes, key, label in ((panels[0], "ttft_ms", "TTFT"), (panels[1], "tpot_ms", "TPOT")):
        for p, colour in (("p50", GREY), ("p95", BLUE)):
            axes.plot(rates, [report["all"][key][p] for report in reports], "o-", color=colour, label=p)
        bound = reports[0].get("slo", {}).get(key)
        if bound is not None:
            axes.axhline(bound, color="#222222", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.set_ylabel(f"{label}, ms")
    panels[0].legend(fontsize=8)
    if bounded:
        panels[2].plot(rates, [report["goodput_req_s"] for report in reports], "o-", color=BLUE)
        panels[2].set_ylabel("good requests per second")
        panels[3].plot(rates, [report["attained"] for report in reports], "o-", color=BLUE)
        panels[3].set_ylabel("part that met the bounds")
        for axes in panels[2:]:
            axes.set_ylim(bottom=0)
    for axes in panels:
        axes.set_xlabel("requests per second")
    return _svg(figure)


def cost_against_bounds(points: Sequence[tuple[float, float, str]], best: Sequence[tuple[float, float]]) -> str:
    """What settings cost and attain (cost, part that met the bounds, kind), and the line of the best of them."""
    figure, (axes,) = _panels(1)
    kinds = list(dict.fromkeys(kind for _, _, kind in points))
    for kind, colour in zip(kinds, (BLUE, BROWN, GREY, RED) * len(kinds), strict=False):
        mine = [(cost, attained) for cost, attained, one in points if one == kind]
        axes.plot(*zip(*mine, strict=True), "o", color=colour, label=kind, alpha=0.6)
    axes.step(*zip(*best, strict=True), where="post", color="#222222", linewidth=1.0, label="the best")
    axes.set_xlabel("cost per hour")
    axes.set_ylabel("part that met the bounds")
    axes.legend(fontsize=8)
    return _svg(figure)


def _panels(count: int) -> "tuple[Figure, list[Axes]]":
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("pictures need matplotlib: pip install 'tenfold[plot]'") from None
    figure = Figure(figsize=(_SIZE[0] * count, _SIZE[1]), layout="constrained")
    panels = [figure.add_subplot(1, count, at + 1) for at in range(count)]
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _svg(figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
