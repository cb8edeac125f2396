"""What is asked of the system under test: the same seed gives the same requests everywhere."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from tenfold.traffic.lengths import AROUND, check_kind, draw, kind_at
from tenfold.traffic.row import Row
from tenfold.traffic.words import OPENING, WORDS

WARM_UP_OUTPUT = 8
_WARM_UP_SEED = 999


@dataclass(frozen=True, slots=True)
class Work:
    """One request: its kind, its prompt, and how many tokens to generate (never fewer: end-of-text is ignored).

    ``tenant`` says whose it is, ``slo_class`` what it is promised, where that is known. A ``bare`` one is asked without
    bounds.
    """

    kind: str
    prompt: str
    output_tokens: int
    tenant: str = ""
    bare: bool = False
    slo_class: str = ""

    def row(self, at: float) -> Row:
        """This as a row of a trace: a word is a token."""
        return Row(at, len(self.prompt.split()) - 3 + AROUND, self.output_tokens, self.tenant, slo_class=self.slo_class)


def make_workload(kind: str, count: int, seed: int) -> list[Work]:
    """``count`` requests of a workload. Raises ConfigError for a workload that does not exist."""
    check_kind(kind)
    rng = random.Random(seed)
    return [_one(rng, kind_at(kind, at)) for at in range(count)]


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
            words += random.Random(f"{seed} {block}").choices(WORDS, k=row.block_tokens)
        words = words[: row.prompt]
        words += rng.choices(WORDS, k=row.prompt - len(words))
        found.append(Work(kind, " ".join(words), row.outputs, row.tenant, slo_class=row.slo_class))
    return found


def _one(rng: random.Random, kind: str) -> Work:
    words, output = draw(rng, kind)
    text = " ".join(rng.choice(WORDS) for _ in range(words))
    return Work(kind, f"{OPENING} {text}\n", output)
