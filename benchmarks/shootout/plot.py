"""A run as a picture: a panel per row and metric, a bar per system, whiskers from the least to the greatest round."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.shootout.record import Run
from benchmarks.shootout.report import METRICS, OURS, Line, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_OURS_COLOUR = "#1f5fa8"
_PEER_COLOURS = ("#8c8c8c", "#b0763a", "#d6a56b", "#6a9a5b", "#8f6bae")
_INK = "#222222"


def draw(run: Run, rows: Sequence[str], path: Path) -> None:
    """Write the picture to ``path`` (PNG). Raises ImportError without matplotlib, the ``plot`` extra."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = lines(run, rows)
    if not shown:
        return
    systems = [system for system in run.systems if system.missing is None]
    peers = [system.name for system in systems if system.name != OURS]
    colours = {name: _PEER_COLOURS[at % len(_PEER_COLOURS)] for at, name in enumerate(peers)} | {OURS: _OURS_COLOUR}
    height = -(-len(shown) // _COLUMNS)
    figure, grid = pyplot.subplots(
        height, _COLUMNS, figsize=(3.4 * _COLUMNS, 2.7 * height + 0.9), squeeze=False, facecolor="white"
    )
    panels = list(grid.flat)
    for axes, line in zip(panels, shown, strict=False):
        _panel(axes, line, [system.name for system in systems], colours)
    for axes in panels[len(shown) :]:
        axes.axis("off")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[system.name]) for system in systems]
    figure.legend(
        handles, [system.label for system in systems], loc="upper center", ncols=min(5, len(systems)), frameon=False
    )
    figure.text(0.01, 0.005, f"{run.model}; {run.machine}; {run.date}, commit {run.commit}", fontsize=7, color=_INK)
    figure.tight_layout(rect=(0, 0.02, 1, 1 - 0.45 / (2.7 * height + 0.9)))
    figure.savefig(path, dpi=130, facecolor="white")
    pyplot.close(figure)


def _panel(axes: "Axes", line: Line, systems: Sequence[str], colours: dict[str, str]) -> None:
    here = [name for name in systems if name in line.spreads]
    spreads = [line.spreads[name] for name in here]
    medians = [one.median for one in spreads]
    below = [one.median - one.least for one in spreads]
    above = [one.greatest - one.median for one in spreads]
    places = [systems.index(name) for name in here]
    axes.bar(places, medians, color=[colours[name] for name in here], width=0.75)
    axes.errorbar(places, medians, yerr=[below, above], fmt="none", ecolor=_INK, elinewidth=0.9, capsize=2)
    for place, one in zip(places, spreads, strict=True):
        text = f"{one.median:,.0f}" if one.median >= 100 else f"{one.median:.3g}"
        above_whisker = (place, one.greatest)
        axes.annotate(text, above_whisker, (0, 4), textcoords="offset points", ha="center", fontsize=8, color=_INK)
    better = "more is better" if METRICS[line.metric] else "less is better"
    ratio = "" if line.ratio is None else f"  ({line.ratio.median:.2f}×)"
    axes.set_title(f"{line.row}{ratio}", fontsize=10, color=_INK)
    axes.set_ylabel(f"{line.metric}\n{better}", fontsize=8, color=_INK)
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(systems) - 0.4)
    axes.set_ylim(0, 1.18 * max(one.greatest for one in spreads))
    axes.tick_params(labelsize=8, colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
