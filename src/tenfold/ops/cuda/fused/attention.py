"""Ragged paged attention on Triton kernels: see ``decode_attention`` and ``prefill_attention``.

No kernel is specialized for where a plan's arrays lie or how long they are, for both change with every step.
"""

from torch import Tensor

from tenfold.ops.cuda.device_plan import DevicePlan, Sequences
from tenfold.ops.cuda.fused.decode_attention import DecodeShape, attend_short
from tenfold.ops.cuda.fused.prefill_attention import PrefillShape, attend_long


def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: DevicePlan,
    batch: Sequences,
    *,
    window: int,
    softcap: float = 0.0,
    out: Tensor,
    dense: tuple[Tensor, Tensor] | None = None,
    decode: DecodeShape | None = None,
    prefill: PrefillShape | None = None,
) -> None:
    """As :func:`tenfold.ops.cuda.plain.attention.attend`, but that sequences in the plan's fresh tiles read ``dense``.

    ``dense`` [T, K, D]: views whose rows may lie further apart; needed where the plan has fresh tiles. The cache is of
    ``q``'s type or float8_e4m3fn. Scores and sums are float32; weights are rounded to the type of the keys that are
    read (float16 where those are fp8). ``decode`` and ``prefill`` replace the default shapes.
    """
    assert window == plan.host.window
    attend_short(q, k_cache, v_cache, plan, batch, softcap, out, decode)
    attend_long(q, k_cache, v_cache, plan, batch, softcap, out, dense, prefill)
