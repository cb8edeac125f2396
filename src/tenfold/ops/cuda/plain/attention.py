"""Ragged paged attention in plain torch, sequence by sequence."""

import torch
from torch import Tensor

from tenfold.ops.cuda.device_plan import DevicePlan, Sequences


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
) -> None:
    """Causal attention of the scaled queries ``q`` [T, H, D] over the keys of their sequences, to ``out`` [T, H x D].

    ``k_cache``, ``v_cache`` [blocks, K, block_size, D] in any float type. Position p sees the keys p - window + 1 … p;
    window 0: all up to p. ``softcap`` c > 0 makes a score s into c x tanh(s / c). Rows of sequences whose context is 0
    become 0. ``dense``: the keys and values [T, K, D] of the step's own rows, which may be read in place of the
    cache's by sequences without earlier context; here the cache is always read.
    """
    assert window == plan.host.window
    out.zero_()
    heads, head_dim = q.shape[1:]
    kv_heads, block_size = k_cache.shape[1:3]
    starts, contexts = batch.starts.tolist(), batch.context.tolist()
    for s, context in enumerate(contexts):
        if not context:
            continue
        rows = slice(starts[s], starts[s + 1])
        blocks = batch.tables[s, : -(-context // block_size)].long()
        keys, values = (
            cache[blocks].float().transpose(1, 2).reshape(-1, kv_heads, head_dim)[:context]
            for cache in (k_cache, v_cache)
        )
        queries = q[rows].float().unflatten(1, (kv_heads, heads // kv_heads))  # [n, K, G, D]
        scores = torch.einsum("nkgd,jkd->kgnj", queries, keys)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        positions = torch.arange(context - len(queries), context, device=q.device)
        distance = positions[:, None] - torch.arange(context, device=q.device)
        seen = (distance >= 0) & (distance < window) if window else distance >= 0
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[rows] = torch.einsum("kgnj,jkd->nkgd", weights, values).flatten(1).to(out.dtype)
