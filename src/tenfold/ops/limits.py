"""What this machine can do at most, measured in about a second: the roof that kernels are set beside."""

from dataclasses import dataclass
from pathlib import Path

from tenfold import _native

_CPUS = Path("/sys/devices/system/cpu")
_NO_CACHE_KNOWN = 32 << 20
_FAR = (256 << 20, 2 << 30)  # bytes read to see memory's rate: at least, at most; between them, 4 x the cache


@dataclass(frozen=True, slots=True)
class MacRate:
    """``rate`` multiply-adds per second that ``instructions`` reach on all threads together."""

    instructions: str
    rate: float


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Of ``threads`` threads with the instructions of one kernel level.

    ``memory`` and ``cache``: bytes per second read from a buffer of ``memory_bytes``, which no cache holds, and of
    ``cache_bytes``, half of the last-level cache. ``macs`` by arithmetic: ``f32`` and ``int8`` of the level itself;
    ``bf16``, ``amx-int8`` and ``amx-bf16`` where the CPU has them, whether or not a kernel uses them.
    """

    level: str
    threads: int
    memory: float
    memory_bytes: int
    cache: float
    cache_bytes: int
    macs: dict[str, MacRate]

    def read_rate(self, size: int) -> float:
        """Bytes per second at which the same ``size`` bytes can be read again and again, measured now.

        A working set a little larger than the cache still finds part of itself there.
        """
        if size >= self.memory_bytes:
            return self.memory
        return max(self.memory, _native.read_rate(self.level, self.threads, max(size, self.cache_bytes)))


def measure_limits(level: str, threads: int) -> MachineLimits:
    """Measure. ``level`` is one of :func:`tenfold.ops.cpu.available_levels`, else ValueError."""
    one, every = last_level_caches(_CPUS)
    far = min(max(4 * every, _FAR[0]), _FAR[1])
    near = one // 2
    return MachineLimits(
        level=level,
        threads=threads,
        memory=_native.read_rate(level, threads, far),
        memory_bytes=far,
        cache=_native.read_rate(level, threads, near),
        cache_bytes=near,
        macs={kind: MacRate(name, rate) for kind, name, rate in _native.mac_rates(level, threads)},
    )


def last_level_caches(cpus: Path) -> tuple[int, int]:
    """Bytes of the largest cache a CPU has, and of all such caches of the machine together.

    From the system's ``cpu*/cache/index*``; 32 MiB where it does not say.
    """
    found: dict[str, int] = {}
    for folder in cpus.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            text = (folder / "size").read_text().strip()
            shared = (folder / "shared_cpu_list").read_text().strip()
            size = int(text[:-1]) << {"K": 10, "M": 20}[text[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            continue
        found[shared] = max(size, found.get(shared, 0))
    largest = max(found.values(), default=_NO_CACHE_KNOWN)
    return largest, sum(size for size in found.values() if size == largest) or largest
