"""What is asked of the system under test: the same seed gives the same requests everywhere.

``long``: about 1,100 words in, 32 tokens out. ``short``: 10 to 40 words in, 192 out. ``mixed``: these two in turn.
``chat``: both lengths log-normal, as in conversations (median 100 words in, 81 tokens out).
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from tenfold.core.errors import ConfigError
from tenfold.traffic.row import Row

Kind = Literal["mixed", "chat", "short", "long"]

LONG_OUTPUT = 32
SHORT_OUTPUT = 192
WARM_UP_OUTPUT = 8
_WARM_UP_SEED = 999

# Part of the workloads' definition: another list, or another order, would give other prompts.
_WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company"),
    *("system", "program", "question", "work", "government", "number", "night", "point", "home", "water", "room"),
    *("mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word"),
    *("business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game"),
    *("line", "end", "member", "law", "car", "city", "community", "name", "president", "team"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """One request: its kind, its prompt, and how many tokens to generate (never fewer: end-of-text is ignored).

    ``tenant`` says whose it is, where that is known. A ``bare`` one is asked without bounds.
    """

    kind: str
    prompt: str
    output_tokens: int
    tenant: str = ""
    bare: bool = False


def make_workload(kind: str, count: int, seed: int) -> list[Work]:
    """``count`` requests of a workload. Raises ConfigError for a workload that does not exist."""
    if kind not in get_args(Kind):
        raise ConfigError(f"unknown workload {kind!r}: choose one of {', '.join(get_args(Kind))}")
    rng = random.Random(seed)
    return [_one(rng, ("long", "short")[at % 2] if kind == "mixed" else kind) for at in range(count)]


def warm_up(kind: str, seed: int) -> list[Work]:
    """Two short requests of the same workload with other prompts, to run before anything is measured."""
    work = make_workload(kind, 2, seed + _WARM_UP_SEED)
    return [Work(one.kind, one.prompt, WARM_UP_OUTPUT, bare=True) for one in work]


def from_rows(rows: Iterable[Row], kind: str, seed: int) -> list[Work]:
    """Requests of a trace's lengths: a prompt has as many common words as the row has tokens, which is a token each in
    most vocabularies. Where rows name the same first blocks, their prompts begin with the same words."""
    rng = random.Random(seed)
    found = []
    for row in rows:
        words: list[str] = []
        for block in row.blocks:
            words += random.Random(f"{seed} {block}").choices(_WORDS, k=row.block_tokens)
        words = words[: row.prompt]
        words += rng.choices(_WORDS, k=row.prompt - len(words))
        found.append(Work(kind, " ".join(words), row.outputs, row.tenant))
    return found


def _one(rng: random.Random, kind: str) -> Work:
    if kind == "long":
        words, output = int(rng.uniform(800, 1400)), LONG_OUTPUT
    elif kind == "short":
        words, output = int(rng.uniform(10, 40)), SHORT_OUTPUT
    else:
        words = min(1200, int(rng.lognormvariate(4.6, 0.8)))
        output = max(16, min(256, int(rng.lognormvariate(4.4, 0.6))))
    text = " ".join(rng.choice(_WORDS) for _ in range(words))
    return Work(kind, f"Write about this: {text}\n", output)
