"""Classes beside each other, and what displacement gives. ``python -m benchmarks.slo.classes``.

A backlog of ``batch`` requests that takes all places, and chats of the classes ``interactive`` and ``standard`` that
come beside it, at several rates: by SLO, by SLO where nobody is displaced, and first come, first served. For each class
TTFT and TPOT at the 95th percentile, how many met their bounds, and how fast the backlog went. --plot PATH draws them.
"""

import argparse
import asyncio
import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.slo.harness import (
    CHUNKS,
    OURS,
    Arrival,
    chat_sizes,
    engine,
    failures,
    generated,
    milliseconds,
    options,
    policies,
    replay,
    table,
    tokens,
)
from tenfold.core.config import SchedulerConfig
from tenfold.core.slo import Slo

STAY = "by SLO, nobody displaced"
CLASSES = ("interactive", "standard", "batch")
BACKLOG = (300, 600)  # tokens of a prompt and of an answer
FILLED = 12.0  # seconds after which all places are taken, and chats begin
CHATS_OF = {"interactive": 2 / 3, "standard": 1 / 3}


@dataclass(frozen=True)
class Row:
    """One class in one run. Times in ms."""

    policy: str
    rate: float  # of chats, per second
    slo_class: str
    requests: int
    attained: float
    ttft_p95: float
    tpot_p95: float
    refused: float
    tokens_per_second: float
    displaced: int  # sequences in the whole run


def of_class(arrivals: Iterable[Arrival], name: str) -> list[Arrival]:
    """The same, as requests of a class."""
    return [replace(one, kind=name, terms=(("slo_class", name),)) for one in arrivals]


def load(rate: float, seconds: float, backlog: int, seed: int, vocab: int) -> list[Arrival]:
    """The backlog at once, then, when it has all places, chats."""
    rng, (prompt, outputs) = random.Random(seed), BACKLOG
    found = of_class((Arrival(0.0, tokens(rng, prompt, vocab), outputs, "") for _ in range(backlog)), "batch")
    for i, (name, part) in enumerate(CHATS_OF.items()):
        chats = generated(chat_sizes, part * rate, seconds, seed + 1 + i, vocab)
        found += of_class((replace(one, at=one.at + FILLED) for one in chats), name)
    return sorted(found, key=lambda one: one.at)


async def measure(
    told: argparse.Namespace, policy: str, config: SchedulerConfig, bounds: dict[str, Slo], rate: float
) -> list[Row]:
    """One run of one policy, a row per class."""
    async with engine(told.model, told.kv, config) as target:
        work = load(rate, told.seconds, told.backlog, told.seed, target.info.vocab_size)
        records = await replay(target, work)
        await asyncio.sleep(1.0)  # for the engine's next report
        displaced = (await target.stats()).preemptions_total.get("slo", 0)
    assert not failures(records), failures(records)[:3]
    rows = []
    for name in CLASSES:
        mine = [record for record in records if record.kind == name]
        answered = [record for record in mine if not record.error]
        served = [(a, r.e2e or 0.0) for a, r in zip(work, records, strict=True) if r.kind == name and not r.error]
        rows.append(
            Row(
                policy,
                rate,
                name,
                len(mine),
                sum(record.good(bounds[name]) for record in mine) / len(mine),
                milliseconds((record.ttft for record in answered), 95),
                milliseconds((record.tpot for record in answered), 95),
                sum(one.refused for one in mine) / len(mine),
                sum(one.outputs for one, _ in served) / max(one.at + took for one, took in served),
                displaced,
            )
        )
    return rows


def draw(rows: list[Row], bounds: dict[str, Slo], title: str, path: Path) -> None:
    """TTFT and TPOT by class against the rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, len(CLASSES), figsize=(4.2 * len(CLASSES), 6.6), sharex=True)
    for column, name in enumerate(CLASSES):
        for axes, figure_of, what, bound in (
            (grid[0][column], lambda row: row.ttft_p95, "TTFT", bounds[name].ttft),
            (grid[1][column], lambda row: row.tpot_p95, "TPOT", bounds[name].tpot),
        ):
            for policy, colour in ((CHUNKS, "#8c8c8c"), (STAY, "#b0763a"), (OURS, "#1f5fa8")):
                mine = [row for row in rows if (row.policy, row.slo_class) == (policy, name)]
                axes.plot(
                    [row.rate for row in mine], [figure_of(row) for row in mine], "o-", color=colour, label=policy
                )
            if bound is not None:
                axes.axhline(1000 * bound, color="#222222", linewidth=0.8, linestyle=":")
            axes.set_yscale("log")
            axes.set_title(f"{name}: {what} p95, ms", fontsize=9)
        grid[1][column].set_xlabel("chats per second")
    grid[0][0].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


async def main() -> None:
    """See above."""
    parser = options(__doc__, "ttft=2s,tpot=100ms")
    parser.add_argument("--rates", default="1,2,4", help="chats per second, from small to large")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    parser.add_argument("--backlog", type=int, default=128, help="batch requests")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    told = parser.parse_args()
    configs = {name: config for name, config in policies(told.slo).items() if name in (CHUNKS, OURS)}
    stay = tuple(replace(one, preemptible=False) for one in configs[OURS].classes)
    configs[STAY] = replace(configs[OURS], classes=stay)
    bounds = {one.name: one.slo for one in configs[OURS].classes}
    rows: list[Row] = []
    for rate in map(float, told.rates.split(",")):
        for policy, config in configs.items():
            found = await measure(told, policy, config, bounds, rate)
            rows += found
            print(*found, sep="\n", flush=True)
            if told.json is not None:
                told.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    columns = tuple(asdict(rows[0]))
    print(table(columns, [tuple(asdict(row).values()) for row in rows]))
    if told.plot is not None:
        draw(rows, bounds, f"chats beside {told.backlog} batch requests, {told.model}", told.plot)


if __name__ == "__main__":
    asyncio.run(main())
