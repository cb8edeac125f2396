"""Step profiles of a tiny model, and what is said of them. Nothing here is timed against a bound."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tenfold.core.clock import WallClock
from tenfold.core.errors import ConfigError
from tenfold.ops.cpu import CpuOps, available_levels
from tenfold.ops.limits import MachineLimits, MacRate
from tenfold.ops.work import OPS, OpWork
from tenfold.profile.levels import busy_words, level_words, others_running, why_these_kernels
from tenfold.profile.roofline import Roof, roof_of
from tenfold.profile.step_report import as_json, shown
from tenfold.profile.steps import BETWEEN, OpProfile, Shape, StepProfile, profile_steps, shapes
from tenfold.profile.verdict import verdict
from tests.helpers.models import LEVELS, random_weights, tiny_spec

LIMITS = MachineLimits(
    level="avx512",
    threads=2,
    memory=50e9,
    memory_bytes=0,  # whatever is asked for counts as memory: nothing is measured
    cache=200e9,
    cache_bytes=16 << 20,
    macs={"f32": MacRate("fma", 200e9), "int8": MacRate("dot", 800e9), "bf16": MacRate("dot16", 400e9)},
)
TILES = {"amx-int8": MacRate("tile dot", 4e12), "amx-bf16": MacRate("tile dot16", 2e12)}
WITH_TILES = replace(LIMITS, macs=LIMITS.macs | TILES)  # for kernels of any level


def profiled(*wanted: Shape, level: str | None = None) -> list[StepProfile]:
    ops = CpuOps(random_weights(tiny_spec(head_dim=32), kind="Q4_1"), threads=2, level=level)
    return profile_steps(ops, list(wanted), WITH_TILES, WallClock(), repeats=2)


@pytest.mark.parametrize("level", LEVELS)
def test_every_op_is_there_and_shares_sum_to_one(level: str) -> None:
    steps = profiled(Shape("decode", 1, 10), Shape("decode", 9, 70), Shape("prefill", 40, 40), level=level)
    report = json.loads(json.dumps(as_json(steps, WITH_TILES, "tiny", ["because"])))
    assert [(s["phase"], s["rows"], s["context"]) for s in report["steps"]] == [
        ("decode", 1, 10),
        ("decode", 9, 70),
        ("prefill", 40, 40),
    ]
    for step in report["steps"]:
        assert [op["op"] for op in step["ops"]] == [*OPS, BETWEEN]
        assert sum(op["share"] for op in step["ops"]) == pytest.approx(1)
        assert sum(op["seconds"] for op in step["ops"]) == pytest.approx(step["seconds"])
        assert all(op["seconds"] > 0 for op in step["ops"] if op["op"] != BETWEEN)
        assert all(op["binds"] in ("bytes", "operations") for op in step["ops"] if op["op"] != BETWEEN)
        assert len(step["verdict"]) == 3
    kernels = {op["op"]: op["kernel"] for op in report["steps"][1]["ops"]}
    assert kernels["mlp"].startswith("int4 g32 affine, ")
    tiles = level.startswith("amx")
    attend = "amx-bf16" if tiles else "bf16" if level == "avx512bf16" else "f32"
    assert kernels["attend"] == f"{attend}, keys bf16"
    assert report["limits"]["macs_s"]["int8"] == {"instructions": "dot", "rate": 800e9}
    for step, linear in ((steps[0], "int8"), (steps[2], "amx-int8" if tiles else "int8")):
        used = {op.op: set(op.work.macs) for op in step.ops if op.work}
        assert (used["mlp"], used["attend"]) == ({linear}, {attend})


def test_the_table_shows_it() -> None:
    from rich.console import Console

    steps = profiled(Shape("decode", 2, 17))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(shown(steps, WITH_TILES, "tiny model", ["Because."]))
    text = console.export_text()
    for word in (
        "tiny model",
        "Because.",
        "decode 2 x 17",
        "int4 g32 affine, 2 rows",
        "between ops",
        "bind",
        "50 GB/s",
    ):
        assert word in text


def test_shapes_that_do_not_fit() -> None:
    assert len(shapes((1, 2), (3, 4), (5,), 5)) == 5
    with pytest.raises(ConfigError, match=r"decode 1 x 6 .* 5 tokens"):
        shapes((1,), (6,), (), 5)
    with pytest.raises(ConfigError, match="GiB"):
        profiled(Shape("decode", 10**9, 500))


def step_of(weights: int, macs: int, seconds: float, arithmetic: str = "int8") -> StepProfile:
    work = OpWork(weights=weights, macs={arithmetic: macs})
    op = OpProfile("mlp", "some kernel", seconds, work, roof_of(work, LIMITS, 50e9))
    return StepProfile(Shape("decode", 1, 1), 50e9, (op, OpProfile(BETWEEN, "Python", 0.0)))


def test_roofs() -> None:
    work = OpWork(weights=40_000, kv_read=5_000, kv_written=5_000, activations=200_000, macs={"int8": 800, "f32": 200})
    assert roof_of(work, LIMITS, 50e9) == Roof(pytest.approx(2e-6), pytest.approx(2e-9))
    assert Roof(2.0, 1.0).binds == "bytes"
    assert Roof(1.0, 2.0).binds == "operations"
    assert Roof(1.0, 2.0).seconds == 2.0


def test_bytes_bind() -> None:
    words = " ".join(verdict(step_of(50_000_000, 80_000_000, 1.25e-3), LIMITS))
    assert "1.00 ms weights" in words
    assert "bytes bind" in words
    assert "half of them saves up to 0.50 ms, 40 %" in words
    assert "at 80 % of its limit: the machine binds" in words


def test_operations_bind() -> None:
    words = " ".join(verdict(step_of(50_000_000, 8_000_000_000, 50e-3), LIMITS))
    assert "operations bind" in words
    assert "Quantizing the weights further will not make this faster" in words
    assert "the fastest there is here" in words
    assert "at 20 % of its limit: its kernel binds" in words
    words = " ".join(verdict(step_of(50_000_000, 8_000_000_000, 50e-3, "f32"), LIMITS))
    assert "faster ones are here: dot (800), dot16 (400)" in words


def test_why_these_kernels() -> None:
    def words(level: str, available: tuple[str, ...], *features: str) -> str:
        return " ".join(level_words(level, available, features, LIMITS, {"int8", "f32"}))

    best = words("avx512", ("avx512", "avx2", "portable"), "avx512f")
    assert "avx512-vnni: the best" in best
    assert "dot16 is here (400 GMAC/s); no op" in best
    assert "lacks amx_int8, amx_bf16" in best
    assert "avx512-vnni-bf16 does not run: this CPU lacks avx2, " in best
    assert "avx512-vnni is here and better" in words("portable", ("avx512", "avx2", "portable"))
    older = words("avx2", ("avx2", "portable"), "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl")
    assert "avx512-vnni does not run: this CPU lacks avx512_vnni." in older
    left_out = words("portable", ("portable",), "avx2", "fma", "f16c")
    assert "avx2 does not run: this build leaves it out, or the system does" in left_out
    ops = CpuOps(random_weights(tiny_spec()), threads=1, level=available_levels()[-1])
    assert "portable" in why_these_kernels(ops, LIMITS)[0]


def test_a_busy_machine_is_told_of(tmp_path: Path) -> None:
    assert not busy_words(0, 2, 2)
    assert not busy_words(4, 8, 4)
    assert "1 threads beside ours, on 2 cores" in busy_words(1, 2, 2)[0]
    loadavg = tmp_path / "loadavg"
    assert others_running(loadavg) == 0
    loadavg.write_text("2.74 5.58 5.86 4/213 4711\n")
    assert others_running(loadavg) == 3
