"""Which CPUs to compute on: as many threads as physical cores this process may keep busy, spread over memory nodes.

What is read: the process's affinity, the CPU quota of its control groups, and the kernel's description of the
machine (https://docs.kernel.org/admin-guide/cputopology.html).
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/devices/system")
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Cpu:
    """A logical CPU. Those of one physical core have the same ``core``, the lowest number among them."""

    number: int
    core: int
    node: int  # of memory


@dataclass(frozen=True, slots=True)
class Placement:
    """``cpus`` has one per thread to pin it to, or none: the system then places them. ``nodes``: where memory goes."""

    threads: int
    cpus: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """What the first CPU calls itself, with family, model and stepping where it says them; empty where nothing does."""
    found: dict[str, str] = {}
    try:
        with cpuinfo.open() as lines:
            for line in lines:
                key, _, value = line.partition(":")
                found.setdefault(key.strip(), value.strip())
                if not key.strip():
                    break
    except OSError:
        return ""
    return " ".join(found[key] for key in ("model name", "cpu family", "model", "stepping") if key in found)


def placement(threads: int = 0) -> Placement:
    """Where ``threads`` threads (0: one per usable core) of this process go on this machine."""
    return place(topology(SYSFS, allowed_cpus()), cpu_quota(CGROUPS, MEMBERSHIP), threads)


def place(cpus: Sequence[Cpu], quota: int | None, threads: int) -> Placement:
    """``threads`` threads on ``cpus``; 0 stands for one per physical core, but not more than ``quota``.

    They are pinned only where that decides which memory is near: on CPUs of several nodes, each node with its share of
    the threads, and memory spread over the same nodes. Not where a quota is below the CPUs, since the system then
    stops threads wherever they are, nor where there are more threads than CPUs.
    """
    firsts = [cpu for cpu in cpus if cpu.number == min(c.number for c in cpus if c.core == cpu.core)]
    count = threads or max(1, min(len(firsts), quota or len(firsts)))
    nodes = sorted({cpu.node for cpu in cpus})
    if len(nodes) < 2 or count > len(cpus) or (quota is not None and quota < len(cpus)):
        return Placement(count)
    siblings = [cpu for cpu in cpus if cpu not in firsts]
    queues = {node: [c.number for c in (*firsts, *siblings) if c.node == node] for node in nodes}
    taken: dict[int, list[int]] = {node: [] for node in nodes}
    for _ in range(count):  # the next from the node of which the smallest part is taken
        node = min((n for n in nodes if queues[n]), key=lambda n: len(taken[n]) / (len(taken[n]) + len(queues[n])))
        taken[node].append(queues[node].pop(0))
    used = tuple(node for node in nodes if taken[node])
    return Placement(count, tuple(cpu for node in used for cpu in taken[node]), used if len(used) > 1 else ())


def topology(sysfs: Path, allowed: Collection[int]) -> tuple[Cpu, ...]:
    """The ``allowed`` CPUs as ``sysfs`` (``/sys/devices/system``) describes them; what it does not tell is each CPU a
    core of its own on node 0."""
    node_of = {}
    for folder in sorted((sysfs / "node").glob("node[0-9]*")):
        for cpu in read_list(folder / "cpulist"):
            node_of[cpu] = int(folder.name.removeprefix("node"))
    found = []
    for number in sorted(allowed):
        siblings = read_list(sysfs / "cpu" / f"cpu{number}" / "topology" / "thread_siblings_list")
        found.append(Cpu(number, min(siblings, default=number), node_of.get(number, 0)))
    return tuple(found)


def read_list(path: Path) -> list[int]:
    """The numbers of a kernel list such as ``0-3,8``; none where the file is not there or not such a list."""
    try:
        parts = [part.split("-") for part in path.read_text().strip().split(",") if part]
        return [number for part in parts for number in range(int(part[0]), int(part[-1]) + 1)]
    except (OSError, ValueError):
        return []


def allowed_cpus() -> set[int]:
    """The CPUs this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return set(affinity(0)) if affinity is not None else set(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Physical cores this process may keep busy: those of its affinity, cut by the quota of its control groups."""
    return placement().threads


def cpu_quota(root: Path, membership: Path) -> int | None:
    """Whole cores the control groups (v2, or v1's ``cpu`` controller) allow, rounded up; None: no limit."""
    quotas = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            quotas.append(read_quota(folder))
            if folder == base:
                break
    limits = [quota for quota in quotas if quota is not None]
    return min(limits) if limits else None


def read_quota(folder: Path) -> int | None:
    """The limit set on one control group, in whole cores."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
