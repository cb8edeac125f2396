"""The lengths of the workloads' requests.

``long``: about 1,100 words in, 32 tokens out. ``short``: 10 to 40 words in, 192 out. ``mixed``: these two in turn.
``chat``: both lengths log-normal, as in conversations (median 100 words in, 81 tokens out).
"""

import random
from collections.abc import Iterator
from typing import Literal, get_args

from tenfold.core.errors import ConfigError
from tenfold.traffic.row import Row

Kind = Literal["mixed", "chat", "short", "long"]

LONG_OUTPUT = 32
SHORT_OUTPUT = 192
AROUND = 5  # tokens of a prompt beside its words, more or less


def check_kind(kind: str) -> None:
    """Raise ConfigError for a workload that does not exist."""
    if kind not in get_args(Kind):
        raise ConfigError(f"unknown workload {kind!r}: choose one of {', '.join(get_args(Kind))}")


def kind_at(kind: str, number: int) -> str:
    """Of the request of this number: of ``mixed`` ones, every other is long."""
    return ("long", "short")[number % 2] if kind == "mixed" else kind


def draw(rng: random.Random, kind: str) -> tuple[int, int]:
    """Words of a prompt, and tokens of its answer."""
    if kind == "long":
        return int(rng.uniform(800, 1400)), LONG_OUTPUT
    if kind == "short":
        return int(rng.uniform(10, 40)), SHORT_OUTPUT
    words = min(1200, int(rng.lognormvariate(4.6, 0.8)))
    return words, max(16, min(256, int(rng.lognormvariate(4.4, 0.6))))


def rows(kind: str, times: Iterator[float], seed: int) -> Iterator[Row]:
    """Requests without text, at these times: as many as are asked for. Raises ConfigError."""
    check_kind(kind)
    return _rows(kind, times, seed)


def _rows(kind: str, times: Iterator[float], seed: int) -> Iterator[Row]:
    rng = random.Random(seed)
    for number, at in enumerate(times):
        words, outputs = draw(rng, kind_at(kind, number))
        yield Row(at, words + AROUND, outputs)
