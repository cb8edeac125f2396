"""Why these kernels run and not better ones, in words."""

from collections.abc import Collection, Iterable
from pathlib import Path

from tenfold.ops.cpu import CpuOps, available_levels, cpu_features, level_name
from tenfold.ops.limits import MachineLimits
from tenfold.ops.work import model_matrices

# What a level's kernels need of the CPU (native/dispatch/cpu.cpp), best level first.
_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
_AMX = (*_AVX512, "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
_NEEDS = {"amx": _AMX, "avx512bf16": (*_AVX512, "avx512_bf16"), "avx512": _AVX512, "avx2": _AVX2}
_BESIDE = {"bf16": "avx512_bf16", "amx-int8": "amx_int8", "amx-bf16": "amx_bf16"}


def why_these_kernels(ops: CpuOps, limits: MachineLimits) -> list[str]:
    """:func:`level_words` of a loaded model."""
    arithmetics = {matrix.arithmetic for rows in (1, 64) for matrix in model_matrices(ops.model, rows, rows)}
    arithmetics.add(ops.model.attend_arithmetic(ops.kv_type))
    return level_words(ops.model.level, available_levels(), cpu_features(), limits, arithmetics)


def level_words(
    level: str,
    available: Collection[str],
    features: Collection[str],
    limits: MachineLimits,
    arithmetics: Iterable[str],
) -> list[str]:
    """Sentences: how ``level`` came to be chosen, and which instruction sets no op of the model uses, or the CPU lacks.

    ``available`` levels best first; ``features`` as in /proc/cpuinfo; ``arithmetics`` are those of the model's ops.
    """
    best = next(iter(available))
    name = level_name(level)
    if level == best:
        words = [f"Kernels of level {name}: the best that this CPU and this build run."]
    else:
        words = [f"Kernels of level {name}, as asked for; {level_name(best)} is here and better."]
    for better, needs in _NEEDS.items():
        if better == level:
            break
        if better not in available:
            lacking = [feature for feature in needs if feature not in features]
            why = f"this CPU lacks {', '.join(lacking)}" if lacking else "this build leaves it out, or the system does"
            words.append(f"{level_name(better)} does not run: {why}.")
    used = set(arithmetics)
    unused = [kind for kind in _BESIDE if kind in limits.macs and kind not in used]
    for kind in unused:
        rate = limits.macs[kind]
        words.append(f"{rate.instructions} is here ({rate.rate / 1e9:,.0f} GMAC/s); no op of this model uses it.")
    if missing := [feature for kind, feature in _BESIDE.items() if kind not in limits.macs and feature not in features]:
        words.append(f"This CPU lacks {', '.join(missing)}.")
    return words


def others_running(loadavg: Path = Path("/proc/loadavg")) -> int:
    """Threads of other processes that run or wait for a core at this moment; 0 where the system does not say."""
    try:
        return max(0, int(loadavg.read_text().split()[3].partition("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return 0


def busy_words(others: int, cores: int, threads: int) -> list[str]:
    """A warning where ``others`` other threads leave fewer of the ``cores`` than the ``threads`` that compute."""
    if others + threads <= cores:
        return []
    return [
        f"Other processes are running ({others} threads beside ours, on {cores} cores): times are too long, and shares "
        "of the limits too small."
    ]
