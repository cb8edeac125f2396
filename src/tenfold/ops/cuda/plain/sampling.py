"""Choosing tokens by sorting, in float64: what ``ops.reference_sampling`` defines, for all rows at once."""

import torch
from torch import Tensor


def largest(logits: Tensor) -> Tensor:
    """[R] int32, of logits [R, V]: the lowest index of each row's largest; -1 where that is not finite or NaN."""
    best = logits.argmax(dim=1, keepdim=True)
    return torch.where(logits.gather(1, best).isfinite(), best, -1)[:, 0].int()


def choose(logits: Tensor, filters: Tensor) -> Tensor:
    """[R] int32: a token of each row of logits [R, V] float32, by its ``filters`` [R, 5] on the same device.

    These are temperature, top-k, top-p, min-p and a number in [0, 1), as ``SamplingOps.draw`` takes them; the result
    is -1 as for ``largest``.
    """
    order, kept, cumulative = distribution(logits, filters)
    rank = torch.arange(logits.shape[1], device=logits.device)
    chosen = (cumulative <= filters[:, 4:].double() * cumulative[:, -1:]).sum(dim=1, keepdim=True)
    chosen = torch.minimum(chosen, torch.where(kept, rank, 0).amax(dim=1, keepdim=True))
    best = largest(logits)
    return torch.where((best < 0) | (filters[:, 0] == 0), best, order.gather(1, chosen)[:, 0].int())


def distribution(logits: Tensor, filters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What ``choose`` draws from: tokens [R, V] in their order, which of them stay, and the mass up to each."""
    vocab = logits.shape[1]
    temperature, top_k, top_p, min_p, _ = torch.split(filters.double(), 1, dim=1)
    limited = (top_k > 0) & (top_k < vocab)
    rank = torch.arange(vocab, device=logits.device)
    values, order = torch.sort(logits + 0.0, dim=1, descending=True, stable=True)
    order = torch.where(limited | (top_p < 1), order, rank)
    distance = logits.double() - values[:, :1].double()
    weights = torch.exp(distance / torch.where(temperature == 0, 1, temperature)).gather(1, order)

    kept = ~limited | (rank < top_k)
    cumulative = torch.where(kept, weights, 0).cumsum(dim=1)
    needed = (cumulative < top_p * cumulative[:, -1:]).sum(dim=1, keepdim=True)
    kept &= (top_p >= 1) | (rank <= needed)
    kept &= weights >= min_p
    return order, kept, torch.where(kept, weights, 0).cumsum(dim=1)


def summarize(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The largest logit m [R], ln of the sum of e^(x - m) [R], and the ``count`` largest [R, count]: ids, logits.

    Ids are int32, best first, ties by lower index; all of a row is 0 and its ids -1 where ``largest`` gives -1.
    """
    values, order = torch.sort(logits + 0.0, dim=1, descending=True, stable=True)
    finite = (largest(logits) >= 0)[:, None]
    top = torch.where(finite, values[:, :1], 0)
    log_sum = torch.exp(logits.double() - top.double()).sum(dim=1, keepdim=True).log().float()
    log_sum = torch.where(finite, log_sum, 0)
    ids = torch.where(finite, order[:, :count], -1).int()
    return top[:, 0], log_sum[:, 0], ids, torch.where(finite, values[:, :count], 0)


def change(logits: Tensor, rows: Tensor, ids: Tensor, scale: Tensor, amount: Tensor) -> None:
    """In place, of logits [R, V] those at ``rows`` [E], ``ids`` [E], int32.

    First each whose ``scale`` [E] is not 1 is divided by it where it is above 0, else multiplied (a row has no such
    token twice); then ``amount`` [E] is taken off, for every entry: infinity leaves -infinity.
    """
    scaled = scale != 1
    where = rows[scaled].long(), ids[scaled].long()
    values = logits[where]
    logits[where] = torch.where(values > 0, values / scale[scaled], values * scale[scaled])
    logits.index_put_((rows.long(), ids.long()), -amount, accumulate=True)


def mask(logits: Tensor, rows: Tensor, bits: Tensor) -> None:
    """In place: of ``rows`` [M] only the tokens whose bit is set in ``bits`` [M, V / 32, rounded up] int32 stay."""
    token = torch.arange(logits.shape[1], device=logits.device)
    allowed = (bits[:, token >> 5] >> (token & 31)) & 1
    logits[rows.long()] = torch.where(allowed == 0, -torch.inf, logits[rows.long()])
