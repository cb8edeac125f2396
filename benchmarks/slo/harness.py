"""Arrivals, policies and figures that the benchmarks of service objectives share."""

import argparse
import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.record import Record
from tenfold.core.clock import WallClock
from tenfold.core.config import DEFAULT_MODEL, FIRST_COME, NO_SPECULATION, EngineConfig, SchedulerConfig
from tenfold.core.slo import DEFAULT_CLASS, DEFAULT_CLASSES, Slo, parse_slo, with_slo
from tenfold.engine.process import EngineProcess
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.traffic.arrivals import poisson
from tenfold.traffic.figures import percentile
from tenfold.traffic.row import Row

SETTLE = 6.0  # seconds for a new engine to measure its steps
WHOLE, CHUNKS, OURS = "first come, whole prompts", "first come, 512 tokens a step", "by SLO"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: when it comes (seconds from the start), its tokens, and its ``terms`` (an EngineRequest's fields)."""

    at: float
    prompt_ids: tuple[int, ...]
    outputs: int
    kind: str
    terms: tuple[tuple[str, Any], ...] = ()


def policies(slo: Slo) -> dict[str, SchedulerConfig]:
    """The two baselines and ours: first come, first served, with whole prompts and with chunks; bounds in time."""
    return {
        WHOLE: SchedulerConfig(max_step_tokens=8192, policy=FIRST_COME, speculation=NO_SPECULATION),
        CHUNKS: SchedulerConfig(policy=FIRST_COME, speculation=NO_SPECULATION),
        OURS: SchedulerConfig(classes=with_slo(DEFAULT_CLASSES, DEFAULT_CLASS, slo), speculation=NO_SPECULATION),
    }


def options(text: str | None, slo: str, rounds: int = 5) -> argparse.ArgumentParser:
    """A command line with what all benchmarks take; ``text`` is the module's docstring."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--kv", default="int8")
    parser.add_argument("--slo", type=parse_slo, default=parse_slo(slo), help=f"default: {slo}")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=0)
    return parser


@asynccontextmanager
async def engine(model: str, kv: str, scheduler: SchedulerConfig, **settings: Any) -> AsyncGenerator[EngineTarget]:
    """A new engine process that knows its step times."""
    config = EngineConfig(model=model, kv_type=kv, scheduler=scheduler, **settings)
    checkpoint = load_checkpoint(resolve(model))
    target = EngineTarget(EngineProcess(config), checkpoint.tokenizer)
    await target.start()
    try:
        await asyncio.sleep(SETTLE)
        yield target
    finally:
        await target.stop()


async def replay(target: EngineTarget, arrivals: Iterable[Arrival]) -> list[Record]:
    """All arrivals, each at its time, whether or not earlier ones are answered; records in order of arrival."""
    clock = WallClock()
    began, tasks = clock.now(), []
    async with asyncio.TaskGroup() as group:
        for one in arrivals:
            await asyncio.sleep(max(0.0, began + one.at - clock.now()))
            tasks.append(
                group.create_task(target.ask_ids(one.prompt_ids, one.outputs, kind=one.kind, terms=dict(one.terms)))
            )
    return [task.result() for task in tasks]


def milliseconds(values: Iterable[float | None], p: int) -> float:
    """A percentile of what is known, in ms; 0 of nothing."""
    return 1000 * (percentile([value for value in values if value is not None], p) or 0.0)


def failures(records: Sequence[Record]) -> list[str]:
    """Errors that are not refusals: there should be none."""
    return [record.error for record in records if record.error is not None and not record.refused]


# Where arrivals come from.


def tokens(rng: random.Random, count: int, vocab: int) -> tuple[int, ...]:
    """A prompt of its own."""
    return tuple(rng.randrange(vocab) for _ in range(count))


Sizes = Callable[[random.Random], tuple[int, int, str]]  # prompt and output tokens, and the kind


def chat_sizes(rng: random.Random) -> tuple[int, int, str]:
    """Of the ``chat`` workload (lognormal; median 130 and 81 tokens)."""
    prompt, outputs = int(1.3 * rng.lognormvariate(4.6, 0.8)) + 4, int(rng.lognormvariate(4.4, 0.6))
    return min(1500, prompt), max(16, min(256, outputs)), "chat"


def mixed_sizes(rng: random.Random) -> tuple[int, int, str]:
    """Of the ``mixed`` workload: half long prompts with short answers, half the reverse."""
    if rng.random() < 0.5:
        return rng.randint(1040, 1820), 32, "long prompts"
    return rng.randint(20, 60), 192, "short prompts"


def generated(sizes: Sizes, rate: float, seconds: float, seed: int, vocab: int) -> list[Arrival]:
    """Arrivals at random of sizes at random."""
    rng, found = random.Random(seed), []
    for at in poisson(rate, seed):
        if at >= seconds:
            return found
        prompt, outputs, kind = sizes(rng)
        found.append(Arrival(at, tokens(rng, prompt, vocab), outputs, kind))
    raise AssertionError


def of_trace(trace: Iterable[Row], seed: int, vocab: int, kind: str) -> list[Arrival]:
    """Arrivals with prompts and answers of a trace's sizes."""
    rng = random.Random(seed)
    return [
        Arrival(
            row.at, tokens(rng, row.prompt, vocab), row.outputs, kind, (("tenant", row.tenant),) if row.tenant else ()
        )
        for row in trace
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""

    def line(row: Sequence[object]) -> str:
        return "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])
