"""Where threads go: over made-up machines, and on this one."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold import _native
from tenfold.ops.cores import Placement, allowed_cpus, cpu_quota, place, read_list, topology, usable_cores
from tenfold.ops.cpu import new_model
from tests.helpers.models import tiny_spec


def machine(root: Path, cores: int, nodes: int = 1, siblings: int = 1) -> Path:
    """A sysfs of ``cores`` cores shared out over ``nodes``; siblings are numbered as Linux does, after all cores."""
    for cpu in range(cores * siblings):
        folder = root / f"cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        of_core = ",".join(str(cpu % cores + i * cores) for i in range(siblings))
        (folder / "thread_siblings_list").write_text(of_core + "\n")
    each = cores // nodes
    for node in range(nodes):
        (root / f"node/node{node}").mkdir(parents=True)
        ranges = [f"{node * each + i * cores}-{(node + 1) * each - 1 + i * cores}" for i in range(siblings)]
        (root / f"node/node{node}/cpulist").write_text(",".join(ranges) + "\n")
    return root


def test_one_thread_per_core_unpinned_on_one_node(tmp_path: Path) -> None:
    cpus = topology(machine(tmp_path, 4, siblings=2), range(8))
    assert [(c.number, c.core) for c in cpus] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1), (6, 2), (7, 3)]
    assert place(cpus, None, 0) == Placement(4)
    assert place(cpus, None, 7) == Placement(7)
    assert place(cpus, 3, 0) == Placement(3)
    assert place(cpus, 99, 0) == Placement(4)


def test_only_allowed_cpus_count(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, 8, nodes=2, siblings=2)
    assert place(topology(sysfs, {1, 9, 10}), None, 0) == Placement(2)  # cores 1 and 2, of node 0
    assert place(topology(sysfs, {9, 12}), None, 0) == Placement(2, (9, 12), (0, 1))  # a core's second CPU alone


@pytest.mark.parametrize(
    ("threads", "cpus"),
    [
        (0, (0, 1, 2, 3, 4, 5, 6, 7)),
        (2, (0, 4)),
        (5, (0, 1, 2, 4, 5)),
        (10, (0, 1, 2, 3, 8, 4, 5, 6, 7, 12)),
    ],
)
def test_threads_are_spread_over_the_nodes(tmp_path: Path, threads: int, cpus: tuple[int, ...]) -> None:
    found = topology(machine(tmp_path, 8, nodes=2, siblings=2), range(16))
    assert place(found, None, threads) == Placement(threads or 8, cpus, (0, 1))


def test_a_single_thread_keeps_its_memory_near(tmp_path: Path) -> None:
    assert place(topology(machine(tmp_path, 4, nodes=2), range(4)), None, 1) == Placement(1, (0,), ())


def test_nobody_is_pinned_under_a_quota_or_in_a_crowd(tmp_path: Path) -> None:
    cpus = topology(machine(tmp_path, 4, nodes=2), range(4))
    assert place(cpus, 3, 0) == Placement(3)
    assert place(cpus, 4, 0).cpus == (0, 1, 2, 3)
    assert place(cpus, None, 9) == Placement(9)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "cpu/cpu0/topology").mkdir(parents=True)
    (tmp_path / "cpu/cpu0/topology/thread_siblings_list").write_text("what?")
    assert place(topology(tmp_path, {0, 5}), None, 0) == Placement(2)


def test_lists(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("0-2,7,9-10\n")
    assert read_list(tmp_path / "list") == [0, 1, 2, 7, 9, 10]
    (tmp_path / "list").write_text("\n")  # a node without CPUs
    assert read_list(tmp_path / "list") == []
    assert read_list(tmp_path / "nothing") == []


def affinities() -> dict[int, set[int]]:
    return {int(task.name): os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()}


def test_workers_are_pinned_and_the_caller_is_not() -> None:
    allowed = allowed_cpus()
    cpu = max(allowed)
    before = affinities()
    model = new_model(tiny_spec(), Placement(3, (cpu, cpu, 1 << 20)), "")  # the last: no such CPU
    started = {task: cpus for task, cpus in affinities().items() if task not in before}
    assert sorted(map(len, started.values())) == sorted((1, len(allowed)))
    assert {cpu} in started.values()
    assert os.sched_getaffinity(threading.get_native_id()) == allowed
    logits = np.zeros((8, 100), np.float32)
    assert _native.Sampling(model).largest(logits).tolist() == [0] * 8


FORKS = """
import os, signal, warnings
import numpy as np
from tenfold import _native
from tenfold.ops.cores import Placement
from tenfold.ops.cpu import new_model
from tests.helpers.models import tiny_spec

warnings.simplefilter("ignore")
model = new_model(tiny_spec(), Placement(3), "")
sampling = _native.Sampling(model)
logits = np.zeros((8, 100), np.float32)
sampling.largest(logits)
child = os.fork()
if child == 0:
    signal.alarm(30)
    del sampling, model  # its threads are not in this process
    os._exit(int(_native.Sampling(new_model(tiny_spec(), Placement(2), "")).largest(logits).any()))
assert os.waitpid(child, 0)[1] == 0, "the child could not end a model, or make another"
assert not sampling.largest(logits).any()
"""


def test_a_forked_child_can_end_the_model() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_memory_is_spread_where_asked() -> None:
    def policies() -> int:
        return Path("/proc/self/numa_maps").read_text().count("interleave")

    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("this kernel knows no memory nodes")
    before = policies()
    _native.interleave([0])
    try:
        kv = new_model(tiny_spec(), Placement(1), "").new_kv(64, 16, "bf16")
        assert policies() > before
    finally:
        _native.interleave([])
    del kv
    plain = new_model(tiny_spec(), Placement(1), "").new_kv(64, 16, "bf16")
    assert policies() == before
    del plain


def test_cores_respect_control_groups(tmp_path: Any) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "member").write_text("0::/a/b\n")
    assert cpu_quota(tmp_path, tmp_path / "member") is None
    (tmp_path / "a/b/cpu.max").write_text("max 100000\n")
    (tmp_path / "a/cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path, tmp_path / "member") == 2
    (tmp_path / "cpu/old").mkdir(parents=True)
    (tmp_path / "cpu/old/cpu.cfs_quota_us").write_text("90000")
    (tmp_path / "cpu/old/cpu.cfs_period_us").write_text("100000")
    (tmp_path / "member").write_text("3:cpu,cpuacct:/old\n2:memory:/old\n")
    assert cpu_quota(tmp_path, tmp_path / "member") == 1
    assert usable_cores() >= 1
