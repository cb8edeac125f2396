"""What long prompts do to running chats. ``python -m benchmarks.slo.long_prompts``.

Chats arrive at half of what the engine can serve; in three of four runs a prompt of 6,000 to 8,000 tokens comes every
few seconds beside them, as class ``batch``. The runs (by SLO without long prompts and with them; first come, first
served with them, whole prompts and chunks) take turns, each with an engine process of its own. Prints each round, and
medians of them beside the run without long prompts.
"""

import asyncio
import random
import statistics

from benchmarks.slo.harness import (
    CHUNKS,
    OURS,
    WHOLE,
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
from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.load import closed, run_load
from tenfold.core.config import NO_SPECULATION, SchedulerConfig

LONG = (6000, 8000)  # tokens
LONG_OUTPUT = 16

Figures = dict[str, float]


def with_long(chats: list[Arrival], every: float, seed: int, vocab: int) -> list[Arrival]:
    """The chats, and a long prompt every few seconds beside them."""
    rng, at, found = random.Random(seed), 1.0, list(chats)
    while at < chats[-1].at:
        prompt = tokens(rng, rng.randint(*LONG), vocab)
        found.append(Arrival(at, prompt, LONG_OUTPUT, "long", (("slo_class", "batch"),)))
        at += every
    return sorted(found, key=lambda one: one.at)


async def capacity(target: EngineTarget, seed: int) -> float:
    """Chats per second that 32 users get."""
    outcome = await run_load(target, closed("chat", 128, 32, seed))
    return len(outcome.records) / outcome.wall


async def run(target: EngineTarget, arrivals: list[Arrival]) -> Figures:
    """One run's figures, times in milliseconds."""
    records = await replay(target, arrivals)
    assert not failures(records), failures(records)[:3]
    chats = [r for r in records if r.kind == "chat" and not r.error]
    figures = {"refused chats": float(sum(r.refused for r in records))}
    for name, values in (
        ("TTFT", [r.ttft for r in chats]),
        ("TPOT", [r.tpot for r in chats]),
        ("ITL", [gap for r in chats for gap in r.gaps]),
        ("long TTFT", [r.ttft for r in records if r.kind == "long"]),
    ):
        figures |= {f"{name} p{p}": milliseconds(values, p) for p in (50, 95, 99)}
    await asyncio.sleep(1.0)  # for the engine's next report
    figures["prediction error, %"] = 100 * ((await target.stats()).step_cost_error or 0.0)
    return figures


async def main() -> None:
    """See above."""
    parser = options(__doc__, "ttft=1s,tpot=17ms")
    parser.add_argument("--requests", type=int, default=120, help="chats per run")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between long prompts")
    parser.add_argument("--load", type=float, default=0.5, help="of the capacity")
    told = parser.parse_args()
    known = policies(told.slo)
    async with engine(told.model, told.kv, SchedulerConfig(speculation=NO_SPECULATION)) as target:
        rate = told.load * await capacity(target, 1)
    print(f"{rate:.2f} chats per second; a long prompt every {told.every:g} s; {told.slo}", flush=True)
    runs: dict[str, tuple[SchedulerConfig, bool]] = {
        "no long prompts": (known[OURS], False),
        **{name: (known[name], True) for name in (OURS, CHUNKS, WHOLE)},
    }
    found: dict[str, list[Figures]] = {name: [] for name in runs}
    for seed in range(told.rounds):
        for name, (scheduler, long) in runs.items():
            async with engine(told.model, told.kv, scheduler) as target:
                vocab = target.info.vocab_size
                chats = generated(chat_sizes, rate, told.requests / rate, seed, vocab)
                figures = await run(target, with_long(chats, told.every, seed, vocab) if long else chats)
            found[name].append(figures)
            shown = "  ".join(f"{k} {v:.1f}" for k, v in figures.items() if "p50" not in k)
            print(f"round {seed + 1}, {name}: {shown}", flush=True)
    medians = {name: {k: statistics.median(f[k] for f in rounds) for k in rounds[0]} for name, rounds in found.items()}
    base = medians["no long prompts"]
    rows = [
        (
            k,
            *(
                f"{f[k]:.1f}" + (f" ({f[k] / base[k]:.2f} x)" if base[k] and " p" in k else "")
                for f in medians.values()
            ),
        )
        for k in base
    ]
    print("\n" + table(("ms, medians of rounds", *medians), rows))


if __name__ == "__main__":
    asyncio.run(main())
