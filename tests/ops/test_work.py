"""The work model against counts made by hand."""

import pytest

from tenfold.ops.cpu import CpuOps
from tenfold.ops.work import OPS, Matrix, Span, keys_attended, keys_seen, model_matrices, step_work
from tests.helpers.models import LEVELS, random_weights, tiny_spec

# hidden 64, 4 query heads and 2 KV heads of 16, ffn 96, vocab 160, two layers: q is 64 wide, k and v are 32.


def dense_matrices(layers: int = 2) -> list[Matrix]:
    """The tiny model's, as float32."""
    shapes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64), "gate": (96, 64), "up": (96, 64)}
    shapes |= {"down": (64, 96)}
    found = [Matrix(-1, name, "f32", "f32", 160, 64, 160 * 64 * 4, 1) for name in ("embed", "head")]
    for layer in range(layers):
        found += [Matrix(layer, name, "f32", "f32", o, i, o * i * 4, 1) for name, (o, i) in shapes.items()]
    return found


def test_a_decode_step_counted_by_hand() -> None:
    work = step_work(tiny_spec(), dense_matrices(), [Span(1, 10), Span(1, 30)], "bf16", "f32")
    assert tuple(work) == OPS
    assert {op: w.weights for op, w in work.items()} == {
        "embed": 2 * 64 * 4,
        "qkv": 2 * (64 + 32 + 32) * 64 * 4,
        "attend": 0,
        "attn_out": 2 * 64 * 64 * 4,
        "mlp": 2 * 3 * 96 * 64 * 4,
        "logits": 160 * 64 * 4,
    }
    assert {op: w.macs for op, w in work.items() if w.macs} == {
        "qkv": {"f32": 2 * 2 * 128 * 64},
        "attend": {"f32": 2 * 2 * 64 * (10 + 30)},  # layers x (scores and values) x width x keys
        "attn_out": {"f32": 2 * 2 * 64 * 64},
        "mlp": {"f32": 2 * 2 * 3 * 96 * 64},
        "logits": {"f32": 2 * 160 * 64},
    }
    assert work["qkv"].kv_written == 2 * 2 * (32 + 32) * 2  # layers x rows x (k and v) x bf16
    assert work["attend"].kv_read == 2 * (10 + 30) * (32 + 32) * 2
    assert work["embed"].activations == 2 * 64 * 4
    assert work["mlp"].activations == 2 * 2 * (64 + 96 + 96 + 64 + 64) * 4
    assert work["logits"].activations == 2 * (64 + 160) * 4
    assert work["attend"].moved == work["attend"].kv_read


def test_a_prompt_samples_once() -> None:
    work = step_work(tiny_spec(), dense_matrices(), [Span(8, 8)], "int8", "int8")
    assert work["logits"].macs == {"f32": 160 * 64}
    assert work["mlp"].macs == {"f32": 8 * 2 * 3 * 96 * 64}
    twice = 2  # the high and the low byte of queries and softmax weights
    assert work["attend"].macs == {"int8": twice * 2 * 2 * 64 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8)}
    assert work["attend"].kv_read == 2 * 8 * 2 * (16 + 16 + 2 + 2)  # layers x keys x heads x (k, v, two scales)
    assert work["qkv"].kv_written == 2 * 8 * 2 * (16 + 16 + 2 + 2)


@pytest.mark.parametrize(
    ("span", "window", "seen", "attended"),
    [
        (Span(1, 10), 0, 10, 10),
        (Span(1, 10), 4, 4, 4),
        (Span(3, 10), 4, 6, 12),  # rows at 7, 8, 9 see 4 each: keys 4 … 9
        (Span(3, 3), 2, 3, 1 + 2 + 2),
        (Span(5, 5), 9, 5, 15),
    ],
)
def test_keys_within_a_window(span: Span, window: int, seen: int, attended: int) -> None:
    assert keys_seen(span, window) == seen
    assert keys_attended(span, window) == attended


def test_windows_and_padded_heads() -> None:
    spec = tiny_spec(windows=(4, 0), head_dim=10)
    matrices = model_matrices(CpuOps(random_weights(spec), threads=1).model, 1, 1)
    work = step_work(spec, matrices, [Span(1, 20)], "bf16", "f32")
    assert work["attend"].macs == {"f32": 2 * 40 * (4 + 20)}
    assert work["attend"].kv_read == (4 + 20) * 2 * (10 + 16) * 2  # values are padded to 16
    assert work["qkv"].kv_written == 2 * 2 * (10 + 10) * 2
    eight = step_work(spec, matrices, [Span(1, 20)], "int8", "int8")
    assert eight["attend"].kv_read == (4 + 20) * 2 * (12 + 16 + 2 + 2)  # keys are padded to 4


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("kind", "format", "arithmetic", "bytes_of_32"),
    [
        ("F32", "f32", "f32", 128),
        ("F16", "f16", "f32", 64),
        ("Q8_0", "int8 g32", "int8", 34),
        ("Q4_0", "int4 g32", "int8", 18),
        ("Q4_1", "int4 g32 affine", "int8", 20),
        ("Q5_0", "int5 g32", "int8", 22),
        ("Q5_1", "int5 g32 affine", "int8", 24),
    ],
)
def test_matrices_have_their_packed_size(kind: str, format: str, arithmetic: str, bytes_of_32: int, level: str) -> None:
    ops = CpuOps(random_weights(tiny_spec(), kind=kind), threads=1, level=level)
    of_many = "amx-int8" if arithmetic == "int8" and level.startswith("amx") else arithmetic
    matrices = model_matrices(ops.model, 64, 64)
    assert [(m.layer, m.name) for m in matrices[:3]] == [(-1, "embed"), (-1, "head"), (0, "q")]
    assert len(matrices) == 2 + 2 * 7
    for matrix in matrices:
        # The head of levels with tiles takes groups as the others do: on tiles where codes are bytes.
        grouped = of_many if kind == "Q8_0" else arithmetic
        assert (matrix.format, matrix.arithmetic) == (format, grouped if matrix.layer < 0 else of_many)
        assert matrix.size >= matrix.outputs * matrix.inputs // 32 * bytes_of_32
        assert matrix.rows_at_once > 1
    assert sum(m.size for m in matrices if m.name != "head") == ops.model.weight_bytes
    # The tile unit takes many rows, not one; of a prompt the head takes one.
    prompt = model_matrices(ops.model, 64, 1)
    assert [m.rows_at_once == 1 for m in prompt] == [m.name == "head" for m in prompt]
    assert all((m.arithmetic, m.rows_at_once) == (arithmetic, 1) for m in model_matrices(ops.model, 1, 1))


def test_timings_are_recorded_only_when_asked_for() -> None:
    from tenfold.model.decoder import forward
    from tests.helpers.models import Slice, make_batch

    ops = CpuOps(random_weights(tiny_spec()), threads=1)
    kv, batch = ops.new_kv(1, 16), make_batch([Slice([1, 2], 0, [0])])
    forward(ops, kv, batch)
    assert set(ops.model.timings().values()) == {(0, 0)}
    ops.model.record(True)
    forward(ops, kv, batch)
    ops.model.record(False)
    timings = ops.model.timings()
    forward(ops, kv, batch)
    assert ops.model.timings() == timings
    assert {op: calls for op, (calls, _) in timings.items()} == {
        "upload": 1, "embed": 1, "qkv": 2, "attend": 2, "attn_out": 2, "mlp": 2, "logits": 1,
    }  # fmt: skip
    assert all(nanoseconds > 0 for _, nanoseconds in timings.values())
    ops.model.record(True)
    assert set(ops.model.timings().values()) == {(0, 0)}
