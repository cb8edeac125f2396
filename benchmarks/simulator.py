"""How near a simulation comes to the engine: the same requests on both. ``python -m benchmarks.simulator``.

For each scenario an engine process of its own serves the load; then it is asked for its machine, and the requests that
it got are simulated, several times over with other draws of how much longer or shorter each step takes, while the
machine is as slow or fast in each second as it was. Prints medians and 95th percentiles of both, by how much the
simulation is off (medians of the rounds, each with other requests), and how far single draws that begin at other
moments of the machine lie from their own median: what chance alone does to a figure of that many requests. Exit code 1
where some figure is off by more than the tolerance; where chance does as much, ``--scale`` and ``--rounds`` help.
"""

import argparse
import asyncio
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.slo.harness import engine, failures, table
from tenfold.bench.load import Load, Outcome, at_random, closed, run_load
from tenfold.bench.report import summary
from tenfold.core.clock import WallClock
from tenfold.core.config import DEFAULT_MODEL, NO_SPECULATION, SchedulerConfig
from tenfold.core.slo import DEFAULT_CLASS, DEFAULT_CLASSES, Slo, with_slo
from tenfold.cost.machine import SPELLS, Machine
from tenfold.engine.inspection import KEPT
from tenfold.sim.cluster import Cluster
from tenfold.traffic.row import Row

BOUNDS = Slo(ttft=2.0, tpot=0.04)
DRAWS = 9
FIGURES = tuple((name, p) for name in ("ttft", "tpot", "e2e") for p in ("p50", "p95"))
LEAST = 5.0  # ms: of less than so much, a difference tells nothing of the scheduler


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load, bounds, and how much KV memory there is (None: as much as the engine takes)."""

    name: str
    load: Load
    slo: Slo | None = BOUNDS
    kv_tokens: int | None = None


def scenarios(scale: float, seed: int) -> list[Scenario]:
    """``scale`` times as many requests as usual."""

    def count(usual: int) -> int:
        return max(20, round(usual * scale))

    return [
        Scenario("mixed, 1.5/s", at_random("mixed", count(120), 1.5, seed)),
        Scenario("mixed, 4/s: overload", at_random("mixed", count(240), 4.0, seed)),
        Scenario("chat, 4/s", at_random("chat", count(240), 4.0, seed)),
        Scenario("chat, 12/s", at_random("chat", count(400), 12.0, seed)),
        Scenario("chat, 18/s: overload", at_random("chat", count(600), 18.0, seed)),
        Scenario("mixed, 16 users, no bounds", closed("mixed", count(96), 16, seed), slo=None),
        Scenario("mixed, 32 users, KV pressure", closed("mixed", count(96), 32, seed), slo=None, kv_tokens=8192),
    ]


def config(slo: Slo | None) -> SchedulerConfig:
    """The default one, with these bounds."""
    classes = with_slo(DEFAULT_CLASSES, DEFAULT_CLASS, slo) if slo else DEFAULT_CLASSES
    return SchedulerConfig(classes=classes, speculation=NO_SPECULATION)


async def real(model: str, kv: str, scenario: Scenario) -> tuple[Outcome, Machine, float]:
    """What the engine does with it, and what it then knows of its machine, from so many seconds before the load on."""
    async with engine(model, kv, config(scenario.slo), kv_tokens=scenario.kv_tokens) as target:
        outcome = await run_load(target, scenario.load)
        began = WallClock().now() - outcome.wall  # by the clock of the machine, as those of its steps
        assert not failures(outcome.records), failures(outcome.records)[:3]
        seen = await target.inspect(KEPT)
        first, last = int(seen.steps[0].began), int(seen.steps[-1].began)
        since = began - max(first, last - SPELLS + 1)
        assert since >= 0, "the engine's log does not reach back to where the load began: a smaller --scale, please"
        return outcome, seen.learned(), since


def simulated(machine: Machine, outcome: Outcome, slo: Slo | None, seed: int, since: float | None) -> dict[str, Any]:
    """The report of the same requests, simulated; ``since``: see :class:`Cluster`."""
    load = outcome.load
    records = sorted(outcome.records, key=lambda record: record.began)
    if load.times is None:  # in the order in which users ask them
        by_prompt = [one.row(0.0) for one in load.work]
        more = statistics.median(r.prompt_tokens for r in records) - statistics.median(row.prompt for row in by_prompt)
        rows = [Row(0.0, round(row.prompt + more), row.outputs) for row in by_prompt]
    else:
        lengths = {id(one): one.row(at) for one, at in zip(load.work, load.times, strict=True)}
        rows = [
            Row(row.at, record.prompt_tokens or row.prompt, row.outputs)
            for row, record in zip(lengths.values(), records, strict=True)
        ]
    cluster = Cluster(machine, config(slo), slo=BOUNDS, seed=seed, since=since)
    return cluster.run(rows, users=load.users).report("simulated", load.workload, {}, load.users, seed)


@dataclass(frozen=True, slots=True)
class Off:
    """A figure: the engine's, the simulation's (the median of its draws), by how much that is off, and how far from the
    others' median the farthest draw is that begins at another moment of the machine."""

    seen: float
    told: float
    off: float
    scatter: float


def compare(live: dict[str, Any], draws: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Off]:
    """By figure; ``others`` are the draws that begin at other moments."""
    found = {}
    for name, p in FIGURES:
        values, by_chance = ([draw["all"][f"{name}_ms"][p] for draw in some] for some in (draws, others))
        least = LEAST if name != "tpot" else 0.1
        found[f"{name.upper()} {p}, ms"] = off(live["all"][f"{name}_ms"][p], values, by_chance, least)
    rates = [("goodput_req_s", "good requests/s")] if live["concurrency"] is None else []
    for key, words in (*rates, ("out_tok_s", "output tok/s")):
        found[words] = off(live[key], [draw[key] for draw in draws], [draw[key] for draw in others], 0.0)
    return found


def off(seen: float, draws: list[float], others: list[float], least: float) -> Off:
    """Less than ``least`` is nothing."""
    told, usual = statistics.median(draws), statistics.median(others)
    scatter = max(abs(draw / usual - 1) for draw in others) if usual else 0.0
    return Off(seen, told, 0.0 if abs(told - seen) < least else told / seen - 1, scatter)


def together(rounds: list[Off]) -> Off:
    """Medians of the rounds. Of so many, chance is less by the root of their number, as means have it."""
    seen, told, off, scatter = (
        statistics.median(getattr(one, name) for one in rounds) for name in ("seen", "told", "off", "scatter")
    )
    return Off(seen, told, off, scatter / math.sqrt(len(rounds)))


def draw(kept: dict[str, dict[str, Any]], path: Path) -> None:
    """TTFT and TPOT of all requests, the engine's and the simulation's, as distributions."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(3.0 * len(kept), 5.2), layout="constrained")
    panels = figure.subplots(2, len(kept), squeeze=False)
    for column, (name, both) in enumerate(kept.items()):
        for row, key in enumerate(("ttft_ms", "tpot_ms")):
            axes = panels[row][column]
            for who, colour, style in (("live", "#1f5fa8", "-"), ("simulated", "#b0763a", "--")):
                values = sorted(one[key] for one in both[who]["requests"] if one[key] and "error" not in one)
                parts = [(at + 1) / len(values) for at in range(len(values))]
                label = "engine" if who == "live" else "simulation"
                axes.step(values, parts, color=colour, linestyle=style, label=label)
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.25)
            axes.set_xlabel(f"{key[:4].upper()}, ms")
        panels[0][column].set_title(name, fontsize=9)
    panels[0][0].set_ylabel("part of the requests")
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


async def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--kv", default="int8")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many requests")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=1, help="each with the next seed")
    parser.add_argument("--only", help="scenarios whose name has this in it")
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--output", type=Path, help="write all figures here, as JSON")
    parser.add_argument("--plot", type=Path, help="draw the distributions here, as PNG")
    told = parser.parse_args()
    beyond, rows, kept = 0, [], {}
    found: dict[tuple[str, str], list[Off]] = {}
    for seed in range(told.seed, told.seed + told.rounds):
        for scenario in scenarios(told.scale, seed):
            if told.only and told.only not in scenario.name:
                continue
            outcome, machine, since = await real(told.model, told.kv, scenario)
            live = summary(outcome, "engine", BOUNDS)
            draws, others = (
                [simulated(machine, outcome, scenario.slo, draw, at) for draw in range(DRAWS)] for at in (since, None)
            )
            seen = compare(live, draws, others)
            for name, one in seen.items():
                found.setdefault((scenario.name, name), []).append(one)
            shown = ", ".join(f"{name} {one.off:+.1%} (draws {one.scatter:.1%})" for name, one in seen.items())
            worst = max(abs(one.off) for one in seen.values())
            print(f"{scenario.name}, seed {seed}: worst {worst:.1%}; {shown}", flush=True)
            if scenario.name not in kept:  # of the first round
                machine_told = json.loads(machine.to_json())
                kept[scenario.name] = {"live": live, "simulated": draws[0], "machine": machine_told}
    for (load, name), several in found.items():
        one = together(several)
        rows.append((load, name, f"{one.seen:.4g}", f"{one.told:.4g}", f"{one.off:+.1%}", f"{one.scatter:.1%}"))
        beyond += abs(one.off) > told.tolerance
    print("\n" + table(("load", "figure", "engine", "simulation", "off by", "by chance"), rows))
    if told.output is not None:
        told.output.write_text(json.dumps(kept))
    if told.plot is not None:
        draw(kept, told.plot)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
