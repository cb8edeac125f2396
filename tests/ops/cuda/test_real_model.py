"""The default model by the CUDA backend's pass, in plain torch on the CPU, against golden float32 outputs."""

from itertools import islice
from pathlib import Path

import torch

from benchmarks.golden import TINY_MARGIN, flips_at, golden_steps, kl, read_golden
from tenfold.model.checkpoint import load_checkpoint
from tenfold.ops.base import Batch, Float32
from tenfold.ops.cuda.ops import CudaOps, PagedKv
from tenfold.ops.reference import ReferenceOps

_POSITIONS = 12


class _OnTheHost:
    """The ops, with logits as arrays."""

    def __init__(self, ops: CudaOps) -> None:
        self._ops = ops
        self.spec = ops.spec
        self.new_kv = ops.new_kv

    def forward(self, batch: Batch, kv: PagedKv) -> Float32:
        logits: Float32 = self._ops.forward(batch, kv).float().numpy()
        return logits


def test_the_default_model_decodes_the_golden_ids(smollm2_path: Path) -> None:
    weights, cases = load_checkpoint(smollm2_path).weights, read_golden("smollm2-135m").cases
    cpu = torch.device("cpu")
    ops = CudaOps(weights, form="bf16", device=cpu, dtype=torch.float32, max_rows=4096, max_context=1024)
    steps = golden_steps(_OnTheHost(ops), cases)  # type: ignore[arg-type]
    flips, apart = [], []
    for position, (got, wanted) in enumerate(islice(zip(steps, golden_steps(ReferenceOps(weights), cases)), _POSITIONS)):
        flips += [flip for flip in flips_at(position, got, cases) if flip.margin >= TINY_MARGIN]
        apart += kl(wanted, got).tolist()
    assert flips == []
    assert max(apart) < 1e-6
