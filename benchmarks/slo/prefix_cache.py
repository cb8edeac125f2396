"""TTFT with and without the prefix cache. ``python -m benchmarks.slo.prefix_cache``.

Conversations of several turns, and questions under one long system prompt; engines with and without sharing in turn.
Prints medians of TTFT and of the rounds' ratios.
"""

import asyncio
import random
import statistics

from benchmarks.slo.harness import engine, milliseconds, options, table, tokens
from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.record import Record
from tenfold.core.config import NO_SPECULATION, SchedulerConfig

USERS = 4


async def conversations(target: EngineTarget, seed: int, turns: int) -> list[Record]:
    """Users who ask, wait for the answer, and ask again with all that was said before. First turns do not count."""
    vocab = target.info.vocab_size

    async def user(number: int) -> list[Record]:
        rng = random.Random(100 * seed + number)
        said = tokens(rng, 300, vocab)
        records = []
        for _ in range(turns):
            said += tokens(rng, 60, vocab)
            records.append(await target.ask_ids(said, 64, kind="turn"))
            said += tuple(records[-1].ids)
        return records[1:]

    return [record for records in await asyncio.gather(*map(user, range(USERS))) for record in records]


async def system_prompt(target: EngineTarget, seed: int, count: int) -> list[Record]:
    """Questions one after the other under a system prompt of 1,500 tokens. The first does not count."""
    rng, vocab = random.Random(seed), target.info.vocab_size
    system = tokens(rng, 1500, vocab)
    records = [await target.ask_ids(system + tokens(rng, 40, vocab), 16, kind="question") for _ in range(count)]
    return records[1:]


async def main() -> None:
    """See above."""
    parser = options(__doc__, "ttft=10s")
    told = parser.parse_args()
    found: dict[tuple[str, bool], list[float]] = {}
    for seed in range(told.rounds):
        for sharing in (True, False):
            async with engine(
                told.model, told.kv, SchedulerConfig(speculation=NO_SPECULATION), prefix_sharing=sharing
            ) as target:
                for name, records in (
                    ("turns of a conversation", await conversations(target, seed, 6)),
                    ("one system prompt", await system_prompt(target, seed, 12)),
                ):
                    assert not [r.error for r in records if r.error]
                    found.setdefault((name, sharing), []).append(milliseconds((r.ttft for r in records), 50))
    rows = []
    for name in ("turns of a conversation", "one system prompt"):
        shared, alone = found[name, True], found[name, False]
        ratio = statistics.median(b / a for a, b in zip(shared, alone, strict=True))
        rows.append((name, statistics.median(alone), statistics.median(shared), f"{ratio:.1f}"))
    print(table(("TTFT p50, ms", "without", "with the cache", "ratio"), rows))


if __name__ == "__main__":
    asyncio.run(main())
