"""From a run to a table: median, least and greatest of the rounds, and Tenfold's ratio to the best peer."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.shootout.record import Measurement, Run

OURS = "tenfold"
DISTURBED = 0.1  # a share of the machine that others take
# Metric → whether more is better. A row has one of these or several.
METRICS = {
    "tok/s": True,
    "output tok/s": True,
    "TTFT p95, s": False,
    "TPOT p50, ms": False,
    "first token, s": False,
    "memory, MB": False,
    "memory filled, MB": False,
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the rounds."""

    median: float
    least: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Line:
    """A row's metric over all systems.

    ``ratio``: per round, ours to the best peer's (inverted where less is better: above 1 is always ours),
    then the spread of these, over the rounds in which every system has a figure, or of the medians where no
    round is whole; None without us or without a peer. ``best`` is the peer with the best median.
    """

    row: str
    metric: str
    spreads: dict[str, Spread]
    ratio: Spread | None
    best: str | None


def spread(values: Iterable[float]) -> Spread:
    """Median, least and greatest of at least one value."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def lines(run: Run, rows: Sequence[str]) -> list[Line]:
    """One line for every row and metric that was measured, in the order of ``rows``."""
    return [line for row in rows for metric in METRICS if (line := _line(run, row, metric)) is not None]


def differing_work(run: Run) -> list[str]:
    """A sentence for every round of a row whose systems did not all handle equally many tokens."""
    found = []
    for row, number in dict.fromkeys((m.row, m.round) for m in run.measurements):
        work: dict[tuple[int, int], list[str]] = {}
        for m in run.measurements:
            if (m.row, m.round) == (row, number) and m.error is None:
                work.setdefault((m.prompt_tokens, m.output_tokens), []).append(m.system)
        if len(work) > 1:
            parts = "; ".join(f"{', '.join(who)}: {p} in, {o} out" for (p, o), who in work.items())
            found.append(f"{row}, round {number + 1}: {parts}")
    return found


def failures(run: Run) -> list[str]:
    """A sentence for every measurement that failed."""
    return [f"{m.row}, round {m.round + 1}, {m.system}: {m.error}" for m in run.measurements if m.error is not None]


def markdown(run: Run, rows: Sequence[str]) -> str:
    """The report: what ran, the table, what to doubt."""
    present = [system for system in run.systems if system.missing is None]
    return "\n".join([*_head(run), *_table(run, rows, [s.name for s in present]), *_systems(run), *_doubts(run), ""])


def undisturbed(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Without the measurements during which others took more than ``DISTURBED`` of the machine.

    Where a system has no other for a row, they stay. Failed ones are left out.
    """
    good = [m for m in measurements if m.error is None]
    quiet = {(m.row, m.system) for m in good if m.others <= DISTURBED}
    return [m for m in good if m.others <= DISTURBED or (m.row, m.system) not in quiet]


def _line(run: Run, row: str, metric: str) -> Line | None:
    rounds: dict[int, dict[str, float]] = {}
    for m in undisturbed(run.measurements):
        if m.row == row and metric in m.values:
            rounds.setdefault(m.round, {})[m.system] = m.values[metric]
    if not rounds:
        return None
    more = METRICS[metric]
    systems = dict.fromkeys(system for values in rounds.values() for system in values)
    spreads = {system: spread(values[system] for values in rounds.values() if system in values) for system in systems}
    medians = {system: found.median for system, found in spreads.items()}
    whole = [values for values in rounds.values() if len(values) == len(systems)]
    ratios = [ratio for values in whole or [medians] if (ratio := our_ratio(values, more=more)) is not None]
    peers = [system for system in medians if system != OURS]
    best = (max if more else min)(peers, key=medians.__getitem__) if peers else None
    return Line(row, metric, spreads, spread(ratios) if ratios else None, best)


def our_ratio(values: Mapping[str, float], *, more: bool) -> float | None:
    """Our value to the best peer's, by system; above 1 is ours. None without both."""
    peers = [value for system, value in values.items() if system != OURS]
    if OURS not in values or not peers:
        return None
    return values[OURS] / max(peers) if more else min(peers) / values[OURS]


def _head(run: Run) -> Iterator[str]:
    rounds = len({m.round for m in run.measurements})
    yield f"# {run.model}: Tenfold and its peers"
    yield ""
    yield f"{run.date}, commit {run.commit}. {run.machine}. `{run.command}`"
    yield ""
    yield f"Up to {rounds} rounds; in each, every system ran every row once, in turn. Median (least – greatest) of the"
    yield "rounds; *ratio*: Tenfold to the best peer of the same round (above 1: Tenfold is better), likewise."
    yield ""


def _table(run: Run, rows: Sequence[str], systems: Sequence[str]) -> Iterator[str]:
    labels = {system.name: system.label for system in run.systems}
    yield f"| row | {' | '.join(labels[name] for name in systems)} | ratio | best peer |"
    yield f"|---|{'---|' * (len(systems) + 2)}"
    for line in lines(run, rows):
        cells = [_cell(line.spreads.get(name)) for name in systems]
        ratio = _cell(line.ratio, bold=True)
        best = labels[line.best] if line.best else "–"
        yield f"| {line.row}: {line.metric} | {' | '.join(cells)} | {ratio} | {best} |"
    yield ""


def _systems(run: Run) -> Iterator[str]:
    for system in run.systems:
        if system.missing is not None:
            yield f"- **{system.label}**: absent, {system.missing}"
            continue
        agreement = "" if system.agreement is None else f" Golden tokens: {system.agreement:.0%} agree."
        yield f"- **{system.label}**: {system.flags}.{agreement}"
    yield ""


def _doubts(run: Run) -> Iterator[str]:
    differing, failed = differing_work(run), failures(run)
    if differing:
        yield "**Not the same work** (tokens as each system counts them):"
        yield from (f"- {sentence}" for sentence in differing)
    else:
        yield "Same work: in every round of every row all systems handled equally many prompt and output tokens."
    if failed:
        yield ""
        yield "Failed:"
        yield from (f"- {sentence}" for sentence in failed)
    taken = [m.others for m in run.measurements if m.error is None]
    if taken:
        noisy = sum(share > DISTURBED for share in taken)
        yield ""
        yield (
            f"Other processes took {statistics.median(taken):.0%} of the machine during a measurement (median), more "
            f"than {DISTURBED:.0%} in {noisy} of {len(taken)}; left out where the system has others of that row."
        )


def _cell(value: Spread | None, *, bold: bool = False) -> str:
    if value is None:
        return "–"
    middle = f"**{_number(value.median)}**" if bold else _number(value.median)
    return f"{middle} ({_number(value.least)} – {_number(value.greatest)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
