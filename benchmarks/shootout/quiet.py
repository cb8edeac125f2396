"""Whether something else uses the machine: spinning threads of a peer lose far more than their share to it."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; guest time is in user already


@dataclass(slots=True)
class Others:
    """``share`` of the machine's core-seconds that went to processes outside this run, 0 to 1."""

    share: float = 0.0


@contextmanager
def watched() -> Iterator[Others]:
    """Measure the others' share while the block runs. The systems under test are children of this process."""
    found = Others()
    busy, own, began = _busy(), _own(), time.perf_counter()
    yield found
    seconds = time.perf_counter() - began
    foreign = (_busy() - busy) - (_own() - own)
    found.share = max(0.0, foreign / (seconds * (os.cpu_count() or 1)))


def wait_quiet(patience: float, *, limit: float = 0.1, window: float = 0.5) -> None:
    """Return once others used less than ``limit`` of the machine for ``window`` seconds, or after ``patience``."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        with watched() as others:
            time.sleep(window)
        if others.share < limit:
            return


def _busy() -> float:
    """Core-seconds of the whole machine that were not idle, stolen ones included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[at]) for at in _BUSY) / _TICK


def _own() -> float:
    """Core-seconds of this process and all below it, dead or alive."""
    children: dict[int, list[tuple[int, float]]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # utime, stime, and those of children that ended and were waited for
        used = sum(map(int, fields[11:15])) / _TICK
        children.setdefault(int(fields[1]), []).append((int(folder.name), used))
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(one.ru_utime + one.ru_stime for one in usage)
    left = [os.getpid()]
    while left:
        for pid, used in children.get(left.pop(), ()):
            total += used
            left.append(pid)
    return total
