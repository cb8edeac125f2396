"""What long prompts do to running chats, with and without a bound on TPOT. ``python -m benchmarks.long_prompts``.

Chats arrive at half of what the engine can serve; in two of three runs a prompt of 6,000 to 8,000 tokens comes every
few seconds beside them. The three runs (no long prompts; long prompts and chunks bounded in tokens; long prompts and
chunks bounded in time) take turns, each with an engine process of its own. Prints each round, and medians of them.
"""

import argparse
import asyncio
import random
import statistics
from collections.abc import Awaitable, Callable
from functools import partial

from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.load import Load, run_load
from tenfold.bench.record import Record
from tenfold.bench.report import percentile
from tenfold.core.config import DEFAULT_MODEL, EngineConfig, SchedulerConfig
from tenfold.core.slo import Slo, parse_slo
from tenfold.engine.process import EngineProcess
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve

LONG = (6000, 8000)  # tokens
LONG_OUTPUT = 16
SETTLE = 6.0  # seconds for a new engine to measure its steps

Figures = dict[str, float]


async def chats(target: EngineTarget, count: int, rate: float, seed: int) -> list[Record]:
    """An open loop of chats."""
    return list((await run_load(target, Load("chat", count, 1, rate, seed))).records)


async def long_prompts(target: EngineTarget, every: float, seed: int, vocab: int, records: list[Record]) -> None:
    """A long prompt every few seconds, until cancelled; each is answered to its end."""
    rng, number = random.Random(seed), 0
    async with asyncio.TaskGroup() as group:

        async def one(ids: tuple[int, ...], salt: str) -> None:
            records.append(await target.ask_ids(ids, LONG_OUTPUT, kind="long", salt=salt))

        try:
            while True:
                ids = tuple(rng.randrange(vocab) for _ in range(rng.randint(*LONG)))
                group.create_task(one(ids, f"long {number}"))
                number += 1
                await asyncio.sleep(every)
        except asyncio.CancelledError:
            pass


async def with_engine(model: str, slo: Slo, kv: str, work: Callable[[EngineTarget], Awaitable[Figures]]) -> Figures:
    """``work`` on a new engine."""
    config = EngineConfig(model=model, kv_type=kv, scheduler=SchedulerConfig(slo=slo))
    checkpoint = load_checkpoint(resolve(model))
    target = EngineTarget(EngineProcess(config), checkpoint.tokenizer)
    await target.start()
    try:
        await asyncio.sleep(SETTLE)
        return await work(target)
    finally:
        await target.stop()


async def capacity(target: EngineTarget, seed: int) -> Figures:
    """Chats per second that 32 users get."""
    outcome = await run_load(target, Load("chat", 128, 32, None, seed))
    return {"rate": len(outcome.records) / outcome.wall}


async def run(target: EngineTarget, *, count: int, rate: float, every: float | None, seed: int) -> Figures:
    """One run's figures, times in milliseconds."""
    long: list[Record] = []
    beside = None
    if every is not None:
        beside = asyncio.create_task(long_prompts(target, every, seed, target.info.vocab_size, long))
    records = await chats(target, count, rate, seed)
    if beside is not None:
        beside.cancel()
        await beside
    assert not [r.error for r in (*records, *long) if r.error]
    figures = {}
    for name, values in (
        ("TTFT", [r.ttft for r in records]),
        ("TPOT", [r.tpot for r in records]),
        ("ITL", [gap for r in records for gap in r.gaps]),
        ("long TTFT", [r.ttft for r in long]),
    ):
        known = [value for value in values if value is not None]
        for p in (50, 95, 99):
            figures[f"{name} p{p}"] = 1000 * (percentile(known, p) or 0.0)
    await asyncio.sleep(1.0)  # for the engine's next report
    figures["prediction error, %"] = 100 * ((await target.stats()).step_cost_error or 0.0)
    return figures


async def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--kv", default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=120, help="chats per run")
    parser.add_argument("--every", type=float, default=8.0, help="seconds between long prompts")
    parser.add_argument("--load", type=float, default=0.5, help="of the capacity")
    parser.add_argument("--slo", type=parse_slo, default=Slo(tpot=0.02))
    options = parser.parse_args()
    engine = partial(with_engine, options.model, kv=options.kv)
    rate = (await engine(Slo(), work=partial(capacity, seed=1)))["rate"] * options.load
    print(f"chats arrive at {rate:.2f} per second; a long prompt every {options.every:g} s; {options.slo}", flush=True)
    runs = {
        "no long prompts": (Slo(), None),
        "chunks of 512 tokens": (Slo(), options.every),
        "chunks bounded in time": (options.slo, options.every),
    }
    found: dict[str, list[Figures]] = {name: [] for name in runs}
    for seed in range(options.rounds):
        for name, (slo, every) in runs.items():
            work = partial(run, count=options.requests, rate=rate, every=every, seed=seed)
            found[name].append(await engine(slo, work=work))
            print(f"round {seed + 1}, {name}: {_line(found[name][-1])}", flush=True)
    medians = {name: {k: statistics.median(f[k] for f in rounds) for k in rounds[0]} for name, rounds in found.items()}
    base = medians["no long prompts"]
    print("\n| ms, medians of rounds | " + " | ".join(medians) + " |\n|---|" + "---|" * len(medians))
    for figure in base:
        cells = []
        for figures in medians.values():
            ratio = f" ({figures[figure] / base[figure]:.2f} x)" if base[figure] and "%" not in figure else ""
            cells.append(f"{figures[figure]:.1f}{ratio}")
        print(f"| {figure} | " + " | ".join(cells) + " |")


def _line(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.1f}" for name, value in figures.items() if "p50" not in name)


if __name__ == "__main__":
    asyncio.run(main())
