"""Choosing tokens on the device: right, and how long beside torch's own sorts."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.cuda.timing import Limits, Row, median_time
from tenfold.ops.cuda.fused import sampling as fused
from tenfold.ops.cuda.plain import sampling as plain

_VOCAB = 128_256
_FILTERS = {  # temperature, top-k, top-p, min-p
    "temperature": (1.0, 0.0, 1.0, 0.0),
    "min-p": (0.8, 0.0, 1.0, 0.05),
    "top-k 50": (1.0, 50.0, 1.0, 0.0),
    "top-p 0.95": (1.0, 0.0, 0.95, 0.0),
    "top-k 50, top-p 0.9": (0.7, 50.0, 0.9, 0.0),
    "all": (1.5, 200.0, 0.9, 0.01),
    "greedy": (0.0, 0.0, 1.0, 0.0),
}


def check(device: torch.device | str, rows: int = 64, vocab: int = _VOCAB) -> list[str]:
    """What is not right on ``device``, in words: the kernels against plain torch, where a sum may be off by 1e-5."""
    wrong = []
    for name, logits in _logits(rows, vocab, device):
        if name == "broken":
            logits[0, 7], logits[1, 9], logits[2] = torch.nan, torch.inf, -torch.inf
        if not torch.equal(fused.largest(logits), plain.largest(logits)):
            wrong.append(f"largest of {name} logits")
        for kind, each in _FILTERS.items():
            filters = _filters(each, rows, device)
            order, kept, ends = plain.distribution(logits, filters)
            tokens = fused.choose(logits, filters)
            position = (order == tokens.clamp(min=0)[:, None]).int().argmax(dim=1, keepdim=True)
            mass, end = ends[:, -1:], ends.gather(1, position)
            own = end - torch.where(position > 0, ends.gather(1, (position - 1).clamp(min=0)), 0)
            drawn = filters[:, 4:]
            fits = (end >= (drawn - 1e-5) * mass) & (end - own <= (drawn + 1e-5) * mass)
            fits &= (kept.gather(1, position) & (own > 0)) | (end / mass > 1 - 1e-5)
            best = plain.largest(logits)
            right = torch.where((best < 0) | (filters[:, 0] == 0), tokens == best, fits[:, 0] & (tokens >= 0))
            if not right.all():
                wrong.append(f"{kind} of {name} logits: {int((~right).sum())} of {rows} rows")
        for count in (1, 20):
            got, wanted = fused.summarize(logits, count), plain.summarize(logits, count)
            if not all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(got, wanted, strict=True)):
                wrong.append(f"summary of {name} logits")
        wrong += _changes(logits, name)
    return wrong


def _changes(logits: Tensor, name: str) -> list[str]:
    """What is not right about changing these."""
    rows, vocab = logits.shape
    generator = torch.Generator(logits.device).manual_seed(5)

    def below(bound: int, *shape: int) -> Tensor:
        return torch.randint(0, bound, shape, generator=generator, device=logits.device, dtype=torch.int32)

    ids = torch.arange(500, device=logits.device, dtype=torch.int32) * (vocab // 500)
    amount = below(5, 500) / 2.0
    amount[::50] = torch.inf
    change = (below(rows, 500), ids, 1 + below(2, 500) / 2.0, amount)
    bits = below(2**31 - 1, rows // 2, -(-vocab // 32))
    which = torch.randperm(rows, generator=generator, device=logits.device, dtype=torch.int32)[: rows // 2]
    results = []
    for sampling in (fused, plain):
        mine = logits.clone()
        sampling.change(mine, *change)
        changed = mine.clone()
        sampling.mask(mine, which, bits)
        results.append((changed, mine))
    return [
        f"{what} of {name} logits"
        for what, got, wanted in zip(("changes", "masks"), *results, strict=True)
        if not torch.allclose(got, wanted, rtol=1e-6, atol=1e-6, equal_nan=True)
    ]


def run(limits: Limits) -> list[Row]:
    """Times for 64 rows and for 1, of captured graphs."""
    device = torch.device("cuda")
    table = []
    for rows in (64, 1):
        kinds = dict(_logits(rows, _VOCAB, device))
        for name, call in _calls(kinds["peaked"], kinds["flat"]):
            captured = "sort" not in name  # which may wait for its own memory
            seconds = median_time(call, graph=captured)
            table.append(Row(name, f"{rows} x {_VOCAB}", seconds * 1e6, 4.0 * rows * _VOCAB))
    return table


def _calls(peaked: Tensor, flat: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    rows, device = len(peaked), peaked.device

    def choosing(kind: str, logits: Tensor = peaked) -> Callable[[], object]:
        filters = _filters(_FILTERS[kind], rows, device)
        return lambda: fused.choose(logits, filters)

    def drawing() -> Tensor:
        weights = torch.softmax(peaked, dim=1)
        return (weights / torch.empty_like(weights).exponential_()).argmax(dim=1)

    def sorting() -> Tensor:
        weights, order = torch.sort(torch.softmax(peaked, dim=1), dim=1, descending=True)
        left = torch.where(weights.cumsum(dim=1) - weights < 0.9, weights, 0)
        return order.gather(1, (left / torch.empty_like(left).exponential_()).argmax(dim=1, keepdim=True))

    yield "torch argmax", lambda: torch.argmax(peaked, dim=1)
    yield "largest", lambda: fused.largest(peaked)
    yield "torch softmax, draw", drawing
    yield "choose by temperature", choosing("temperature")
    yield "torch softmax, sort, cumsum, draw", sorting
    for kind in ("top-k 50", "top-p 0.95", "top-k 50, top-p 0.9"):
        yield f"choose by {kind}", choosing(kind)
    yield "choose by top-p 0.95, most of the vocabulary", choosing("top-p 0.95", flat)
    yield "torch topk 20, logsumexp", lambda: (torch.topk(peaked, 20, dim=1), torch.logsumexp(peaked, dim=1))
    yield "summarize 20", lambda: fused.summarize(peaked, 20)
    yield "change 512", _changing(peaked.clone())


def _changing(logits: Tensor) -> Callable[[], object]:
    entries = torch.arange(512, device=logits.device, dtype=torch.int32)
    rows, scale = entries % len(logits), torch.full((512,), 1.0001, device=logits.device)
    return lambda: fused.change(logits, rows, entries, scale, scale)


def _logits(rows: int, vocab: int, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    """By kind. "peaked" is like a model's: the probabilities of ranks fall with their power 1.6."""
    generator = torch.Generator(device).manual_seed(2)
    noise = torch.randn((rows, vocab), generator=generator, device=device)
    rank = torch.rand((rows, vocab), generator=generator, device=device).argsort(dim=1)
    peaked = 20 - 1.6 * torch.log(rank + 1.0) + noise / 50
    yield "peaked", peaked
    yield "flat", noise.clone()
    yield "tied", (2 * noise).bfloat16().float()
    yield "broken", peaked.clone()


def _filters(each: tuple[float, ...], rows: int, device: torch.device | str) -> Tensor:
    drawn = torch.linspace(0, 1 - 2.0**-53, rows, dtype=torch.float64, device=device)
    return torch.cat((torch.tensor([each] * rows, dtype=torch.float64, device=device), drawn[:, None]), dim=1)
