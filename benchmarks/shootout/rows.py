"""What is asked of every system: the rows, and the prompts of each round."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.bench.workload import make_workload

DECODE_PROMPT = 100
DECODE_OUTPUT = 128
GOLDEN_TOKENS = 16
KV_TOKENS = 32_768  # 16 sequences of 2k
_LOWEST_ID = 100  # below it tokenizers keep their special tokens


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids to continue, greedily, by exactly ``wanted`` tokens."""

    ids: tuple[int, ...]
    wanted: int


@dataclass(frozen=True, slots=True)
class Batch:
    """An offline row: ``sequences`` prompts of ``prompt`` tokens at once. One output token makes it a prefill row."""

    name: str
    sequences: int
    prompt: int
    output: int

    @property
    def prefill(self) -> bool:
        """Whether the prompt's rate is what is measured."""
        return self.output == 1

    @property
    def prompt_tokens(self) -> int:
        """Of all sequences."""
        return self.sequences * self.prompt

    @property
    def output_tokens(self) -> int:
        """Of all sequences."""
        return self.sequences * self.output

    def requests(self, vocab: int, seed: int) -> list[Request]:
        """Prompts of random ids: the same for every system of a round, others in every round."""
        rng = random.Random(f"{self.name} {seed}")
        return [
            Request(tuple(rng.randrange(_LOWEST_ID, vocab) for _ in range(self.prompt)), self.output)
            for _ in range(self.sequences)
        ]


@dataclass(frozen=True, slots=True)
class Traffic:
    """A serving row: ``count`` requests of a workload of :mod:`tenfold.bench.workload` by ``users`` at a time."""

    name: str
    workload: str
    count: int
    users: int

    def requests(self, encode: "Encode", seed: int) -> list[Request]:
        """The workload as token ids, for systems without a server."""
        made = make_workload(self.workload, self.count, seed)
        return [Request(tuple(encode(work.prompt)), work.output_tokens) for work in made]


class Encode:
    """Text to token ids, with the marks a text begins with."""

    def __init__(self, model: str) -> None:
        from tenfold.model.checkpoint import load_tokenizer
        from tenfold.model.store import resolve

        self._tokenizer = load_tokenizer(resolve(model))
        self.vocab = self._tokenizer.vocab_size

    def __call__(self, text: str) -> list[int]:
        """The token ids of ``text``."""
        return self._tokenizer.encode(text, add_special=True)


BATCHES = (
    Batch("decode 1", 1, DECODE_PROMPT, DECODE_OUTPUT),
    Batch("decode 16", 16, DECODE_PROMPT, DECODE_OUTPUT),
    Batch("decode 32", 32, DECODE_PROMPT, DECODE_OUTPUT),
    Batch("prefill 512", 1, 512, 1),
    Batch("prefill 2048", 1, 2048, 1),
)
TRAFFIC = (
    Traffic("mixed c=16", "mixed", 64, 16),
    Traffic("chat c=32", "chat", 96, 32),
    Traffic("mixed c=1", "mixed", 16, 1),
)
START = "start"
FILL = Batch("fill", 16, 2000, 1)  # what fills KV memory for KV_TOKENS, but for a few tokens of each


def row_names() -> tuple[str, ...]:
    """All rows, in the order of the table."""
    return (*(row.name for row in BATCHES), *(row.name for row in TRAFFIC), START)


def decode_rate(times: Sequence[Sequence[float]]) -> float:
    """Tokens per second while all sequences decode: after the last first token, up to the first last one.

    ``times``: per sequence, when each of its tokens came, in seconds.
    """
    begin = max(sequence[0] for sequence in times)
    end = min(sequence[-1] for sequence in times)
    tokens = sum(begin < at <= end for sequence in times for at in sequence)
    return tokens / (end - begin) if end > begin else 0.0
