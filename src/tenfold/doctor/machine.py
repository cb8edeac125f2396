"""Looking at this machine, this install, and a model on them."""

import platform
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tenfold.core.clock import WallClock
from tenfold.core.config import EngineConfig
from tenfold.core.errors import ConfigError
from tenfold.doctor.finding import Finding
from tenfold.exec.memory import free_memory, pool_blocks, token_bytes
from tenfold.model.checkpoint import load_checkpoint
from tenfold.observe.about import tenfold_version
from tenfold.ops.cores import CGROUPS, MEMBERSHIP, allowed_cpus, cpu_name, cpu_quota, usable_cores
from tenfold.ops.cpu import CpuOps, available_levels, cpu_features
from tenfold.ops.cuda.presence import find_gpus
from tenfold.ops.limits import MachineLimits, measure_limits
from tenfold.profile.levels import busy_words, level_words, others_running
from tenfold.profile.steps import profile_steps, shapes

_SCARCE = 0.1  # of memory that may be used, free
_LITTLE = 1 << 30  # bytes
_FAR = 0.3  # of the machine's limit: below it, it is the kernels that bind
_CONTEXT = 600  # tokens, of the shapes that a model is measured at
_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder each, where NVIDIA's driver is loaded


def look_at_machine() -> tuple[list[Finding], MachineLimits]:
    """Cores, memory, what both can do at most (measured, in about a second), and which kernels would run."""
    cores, others, free = usable_cores(), others_running(), free_memory()
    level = next(iter(available_levels()))
    limits = measure_limits(level, cores)
    quota = cpu_quota(CGROUPS, MEMBERSHIP)
    rates = ", ".join(f"{name} {one.rate / 1e9:,.0f}" for name, one in limits.macs.items())
    told = f"{len(allowed_cpus())} CPUs allowed" + (f", a quota of {quota}" if quota is not None else "")
    findings = [
        Finding(
            name="machine",
            level="fine",
            words=f"{cpu_name()}: {cores} threads compute ({told}); {free / 2**30:.1f} GiB free. Measured: "
            f"{limits.memory / 1e9:.0f} GB/s from memory, {limits.cache / 1e9:.0f} from the last cache; giga "
            f"multiply-adds per second: {rates}.",
            evidence={
                "cores": cores,
                "free_bytes": free,
                "memory_bytes_s": limits.memory,
                "cache_bytes_s": limits.cache,
                "macs_s": {name: one.rate for name, one in limits.macs.items()},
            },
        ),
        Finding(
            name="install",
            level="fine",
            words=f"Tenfold {tenfold_version()}, Python {platform.python_version()}. "
            + " ".join(level_words(level, available_levels(), cpu_features(), limits, limits.macs)),
            evidence={"level": level, "levels": list(available_levels())},
        ),
    ]
    if cards := gpus_of(_GPUS):
        findings.append(look_at_gpus(cards))
    for words in busy_words(min(others, others_running()), cores, cores):  # before and after measuring: not by chance
        advice = ("stop them, or give them cores of their own (taskset, a cgroup)",)
        findings.append(Finding(name="busy", level="problem", words=words, advice=advice, weight=0.5))
    if free < _LITTLE:
        findings.append(
            Finding(
                name="memory",
                level="problem",
                words=f"Only {free / 2**20:,.0f} MiB of memory are free.",
                advice=("stop what uses it, or raise the cgroup's limit",),
                weight=0.6,
            )
        )
    if find_spec("matplotlib") is None:
        words = "matplotlib is not installed: reports of `tenfold bench` come without pictures."
        findings.append(Finding(name="pictures", level="note", words=words, advice=("pip install 'tenfold[plot]'",)))
    return findings, limits


def look_at_gpus(cards: list[str]) -> Finding:
    """Whether the CUDA backend would run on the cards that the driver tells of, and if not, why."""
    words = f"GPU: {', '.join(cards)}."
    try:
        gpus = find_gpus()
    except ConfigError as error:
        words += f" The CUDA backend would not run: {error}."
        return Finding(name="gpu", level="note", words=words, evidence={"gpus": cards, "usable": []})
    words += f" The CUDA backend runs on {len(gpus.names)} of {len(cards)} (torch {gpus.torch})."
    return Finding(
        name="gpu",
        level="note",
        words=words,
        advice=("`--backend cuda` uses it: docs/cuda.md",),
        evidence={"gpus": cards, "usable": list(gpus.names), "torch": gpus.torch},
    )


def gpus_of(folder: Path) -> list[str]:
    """The names of NVIDIA's cards that the driver tells of."""
    names = []
    for information in sorted(folder.glob("*/information")):
        try:
            lines = information.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def look_at_model(
    path: Path, config: EngineConfig, limits: MachineLimits, told: Callable[[str], None]
) -> list[Finding]:
    """Whether it fits, and what it does here beside what the machine can do at most. Measures for some seconds."""
    free = free_memory()
    checkpoint = load_checkpoint(path)
    spec = checkpoint.spec
    ops = CpuOps(checkpoint.weights, threads=config.threads, form=config.weights, kv_type=config.kv_type)
    weights = ops.model.weight_bytes
    per_token = token_bytes(spec, config.kv_type)
    left = free - weights
    findings = []
    try:
        tokens = pool_blocks((spec,), config.kv_type, config.block_size, spec.max_context, config.kv_tokens, left)
        tokens *= config.block_size
    except ConfigError as error:
        words = f"{spec.name} does not fit: its weights take {weights / 2**20:,.0f} MiB; {error}"
        advice = ("--weights int4, --kv int8, or a machine with more memory",)
        return [Finding(name="fits", level="problem", words=words, advice=advice, weight=1.0)]
    whole = spec.max_context
    findings.append(
        Finding(
            name="fits",
            level="fine" if tokens >= whole else "note",
            words=f"{spec.name} ({ops.describe()}): weights {weights / 2**20:,.0f} MiB, keys and values "
            f"{per_token / 1024:.1f} KiB a token; the pool would hold {tokens:,} tokens "
            f"({tokens * per_token / 2**20:,.0f} MiB), {tokens / whole:.1f} contexts of {whole:,}.",
            advice=() if tokens >= whole else ("--kv int8 or --max-context: not even one whole context fits",),
            evidence={"weight_bytes": weights, "kv_bytes_per_token": per_token, "kv_tokens": tokens},
        )
    )
    most = min(_CONTEXT, spec.max_context - 1)
    steps = profile_steps(
        ops,
        shapes((1, 16), (most,), (min(512, most),), spec.max_context),
        limits,
        WallClock(),
        5,
        lambda s: told(s.shape.title),
    )
    for step in steps:
        share = step.roof_seconds / step.seconds
        findings.append(
            Finding(
                name=f"speed-{step.shape.phase}-{step.shape.sequences}",
                level="note" if share < _FAR else "fine",
                words=f"{step.shape.title}: {step.tokens_per_second:,.0f} tokens per second, {share:.0%} of what the "
                "machine's limits allow.",
                advice=("`tenfold profile` shows which op, and why",) if share < _FAR else (),
                evidence={"tokens_s": step.tokens_per_second, "limit_share": share},
            )
        )
    return findings
