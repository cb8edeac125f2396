"""The real models against golden float32 outputs: the reference exactly, the C++ kernels closely.

``python -m benchmarks.accuracy`` measures the same things in full.
"""

from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

import pytest

from benchmarks.golden import (
    TINY_MARGIN,
    Flip,
    Golden,
    flips_at,
    golden_steps,
    kl,
    perplexity,
    read_golden,
    text_windows,
)
from tenfold.model.checkpoint import Checkpoint, load_checkpoint
from tenfold.ops.cpu import CpuOps
from tenfold.ops.reference import ReferenceOps


@dataclass(frozen=True, slots=True)
class Run:
    """A model, its golden outputs, and what both backends did on the golden continuations."""

    golden: Golden
    checkpoint: Checkpoint
    cpu: CpuOps
    reference_flips: list[Flip] = field(default_factory=list)
    cpu_flips: list[Flip] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)  # nats, reference to cpu, per position and case


@pytest.fixture(scope="module", params=["smollm2-135m", "gemma3-270m"])
def run(request: pytest.FixtureRequest) -> Run:
    path: Path = request.getfixturevalue("smollm2_path" if request.param == "smollm2-135m" else "gemma_path")
    golden = read_golden(request.param)
    checkpoint = load_checkpoint(path)
    cpu = CpuOps(checkpoint.weights, threads=2)
    reference = ReferenceOps(checkpoint.weights)
    found = Run(golden, checkpoint, cpu)
    # One token at a time for a while, then more, for each step of the reference multiplies all of its float32 weights.
    chunks = chain(repeat(1, 5), repeat(20))
    steps = zip(golden_steps(reference, golden.cases, chunks), golden_steps(cpu, golden.cases), strict=True)
    for position, (expected, got) in enumerate(steps):
        found.reference_flips.extend(flips_at(position, expected, golden.cases))
        found.cpu_flips.extend(flips_at(position, got, golden.cases))
        found.kl.extend(kl(expected, got).tolist())
    return found


def test_reference_decodes_the_golden_ids(run: Run) -> None:
    assert [flip for flip in run.reference_flips if flip.margin >= TINY_MARGIN] == []


def test_cpu_is_close_in_divergence(run: Run) -> None:
    assert sum(run.kl) / len(run.kl) <= 0.005


def test_cpu_flips_only_where_it_is_close(run: Run) -> None:
    """Quantized activations move a logit by a few tenths: no clear choice of the model may change."""
    assert [flip for flip in run.cpu_flips if flip.margin > 1.0] == []


def test_cpu_perplexity_is_within_one_percent(run: Run) -> None:
    tokenizer = run.checkpoint.tokenizer()
    ids = tokenizer.encode(run.golden.text, add_special=False)
    windows = text_windows(run.golden, ids, tokenizer.bos_id)
    assert perplexity(run.cpu, windows) == pytest.approx(run.golden.ppl, rel=0.01)
