"""The default model by the CUDA backend's pass, in plain torch on the CPU, against golden float32 outputs."""

from itertools import islice
from pathlib import Path

import torch

from benchmarks.golden import TINY_MARGIN, flips_at, golden_steps, kl, read_golden
from tenfold.model.checkpoint import load_checkpoint
from tenfold.ops.base import Batch, Float32
from tenfold.ops.cuda.ops import CudaOps, Residual
from tenfold.ops.reference import ReferenceOps

_POSITIONS = 4


class _OnTheHost(CudaOps):
    """The ops, with logits as arrays."""

    def logits(self, x: Residual, batch: Batch) -> Float32:  # type: ignore[override]
        return super().logits(x, batch).float().numpy()  # type: ignore[no-any-return]


def test_the_default_model_decodes_the_golden_ids(smollm2_path: Path) -> None:
    weights, cases = load_checkpoint(smollm2_path).weights, read_golden("smollm2-135m").cases
    cpu = torch.device("cpu")
    ops = _OnTheHost(weights, form="bf16", device=cpu, dtype=torch.float32, max_rows=4096, max_context=1024)
    steps = golden_steps(ops, cases)
    flips, apart = [], []
    for position, (got, wanted) in enumerate(
        islice(zip(steps, golden_steps(ReferenceOps(weights), cases), strict=True), _POSITIONS)
    ):
        flips += [flip for flip in flips_at(position, got, cases) if flip.margin >= TINY_MARGIN]
        apart += kl(wanted, got).tolist()
    assert flips == []
    assert max(apart) < 1e-6
