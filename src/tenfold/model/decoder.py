"""The forward pass: one decoder for every architecture a ModelSpec can describe."""

from collections.abc import Callable

from tenfold.ops.base import Batch, Kv, Logits, Ops, WholePass


def forward(ops: Ops, kv: Kv, batch: Batch) -> Logits:
    """Logits [R, vocab] of ``batch.rows``; the batch's keys and values are left in ``kv``."""
    x = ops.embed(batch)
    for layer in range(ops.spec.layers):
        q = ops.qkv(layer, x, batch, kv)
        a = ops.attend(layer, q, batch, kv)
        x = ops.attn_out(layer, a, x)
        x = ops.mlp(layer, x)
    return ops.logits(x, batch)


def forward_of(ops: Ops) -> Callable[[Batch, Kv], Logits]:
    """:func:`forward` over ``ops``, in the form that takes the fewest calls."""
    if isinstance(ops, WholePass):
        return ops.forward
    return lambda batch, kv: forward(ops, kv, batch)
