"""The machine's limits: there, finite, and of a possible size."""

import math
from pathlib import Path

import pytest

from tenfold import _native
from tenfold.ops.cpu import available_levels, cpu_features
from tenfold.ops.limits import last_level_caches, measure_limits


@pytest.mark.parametrize("level", available_levels())
def test_limits_are_plausible(level: str) -> None:
    limits = measure_limits(level, 2)
    assert (limits.level, limits.threads) == (level, 2)
    assert limits.memory_bytes > limits.cache_bytes > 0
    rates = [limits.memory, limits.cache, *(rate.rate for rate in limits.macs.values())]
    assert all(math.isfinite(rate) and 1e6 < rate < 1e16 for rate in rates)
    assert {"f32", "int8"} <= limits.macs.keys()
    assert all(rate.instructions for rate in limits.macs.values())
    assert limits.read_rate(10 * limits.memory_bytes) == limits.memory
    assert limits.read_rate(1) >= limits.memory


def test_what_the_cpu_has_is_what_is_measured() -> None:
    features = cpu_features()
    kinds = {kind for kind, _, _ in _native.mac_rates("portable", 1)}
    if "avx512" in available_levels():
        assert {"avx2", "avx512f", "avx512_vnni"} <= set(features)
        assert ("bf16" in kinds) == ("avx512_bf16" in features)
        assert kinds <= {"f32", "int8", "bf16", "amx-int8", "amx-bf16"}
    if "amx_tile" not in features:
        assert not any(kind.startswith("amx") for kind in kinds)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="avx9000"):
        _native.read_rate("avx9000", 1, 1 << 20)
    with pytest.raises(ValueError, match="avx9000"):
        _native.mac_rates("avx9000", 1)


def test_caches(tmp_path: Path) -> None:
    assert last_level_caches(tmp_path) == (32 << 20, 32 << 20)
    for cpu, index, size, shared in (
        (0, 0, "48K", "0"),
        (0, 3, "16M", "0-1"),
        (1, 3, "16384K", "0-1"),
        (2, 3, "16M", "2-3"),
        (3, 3, "garbage", "2-3"),
    ):
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(size + "\n")
        (folder / "shared_cpu_list").write_text(shared + "\n")
    assert last_level_caches(tmp_path) == (16 << 20, 32 << 20)
