"""Models against golden outputs: the measurements behind ``benchmarks.accuracy`` and the golden tests.

The golden files hold what transformers computes in float32 on the dequantized GGUF weights: greedy
continuations, the margin to the runner-up at each of their positions, and the perplexity of a text, read in
windows of 512 tokens without overlap, of which the second half counts.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.model.decoder import forward
from tenfold.ops.base import Batch, Float32, Kv, Ops

FOLDER = Path(__file__).parent.parent / "tests" / "golden"
WINDOW = 512
COUNTED = 256  # the last tokens of each window are predicted; those before are their context
TINY_MARGIN = 1e-3  # logits closer than this may swap in any correct float32 implementation

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, its greedy continuation, and by how much each of its tokens won (in logits)."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    margin: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden outputs of one model. ``ppl`` is the perplexity of ``text``, first tokens replaced by BOS or not."""

    name: str
    cases: tuple[Case, ...]
    text: str
    first_ids: tuple[int, ...]
    tokens: int
    ppl: float
    bos_first: bool


def read_golden(name: str) -> Golden:
    """The golden outputs of model ``name`` (a file of tests/golden)."""
    data: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    cases = tuple(Case(tuple(c["prompt_ids"]), tuple(c["output_ids"]), tuple(c["margin"])) for c in data["cases"])
    ppl = data["perplexity"]
    return Golden(
        name=name,
        cases=cases,
        text=(FOLDER / ppl["file"]).read_text(),
        first_ids=tuple(ppl["ids_head"]),
        tokens=ppl["tokens"],
        ppl=ppl["ppl"],
        bos_first=ppl["first_token_replaced_by_bos"],
    )


class Sequences:
    """Sequences that grow together, each in blocks of its own: the least scheduler there is."""

    def __init__(self, ops: Ops, count: int, length: int, block_size: int = 16) -> None:
        self._ops = ops
        per_sequence = -(-length // block_size)
        self._kv: Kv = ops.new_kv(count * per_sequence, block_size)
        blocks = np.arange(count * per_sequence, dtype=np.int32)
        # Dealt like cards, so that no sequence's blocks lie side by side.
        self._tables = np.ascontiguousarray(blocks.reshape(per_sequence, count).T)
        self._lengths = np.zeros(count, np.int32)

    def step(self, tokens: Sequence[Sequence[int]], wanted: int = 1) -> Float32:
        """Append ``tokens[s]`` to sequence s; logits [sequences x wanted, vocab] of the last ``wanted`` of each."""
        sizes = np.array([len(t) for t in tokens], np.int32)
        starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
        positions = [np.arange(n, n + size) for n, size in zip(self._lengths, sizes, strict=True)]
        self._lengths = self._lengths + sizes
        rows = (starts[1:, None] - np.arange(wanted, 0, -1)).reshape(-1)
        batch = Batch(
            tokens=np.concatenate([np.asarray(t, np.int32) for t in tokens]),
            positions=np.concatenate(positions).astype(np.int32),
            starts=starts,
            context=self._lengths,
            tables=self._tables,
            rows=rows.astype(np.int32),
        )
        return forward(self._ops, self._kv, batch)


@dataclass(frozen=True, slots=True)
class Flip:
    """A token of ours that is not the golden one; ``margin`` says how clear the golden choice was."""

    case: int
    position: int
    token: int
    margin: float


def golden_steps(ops: Ops, cases: Sequence[Case], chunks: Iterable[int] = repeat(1)) -> Iterator[Float32]:
    """Decode all cases together along the golden ids: the logits [cases, vocab] of each output position.

    After the prompts, the steps have ``chunks`` tokens of each case. The array may be reused by the next step.
    """
    count = len(cases[0].output_ids)
    sequences = Sequences(ops, len(cases), max(len(case.prompt_ids) for case in cases) + count)
    yield sequences.step([case.prompt_ids for case in cases])
    at, sizes = 0, iter(chunks)
    while at < count - 1:
        end = min(at + next(sizes), count - 1)
        logits = sequences.step([case.output_ids[at:end] for case in cases], wanted=end - at)
        yield from logits.reshape(len(cases), end - at, -1).swapaxes(0, 1)
        at = end


def flips_at(position: int, logits: Float32, cases: Sequence[Case]) -> list[Flip]:
    """The cases whose best token at ``position`` is not the golden one.

    Every position is judged on the golden text before it, so where there are no flips, free greedy decoding
    gives the golden ids.
    """
    best = logits.argmax(axis=-1)
    return [
        Flip(number, position, int(best[number]), case.margin[position])
        for number, case in enumerate(cases)
        if best[number] != case.output_ids[position]
    ]


def text_windows(golden: Golden, ids: Sequence[int], bos_id: int | None) -> list[list[int]]:
    """The perplexity text's ``ids`` cut into whole windows. Raises ValueError when they are not the golden ids."""
    if tuple(ids[: len(golden.first_ids)]) != golden.first_ids or len(ids) != golden.tokens:
        raise ValueError(f"{golden.name}: the perplexity text has other token ids than the golden file's")
    windows = [list(ids[at : at + WINDOW]) for at in range(0, len(ids) - WINDOW + 1, WINDOW)]
    if golden.bos_first:
        assert bos_id is not None, "a model whose windows begin with BOS has one"
        windows = [[bos_id, *window[1:]] for window in windows]
    return windows


def window_logits(ops: Ops, windows: Sequence[Sequence[int]]) -> Iterator[Float32]:
    """Per window, the logits [COUNTED, vocab] that predict its last COUNTED tokens."""
    for window in windows:
        logits = Sequences(ops, 1, WINDOW).step([window[:-1]], wanted=COUNTED)
        yield logits


def surprise(logits: Float32, targets: Sequence[int]) -> float:
    """Sum of -ln p of the targets, one per row of ``logits``."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        top = row.max()
        total += math.log(float(np.exp(row - top).sum(dtype=np.float64))) - float(row[target] - top)
    return total


def perplexity(ops: Ops, windows: Sequence[Sequence[int]]) -> float:
    """exp of the mean surprise over the counted tokens of ``windows``."""
    total = sum(
        surprise(logits, window[-COUNTED:]) for logits, window in zip(window_logits(ops, windows), windows, strict=True)
    )
    return math.exp(total / (COUNTED * len(windows)))


def kl(expected: Float32, got: Float32) -> Float64:
    """[rows] KL(expected ‖ got) in nats between the softmaxes of two [rows, vocab] logits."""
    out = []
    for p, q in zip(expected, got, strict=True):
        log_p = log_softmax(p)
        out.append(float(np.exp(log_p) @ (log_p - log_softmax(q))))
    return np.array(out)


def log_softmax(logits: NDArray[np.float32]) -> Float64:
    """[vocab] natural-log probabilities of one row."""
    shifted = logits.astype(np.float64) - float(logits.max())
    return np.asarray(shifted - math.log(float(np.exp(shifted).sum())))
