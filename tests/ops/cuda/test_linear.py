"""Linears: Triton's kernels against plain torch, and packed weights against what was stored."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.core.errors import ConfigError, CorruptModel
from tenfold.ops.cuda.fused import gemm, int4, invariant
from tenfold.ops.cuda.linear import (
    DenseLinear,
    Fp8Linear,
    Int4Linear,
    JoinedLinear,
    Linear,
    fused_products,
    plain_products,
)
from tenfold.ops.cuda.packing import form_of, join, pack
from tenfold.ops.cuda.packing import invariant as made_invariant
from tenfold.ops.cuda.plain import gemm as plain_gemm
from tenfold.ops.cuda.plain import int4 as plain_int4
from tenfold.ops.cuda.plain.norms import quantized
from tenfold.ops.cuda.rounding import round_groups
from tenfold.ops.tensors import RandomTensor, Tensor
from tests.helpers.models import make_tensor

SHAPES = ((1, 50, 37), (3, 20, 200), (9, 20, 64), (40, 18, 64))  # T, N, K
BLOCKS = ((1, 48, 64), (1, 16, 1024), (2, 16, 96), (3, 32, 288), (5, 80, 64), (9, 48, 128))
SMALL = gemm.Tile(rows=16, depth=128, warps=4, stages=3)  # two of the second shapes


def random(*shape: int, dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def near(got: Any, wanted: Any, tolerance: float | None = None) -> None:
    assert got.shape == wanted.shape
    rough = tolerance or (3e-5 if got.dtype == torch.float32 else 1e-2)
    assert float((got.float() - wanted.float()).norm()) <= rough * float(wanted.float().norm())


Operands = tuple[ModuleType, ModuleType, tuple[Any, ...], dict[str, Any]]


def operands(form: str, n: int, k: int, dtype: Any, device: Any) -> Operands:
    """The modules of a form and its weights [n, k], as positional and named arguments."""
    w = random(n, k) / k**0.5
    if form == "dense":
        return gemm, plain_gemm, (w.to(device, dtype),), {}
    if form == "fp8":
        values, scale = quantized(w)
        return gemm, plain_gemm, (values.to(device),), {"scale": scale[:, 0].contiguous().to(device)}
    return int4, plain_int4, tuple(p.to(device) for p in plain_int4.pack(*round_groups(w.view(n, -1, 32)))), {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["dense", "fp8", "int4"])
def test_few_rows(form: str, dtype: Any, device: Any) -> None:
    for t, n, k in BLOCKS if form == "int4" else SHAPES:
        fused, plain, weights, named = operands(form, n, k, dtype, device)
        x = random(t, k, dtype=dtype).to(device)
        wide = torch.full((t, n + 7), float("nan"), device=device)
        fused.skinny(x, *weights, out=wide[:, 3 : n + 3], tile=SMALL, **named)
        near(wide[:, 3 : n + 3], plain.skinny(x, *weights, **named), 1e-2)
        assert wide[:, :3].isnan().all() and wide[:, n + 3 :].isnan().all()
        near(fused.skinny(x, *weights, **named), plain.skinny(x, *weights, **named))

        residual = random(t, n + 2, dtype=dtype).to(device)
        expected = residual.clone()
        plain.skinny_add(x, *weights, expected[:, 1 : n + 1], **named)
        fused.skinny_add(x, *weights, residual[:, 1 : n + 1], **named)
        near(residual, expected)


@pytest.mark.parametrize(("form", "activation"), [("dense", "silu"), ("fp8", "gelu_tanh"), ("int4", "silu")])
def test_gated(form: str, activation: str, device: Any) -> None:
    for t, n, k in ((1, 64, 64), (5, 32, 160)) if form == "int4" else ((1, 50, 64), (5, 18, 160)):
        fused, plain, weights, named = operands(form, n, k, torch.float32, device)
        x = random(t, k).to(device)
        got = fused.skinny_gated(x, *weights, activation, **named)
        near(got, plain.skinny_gated(x, *weights, activation, **named))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_rows_of_four_bits(dtype: Any, device: Any) -> None:
    for t, n, k, cut in (
        (40, 48, 96, None),
        (5, 80, 288, int4.Cut(gemm.Tile(rows=32, depth=64, warps=4, stages=3), together=16, parts=2)),
        (33, 16, 160, int4.Cut(gemm.Tile(rows=32, depth=64, warps=4, stages=3), together=16, parts=4)),
    ):
        _, plain, weights, _ = operands("int4", n, k, dtype, device)
        x, wide = random(t, k, dtype=dtype).to(device), torch.full((t, n + 7), float("nan"), device=device)
        int4.tiled(x, *weights, out=wide[:, 3 : n + 3], cut=cut)
        near(wide[:, 3 : n + 3], plain.tiled(x, *weights), 1e-2)
        assert wide[:, :3].isnan().all() and wide[:, n + 3 :].isnan().all()
    assert int4.cut_for(64, 4096, 4096).parts == 4 and int4.cut_for(64, 28672, 4096).parts == 1


def test_rows_in_fp8(device: Any) -> None:
    x = random(3, 700).to(device)
    x[1] = 0
    values, scale = gemm.quantize_rows(x)
    wanted, factors = plain_gemm.quantize_rows(x)
    assert torch.allclose(scale, factors)
    near(values.float() * scale, wanted.float() * factors, 0.08)  # the interpreter does not round to nearest
    assert (values[1].float() == 0).all()


@pytest.mark.parametrize("form", ["dense", "fp8", "int4"])
def test_batch_invariance(form: str, device: Any) -> None:
    n, k = 80 if form == "int4" else 68, 160
    _, plain, weights, named = operands(form, n, k, torch.float32, device)
    scales = {"scales": weights[1]} if form == "int4" else {}
    x = random(72, k).to(device)
    whole = invariant.product(x, weights[0], **named, **scales)
    near(whole, plain.skinny(x, *weights, **named))
    for rows in (slice(0, 1), slice(64, 65), slice(60, 70)):
        assert torch.equal(invariant.product(x[rows].contiguous(), weights[0], **named, **scales), whole[rows])


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_stored_four_bits_are_kept_exactly(kind: str, device: Any) -> None:
    tensor = make_tensor("w", random(48, 96).numpy(), kind)
    packed = pack(tensor, "auto", device, torch.float32)
    assert isinstance(packed, Int4Linear) and packed.kind == "int4 g32" and packed.nbytes == 48 * 96 * 5 // 8
    assert torch.equal(unpacked(packed), torch.from_numpy(tensor.decode()))
    part = pack(tensor, "auto", device, torch.float32, rows=slice(1, 33), columns=slice(32, 96))
    assert torch.equal(unpacked(part), torch.from_numpy(tensor.decode()[1:33, 32:96]))


def unpacked(linear: Linear) -> Any:
    assert isinstance(linear, Int4Linear)
    w = linear.products.int4.unpack(linear.words, linear.scales, torch.float32)
    assert torch.equal(w, plain_int4.unpack(linear.words, linear.scales, torch.float32))
    return w.cpu()


def k_quant(kind: str, size: int, rows: int, blocks: int) -> Tensor:
    """Random bytes with scales of a sensible size."""
    from tenfold.model.encodings import make_tensor

    rng = np.random.default_rng(5)
    data = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    at = {"Q4_K": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,)}[kind]
    for i in at:
        data[:, :, i : i + 2] = rng.uniform(0.001, 0.01, (rows, blocks, 1)).astype(np.float16).view(np.uint8)
    return make_tensor("w", kind, (rows, 256 * blocks), data.reshape(rows, -1))


def test_k_quants_are_nearly_kept(device: Any) -> None:
    tensor = k_quant("Q4_K", 144, 16, 3)
    wanted = torch.from_numpy(tensor.decode())
    got = unpacked(pack(tensor, "auto", device, torch.float32))
    assert float((got - wanted).abs().max()) <= 2**-10 * float(wanted.abs().max())
    near(got, wanted, 2**-11)
    part = pack(tensor, "auto", device, torch.float32, columns=slice(96, 416))
    assert torch.equal(unpacked(part), got[:, 96:416])
    for kind, size, error in (("Q2_K", 84, 0.07), ("Q3_K", 110, 0.1)):
        tensor = k_quant(kind, size, 16, 2)
        near(unpacked(pack(tensor, "auto", device, torch.float32)), torch.from_numpy(tensor.decode()), error)


def test_rounding_to_four_bits_beats_the_plain_range() -> None:
    x = random(64, 8, 32)
    codes, scale, offset = round_groups(x)
    error = (codes.float() * scale.float()[..., None] + offset.float()[..., None] - x).square().sum()
    low, span = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)
    plain = (((x - low) / span * 15).round() * span / 15 + low - x).square().sum()
    assert float(error) < 0.8 * float(plain)
    grid = (torch.randint(0, 10, (4, 3, 32), generator=torch.Generator().manual_seed(1)) - 3) * 0.25
    grid[..., :2] = torch.tensor([-0.75, 1.5])
    codes, scale, offset = round_groups(grid)
    assert torch.equal(codes.float() * scale.float()[..., None] + offset.float()[..., None], grid)
    codes, scale, offset = round_groups(torch.full((1, 1, 32), 0.3))
    near(codes.float() * scale.float()[..., None] + offset.float()[..., None], torch.full((1, 1, 32), 0.3), 1e-3)


@pytest.mark.parametrize("products", [plain_products(), fused_products()], ids=["plain", "fused"])
@pytest.mark.parametrize("form", ["bf16", "fp8", "int4"])
def test_linears(form: str, products: Any, device: Any) -> None:
    n, k, products = 32, 64, replace(products, tiled_rows=32)
    tensor = make_tensor("w", (random(n, k) / k**0.5).numpy())
    linear = pack(tensor, form, device, torch.float32, products=products)
    assert type(linear) is {"bf16": DenseLinear, "fp8": Fp8Linear, "int4": Int4Linear}[form]
    assert (linear.outputs, linear.inputs) == (n, k)
    wanted = torch.from_numpy(tensor.decode()).to(device)
    error = {"bf16": 1e-4, "fp8": 0.1, "int4": 0.12}[form]  # the interpreter does not round to nearest
    most = {"bf16": 8, "fp8": 16, "int4": 16}[form]
    for t in (0, 1, 12, 20, 70):
        x = random(t, k).to(device)
        assert linear.fuses(t) == (0 < t <= most)
        assert linear.quantizes(t) == (form == "fp8" and t > most)
        y = linear(x)
        near(y, x @ wanted.t(), error)
        out = torch.full((t, n + 8), float("nan"), device=device)
        assert torch.equal(linear(x, out=out[:, 8:]), y) and torch.equal(out[:, 8:], y)
        assert torch.equal(linear.logits(x), y) and linear.logits(x).dtype == torch.float32
        near(made_invariant(linear)(x), x @ wanted.t(), error)
        sums = torch.ones(len(x), linear.outputs)
        made_invariant(linear).add(x, sums)
        assert torch.equal(sums, 1 + made_invariant(linear)(x))
        if linear.fuses(t):
            near(linear.gated(x, "silu"), products.gated.gated(y, "silu"), 1e-4)
            residual = random(t, n).to(device)
            expected = residual + y
            linear.add(x, residual)
            near(residual, expected, 1e-4)
        elif linear.quantizes(t):
            assert torch.equal(linear(products.gemm.quantize_rows(x)), y)


def test_joined_matrices(device: Any) -> None:
    products = fused_products()
    parts = [
        make_tensor("w", (random(n, 64) / 8).numpy(), kind) for n, kind in ((32, "Q4_0"), (16, "Q4_0"), (10, "F32"))
    ]
    linears = [pack(part, "auto", device, torch.float32, products=products) for part in parts]
    wanted = torch.from_numpy(np.concatenate([part.decode() for part in parts])).to(device)
    one = join(linears[:2])
    assert isinstance(one, Int4Linear) and torch.equal(unpacked(one), wanted[:48].cpu())
    joined = join(linears)
    assert isinstance(joined, JoinedLinear) and joined.kind == "int4 g32 + f32"
    assert (joined.outputs, joined.inputs, joined.nbytes) == (58, 64, 48 * 64 * 5 // 8 + 10 * 64 * 4)
    assert joined.fuses(8) and not joined.fuses(9)
    for t in (2, 17):
        x = random(t, 64).to(device)
        near(joined(x), x @ wanted.t(), 1e-4)
        near(made_invariant(joined)(x), x @ wanted.t(), 1e-4)
    x, residual = random(2, 64).to(device), torch.ones(2, 58, device=device)
    joined.add(x, residual)
    near(residual, 1 + x @ wanted.t(), 1e-4)
    near(joined.gated(x, "silu"), products.gated.gated(x @ wanted.t(), "silu"), 1e-4)
    near(one.gated(x, "silu"), products.gated.gated(x @ wanted[:48].t(), "silu"), 1e-4)
    for form in ("bf16", "fp8"):
        two = [pack(part, form, device, torch.float32, products=products) for part in parts[2:] * 2]
        assert torch.equal(join(two)(x), torch.cat((two[0](x), two[1](x)), dim=1))


def test_forms(device: Any) -> None:
    assert [form_of("int4", f"layers.3.{name}") for name in "qkv"] == ["int4", "int4", "auto"]
    assert form_of("int4", "head") == "fp8" and form_of("fp8", "head") == "fp8" and form_of("auto", "embed") == "auto"
    with pytest.raises(ConfigError, match="int8 needs --backend cpu"):
        form_of("int8", "head")

    def kind(values: Any, form: str, stored: str = "F32", **part: slice) -> str:
        return pack(make_tensor("w", values.numpy(), stored), form, device, torch.bfloat16, **part).kind

    assert kind(random(16, 40), "int4") == "bf16"
    assert kind(random(16, 64), "int4", columns=slice(16, 48)) == "bf16"
    assert kind(random(20, 64), "int4") == "bf16" and kind(random(20, 64), "int4", rows=slice(2, 18)) == "int4 g32"
    assert kind(random(16, 64) * 1e6, "int4") == "bf16"
    assert kind(random(16, 64) * 1e-6, "int4") == "bf16"
    assert kind(random(16, 64), "fp8", "Q4_0") == "int4 g32"
    assert kind(random(4, 64), "bf16", "Q4_0") == "bf16"
    assert kind(random(4, 64), "auto", "Q8_0") == "bf16"
    for form in ("int4", "fp8"):
        with pytest.raises(CorruptModel, match="w holds weights that are infinite"):
            kind(random(16, 64) / 0, form)


def test_dense_weights_are_sent_as_they_are(device: Any) -> None:
    values = random(4, 6)
    for kind in ("F32", "F16", "BF16"):
        tensor = make_tensor("w", values.numpy(), kind)
        wanted = torch.from_numpy(tensor.decode()[1:, 2:5]).to(device, torch.bfloat16)
        part = pack(tensor, "auto", device, torch.bfloat16, rows=slice(1, None), columns=slice(2, 5))
        assert isinstance(part, DenseLinear) and torch.equal(part.w, wanted)
    shared = values.to(device)
    whole = pack(make_tensor("w", values.numpy()), "bf16", device, torch.float32, shared=shared)
    assert isinstance(whole, DenseLinear) and whole.w.data_ptr() == shared.data_ptr()
    random_tensor = RandomTensor("w", (8, 64), seed=1, low=-0.5, high=0.5)
    drawn = pack(random_tensor, "auto", device, torch.bfloat16)
    assert isinstance(drawn, DenseLinear) and 0.4 < float(drawn.w.abs().max()) <= 0.5
    part = pack(random_tensor, "auto", device, torch.bfloat16, rows=slice(4, 8))
    assert isinstance(part, DenseLinear) and torch.equal(part.w, drawn.w[4:])
