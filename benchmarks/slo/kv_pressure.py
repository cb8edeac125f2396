"""A KV pool of a quarter of what is needed. ``python -m benchmarks.slo.kv_pressure``.

The same requests with a pool that holds all of them at once and with a quarter of that, in turn: the same tokens come
out, and tokens per second are compared. Exit code 1 where a token differs.
"""

import gc
import random
import statistics
import sys
import time

from benchmarks.slo.harness import mixed_sizes, options, table, tokens
from tenfold.core.sampling import SamplingParams
from tenfold.engine.llm import LLM


def main() -> int:
    """See above."""
    parser = options(__doc__, "tpot=1s")
    parser.add_argument("--requests", type=int, default=48)
    told = parser.parse_args()
    rng = random.Random(told.seed)
    sizes = [mixed_sizes(rng)[:2] for _ in range(told.requests)]
    needed = sum(-(-(prompt + outputs) // 16) * 16 for prompt, outputs in sizes)
    prompts = [tokens(rng, prompt, 40_000) for prompt, _ in sizes]
    params = [
        SamplingParams(temperature=0.8, seed=i, max_tokens=outputs, ignore_eos=True)
        for i, (_, outputs) in enumerate(sizes)
    ]
    pools = {"all": needed + 1024, "a quarter": needed // 4}
    speed: dict[str, list[float]] = {name: [] for name in pools}
    preempted: dict[str, int] = {}
    recomputed: dict[str, float] = {}
    outputs: dict[str, list[tuple[int, ...]]] = {}
    for _ in range(told.rounds):
        for name, kv_tokens in pools.items():
            llm = LLM(told.model, kv_type=told.kv, kv_tokens=kv_tokens)
            llm.generate([prompts[0][:64]], SamplingParams(max_tokens=4))
            began = time.perf_counter()
            answers = llm.generate(prompts, params, progress=False)
            speed[name].append(sum(o for _, o in sizes) / (time.perf_counter() - began))
            stats = llm.stats()
            preempted[name] = sum(stats.preemptions_total.values())
            recomputed[name] = stats.prompt_tokens_total / sum(p for p, _ in sizes)
            outputs[name] = [answer.samples[0].tokens for answer in answers]
            del llm
            gc.collect()
    same = outputs["all"] == outputs["a quarter"]
    ratios = [b / a for a, b in zip(speed["all"], speed["a quarter"], strict=True)]
    rows = [(name, pools[name], statistics.median(speed[name]), preempted[name], recomputed[name]) for name in pools]
    print(table(("pool", "tokens", "output tok/s", "preemptions", "prompt tokens computed, x"), rows))
    print(f"ratio {statistics.median(ratios):.2f}; the same tokens: {same}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
