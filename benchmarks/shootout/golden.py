"""Whether a system computes the same model: its greedy tokens beside the golden ones."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.shootout.rows import GOLDEN_TOKENS

Greedy = Callable[[Sequence[Sequence[int]], int], list[list[int]]]


def agreement(path: Path, greedy: Greedy) -> float:
    """Share of the first tokens of all golden cases that the system would choose too.

    Each position is asked for by itself, after the golden tokens before it, so that one near-tie costs one token.
    """
    prompts, wanted = [], []
    for case in json.loads(path.read_text())["cases"]:
        golden = case["output_ids"][:GOLDEN_TOKENS]
        prompts += [case["prompt_ids"] + golden[:at] for at in range(len(golden))]
        wanted += golden
    return share(wanted, [tokens[0] for tokens in greedy(prompts, 1)])


def share(wanted: Sequence[int], got: Sequence[int]) -> float:
    """How many are equal, of all."""
    return sum(ours == theirs for ours, theirs in zip(wanted, got, strict=True)) / len(wanted)
