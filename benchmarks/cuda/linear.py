"""Linears on the device, at the sizes of Llama 3 8B: right, and how close to its memory's or its arithmetic's speed.

Weights rotate among copies that together exceed the L2 cache several times over, inside CUDA graphs. The rows called
``layer`` decide: the four products of a layer and what is around them (all but attention), by torch and by kernels of
our own, with and without what these do by the way.
"""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.cuda.compiling import compiling
from benchmarks.cuda.timing import Limits, Row, error, median_time
from tenfold.ops.cuda.fused import gated, gemm, int4, invariant, norms
from tenfold.ops.cuda.fused.gemm import Tile
from tenfold.ops.cuda.linear import DenseLinear, Fp8Linear, Int4Linear, Products, fused_products
from tenfold.ops.cuda.plain import int4 as plain_int4
from tenfold.ops.cuda.plain.norms import quantized

Shapes = dict[str, tuple[int, int]]

SHAPES: Shapes = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
_EPS = 1e-5
_LAYERS = 8
_DISTINCT = 320e6  # bytes of weights that rotate
_ONCE = 500e6  # a matrix of so many bytes need not
_TILES: dict[tuple[str, int], tuple[Tile, ...]] = {  # tried beside the rule's own, for a form and rows of x
    ("fp8", 16): (Tile(64, 256, 8, 4), Tile(64, 128, 4, 5)),
    ("int4", 1): (Tile(16, 1024, 4, 4), Tile(16, 2048, 8, 3), Tile(32, 1024, 4, 4), Tile(64, 1024, 4, 3)),
    ("int4", 16): (Tile(32, 512, 16, 3), Tile(64, 128, 4, 5), Tile(128, 128, 4, 4)),
    ("int4", 64): (Tile(64, 128, 4, 3), Tile(128, 64, 8, 4)),
}
_OTHER_INVARIANT = (Tile(64, 64, 4, 4), 128)

Linear = DenseLinear | Fp8Linear | Int4Linear


def make(form: str, n: int, k: int, device: torch.device | str, products: Products) -> Linear:
    """Random weights of about unit gain."""
    if form == "int4":
        words = torch.randint(-(2**31), 2**31, (n // 16, k // 32, 64), device=device, dtype=torch.int32)
        scale = (0.5 + torch.rand(n // 16, k // 32, 16, device=device)) * 0.21 / k**0.5
        pairs = torch.stack((scale.half(), (-7.5 * scale).half()), dim=3).view(torch.int32)
        return Int4Linear(words, pairs[..., 0].contiguous(), products)
    w = torch.randn(n, k, dtype=torch.bfloat16, device=device) / k**0.5
    if form == "bf16":
        return DenseLinear(w, products)
    values, factors = quantized(w.float())
    return Fp8Linear(values, factors[:, 0].contiguous(), torch.bfloat16, products)


def weights_of(linear: Linear) -> Tensor:
    """In float32."""
    if isinstance(linear, Int4Linear):
        return plain_int4.unpack(linear.words, linear.scales, torch.float32)
    return linear.w.float() if isinstance(linear, DenseLinear) else linear.w.float() * linear.scale[:, None]


# Correctness.


def check(device: torch.device | str, shapes: Shapes = SHAPES) -> list[str]:
    """What is not right on ``device``, in words: bfloat16 against products in float32."""
    with compiling():
        list(_wrong(device, shapes))
    return list(_wrong(device, shapes))


def _wrong(device: torch.device | str, shapes: Shapes) -> Iterator[str]:
    products = fused_products()
    for name, (n, k) in shapes.items():
        for form in ("bf16", "fp8", "int4"):
            torch.manual_seed(n + k)
            linear = make(form, n, k, device, products)
            for what, got, wanted, bound in _pairs(name, linear, device):
                apart = error(got, wanted)
                if not apart < bound:
                    yield f"{what} {form} of {name}: off by {apart:.2g}, not {bound}"
            if name == "o":
                yield from (f"{what} {form} of {name}" for what in _unequal(linear, device))


def _pairs(name: str, linear: Linear, device: torch.device | str) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """(what, what a kernel gave, what it should be, the most it may be off): what a model does with such a matrix."""
    n, k = linear.outputs, linear.inputs
    w = weights_of(linear)
    for rows in (1, 2, 3, 5, 16, 40, 64, 100, 300) if name == "o" else (1, 5, 16, 64, 300):
        x = torch.randn(rows, k, dtype=torch.bfloat16, device=device)
        wanted = x.float() @ w.t()
        rounded = linear.quantizes(rows)
        if name == "head":
            yield f"logits of {rows} rows,", linear.logits(x), wanted, 0.05 if rounded else 0.005
            continue
        out = torch.full((rows, n), math.nan, dtype=torch.bfloat16, device=device)
        yield f"{rows} rows,", linear(x, out=out), wanted, 0.05 if rounded else 0.004
        if linear.fuses(rows):
            yield _fused_pair(name, linear, x, wanted)


def _fused_pair(name: str, linear: Linear, x: Tensor, y: Tensor) -> tuple[str, Tensor, Tensor, float]:
    if name == "gate_up":
        gate, up = y.chunk(2, dim=1)
        return f"gated {len(x)} rows,", linear.gated(x, "silu"), torch.nn.functional.silu(gate) * up, 0.012
    residual = torch.randn(y.shape, dtype=torch.bfloat16, device=x.device)
    wanted = residual.float() + y
    linear.add(x, residual)
    return f"added {len(x)} rows,", residual, wanted, 0.006


def _unequal(linear: Linear, device: torch.device | str) -> Iterator[str]:
    """Where bits that should be equal are not."""
    x = torch.randn(300, linear.inputs, dtype=torch.bfloat16, device=device)
    whole = _invariant(linear, x)
    if not error(whole, x.float() @ weights_of(linear).t()) < 0.006:
        yield "batch-invariant rows wrong,"
    for rows in (slice(0, 1), slice(7, 14), slice(64, 128), slice(100, 300)):
        if not torch.equal(_invariant(linear, x[rows].contiguous()), whole[rows]):
            yield f"batch-invariant rows {rows.start} … {rows.stop - 1} differ,"


def _invariant(linear: Linear, x: Tensor, **tile: Any) -> Tensor:
    if isinstance(linear, Int4Linear):
        return invariant.product(x, linear.words, scales=linear.scales, **tile)
    scale = linear.scale if isinstance(linear, Fp8Linear) else None
    return invariant.product(x, linear.w, scale=scale, **tile)


# Times.


@dataclass(frozen=True, slots=True)
class _Case:
    """Calls of one kind, with weights of their own; the time of one of them is wanted."""

    name: str
    shape: str
    calls: Sequence[Callable[[], object]]
    bytes: float = 0.0
    flops: float = 0.0
    note: str = ""

    def all(self) -> None:
        """One after the other."""
        for call in self.calls:
            call()

    def timed(self) -> Row:
        """Where they fail, why."""
        try:
            seconds = median_time(self.all, seconds=0.03, graph=not self.flops) / len(self.calls)
        except Exception as failure:  # whatever it was: the other rows are wanted
            reason = str(failure).strip().partition("\n")[0][:100]
            note = f"{self.note} failed: {type(failure).__name__}: {reason}".strip()
            return Row(self.name, self.shape, math.nan, note=note)
        return Row(self.name, self.shape, seconds * 1e6, self.bytes, self.flops, self.note)


def run(limits: Limits, shapes: Shapes = SHAPES, device: torch.device | str = "cuda") -> list[Row]:
    """The rows of all that is compared."""
    with compiling():
        for case in _cases(shapes, device, only_one=True):
            with suppress(Exception):  # it comes again when its time is taken
                case.calls[0]()
    gc.collect()
    gc.freeze()  # every capture collects garbage: what is old need not be looked through again
    try:
        return [case.timed() for case in _cases(shapes, device)]
    finally:
        gc.unfreeze()


def _cases(shapes: Shapes, device: torch.device | str, *, only_one: bool = False) -> Iterator[_Case]:
    """``only_one``: of all weights that should rotate."""
    for name, (n, k) in shapes.items():
        yield from _few(name, n, k, device, only_one)
    for name in shapes:
        if name != "head":
            yield from _many(name, *shapes[name], device)
    yield from _together(shapes, device, 1 if only_one else _LAYERS)


def _few(name: str, n: int, k: int, device: torch.device | str, only_one: bool) -> Iterator[_Case]:
    """Few rows, each form."""
    products = fused_products()
    for form in ("bf16", "fp8", "int4"):
        first = make(form, n, k, device, products)
        many = 1 if only_one or first.nbytes > _ONCE else math.ceil(_DISTINCT / first.nbytes)
        linears = [first, *(make(form, n, k, device, products) for _ in range(many - 1))]
        for rows in (1, 4, 16, 64):
            x = torch.randn(rows, k, dtype=torch.bfloat16, device=device)
            shape, moved = f"{name} {rows} x {n} x {k}", first.nbytes + 2 * rows * (n + k)
            if form == "bf16":
                mm = [_bound(torch.mm, x, linear.w.t()) for linear in linears if isinstance(linear, DenseLinear)]
                yield _Case("torch.mm", shape, mm, moved)
            if first.quantizes(rows):
                yield _Case("fp8, x too", shape, [_bound(linear, x) for linear in linears], moved)
            own = _tile(first, rows)
            yield _Case(f"few {form}", shape, [_skinny(linear, x) for linear in linears], moved, note=str(own))
            if name in ("o", "gate_up"):
                for tile in set(_TILES.get((form, rows), ())) - {own}:
                    calls = [_skinny(linear, x, tile) for linear in linears]
                    yield _Case(f"few {form}", shape, calls, moved, note=str(tile))
            if rows in (1, 64) and form == "bf16" and name in ("o", "gate_up"):
                yield _Case("invariant", shape, [_bound(_invariant, linear, x) for linear in linears], moved)


def _tile(linear: Linear, rows: int) -> Tile:
    """The rule's."""
    if not isinstance(linear, Int4Linear):
        return gemm.tile_for(rows, linear.outputs, linear.inputs, linear.w.element_size())
    if linear.fuses(rows):
        return int4.tile_for(rows, linear.outputs)
    return int4.cut_for(rows, linear.outputs, linear.inputs).tile


def _skinny(linear: Linear, x: Tensor, tile: Tile | None = None) -> Callable[[], object]:
    """Few rows, but to 4-bit weights those that are more."""
    if not isinstance(linear, Int4Linear):
        scale = linear.scale if isinstance(linear, Fp8Linear) else None
        return lambda: gemm.skinny(x, linear.w, scale=scale, tile=tile)
    if linear.fuses(len(x)):
        return lambda: int4.skinny(x, linear.words, linear.scales, tile=tile)
    cut = int4.cut_for(len(x), linear.outputs, linear.inputs)
    cut = replace(cut, tile=tile or cut.tile)
    return lambda: int4.tiled(x, linear.words, linear.scales, cut=cut)


def _many(name: str, n: int, k: int, device: torch.device | str) -> Iterator[_Case]:
    """A large step."""
    products, rows = fused_products(), 8192
    x = torch.randn(rows, k, dtype=torch.bfloat16, device=device)
    shape, work = f"{name} {rows} x {n} x {k}", 2.0 * rows * n * k
    dense, fp8 = make("bf16", n, k, device, products), make("fp8", n, k, device, products)
    pair = gemm.quantize_rows(x)
    yield _Case("torch.mm", shape, [_bound(dense, x)], flops=work)
    yield _Case("fp8, x too", shape, [_bound(fp8, pair)], flops=work)
    if name in ("o", "gate_up"):
        yield _Case("fp8, x too", shape, [_bound(fp8, x)], flops=work, note="with rounding x")
        packed = make("int4", n, k, device, products)
        yield _Case("int4, unpacked", shape, [_bound(packed, x)], flops=work)
    if name == "o":
        yield _Case("invariant", shape, [_bound(_invariant, dense, x)], flops=work)
        tile, together = _OTHER_INVARIANT

        def other() -> Tensor:
            return _invariant(dense, x, tile=tile, together=together)

        bits = "equal" if torch.equal(_invariant(dense, x), other()) else "other"
        yield _Case("invariant", shape, [other], flops=work, note=f"{tile}, {together} rows: {bits} bits")


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    o: Linear
    gate_up: Linear
    down: Linear

    def all(self) -> tuple[Linear, ...]:
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.all())


def _together(shapes: Shapes, device: torch.device | str, count: int) -> Iterator[_Case]:
    """One layer, of several that follow one another."""
    hidden, products = shapes["o"][0], fused_products()
    weight = torch.ones(hidden, device=device)
    for form in ("bf16", "fp8", "int4"):
        layers = [
            _Layer(*(make(form, *shapes[name], device, products) for name in ("qkv", "o", "gate_up", "down")))
            for _ in range(count)
        ]
        ways = [("apart", _apart), ("fused", _fused)]
        if form == "bf16":
            ways.insert(0, ("torch.mm", _by_torch))
        for rows in (1, 8, 16, 64):
            x = torch.randn(rows, hidden, dtype=torch.bfloat16, device=device)
            for what, compute in ways:
                if compute is _fused and not all(each.fuses(rows) for each in layers[0].all()):
                    continue
                calls = [_bound(compute, layer, x, weight) for layer in layers]
                yield _Case(f"layer, {what}", f"{form}, {rows} rows", calls, layers[0].nbytes)


def _by_torch(layer: _Layer, x: Tensor, weight: Tensor) -> None:
    def mm(a: Tensor, linear: Linear) -> Tensor:
        assert isinstance(linear, DenseLinear)
        return torch.mm(a, linear.w.t())

    _compute(layer, x, weight, mm)


def _apart(layer: _Layer, x: Tensor, weight: Tensor) -> None:
    _compute(layer, x, weight, lambda a, linear: linear(a))


def _compute(layer: _Layer, x: Tensor, weight: Tensor, mm: Callable[[Tensor, Linear], Tensor]) -> None:
    """A kernel for each part."""
    a = mm(_tensor(norms.rms_norm(x, weight, _EPS)), layer.qkv)
    b = mm(a[:, : x.shape[1]].contiguous(), layer.o)
    c = mm(_tensor(norms.add_rms_norm(x, b, weight, _EPS)), layer.gate_up)
    norms.add(x, mm(_tensor(gated.gated(c, "silu")), layer.down))


def _fused(layer: _Layer, x: Tensor, weight: Tensor) -> None:
    """Two norms, four products with all that follows them, and one kernel that stands for attention, as above."""
    a = layer.qkv(_tensor(norms.rms_norm(x, weight, _EPS)))
    layer.o.add(a[:, : x.shape[1]].contiguous(), x)
    inner = layer.gate_up.gated(_tensor(norms.rms_norm(x, weight, _EPS)), "silu")
    layer.down.add(inner, x)


def _tensor(y: Any) -> Tensor:
    assert isinstance(y, Tensor)
    return y


def _bound(call: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    return lambda: call(*arguments)
