"""How much of a GPU's memory keys and values may take: what the weights, the largest step and the reserve leave."""

from typing import TYPE_CHECKING

import torch

from tenfold.core.config import CudaConfig
from tenfold.core.errors import ConfigError

if TYPE_CHECKING:
    from tenfold.ops.cuda.ops import CudaOps

_SLACK = 1.1  # of the largest step's memory: the allocator keeps it in pieces


def room(ops: "CudaOps", settings: CudaConfig, device: torch.device) -> int:
    """Bytes; tries the largest step. Raises ConfigError where there are none."""
    if device.type != "cuda":
        return 1 << 30
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        kv = ops.trial_kv()
        before = torch.cuda.memory_allocated(device)
        ops.largest_step(kv)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the GPU has no memory for a step of so many tokens: lower --max-step-tokens ({error})"
        ) from error
    step = torch.cuda.max_memory_allocated(device) - before + ops.scratch_bytes
    del kv
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    left = free - int(step * _SLACK) - settings.reserved(total) - ops.graph_bytes
    if left <= 0:
        raise ConfigError(
            f"the GPU has {free / 2**30:.1f} GiB free beside the weights, and a step of the largest size takes "
            f"{step / 2**30:.1f}: nothing is left for keys and values; lower --max-step-tokens or --memory-reserve"
        )
    return left
