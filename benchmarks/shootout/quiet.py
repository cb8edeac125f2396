"""Whether something else uses the machine: spinning threads of a peer lose far more than their share to it."""

import os
import resource
import time
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; guest time is in user already


class Watch:
    """What others take of the machine from now on. The systems under test are below this process, and must be still
    there when :meth:`share` is asked, or have been waited for by their parents: the rest counts as others'.
    """

    def __init__(self) -> None:
        self._busy, self._own, self._began = _busy(), _own(), time.perf_counter()

    def share(self) -> float:
        """Of the machine's core-seconds so far, the part that went to processes outside this run; 0 to 1."""
        foreign = (_busy() - self._busy) - (_own() - self._own)
        seconds = (time.perf_counter() - self._began) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, foreign / seconds))


def wait_quiet(patience: float, *, limit: float = 0.1, window: float = 0.5) -> None:
    """Return once others used less than ``limit`` of the machine for ``window`` seconds, or after ``patience``."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        watch = Watch()
        time.sleep(window)
        if watch.share() < limit:
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
