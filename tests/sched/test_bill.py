"""What each sequence is charged of the machine: in all what its steps took; who uses more pays more."""

import random
from collections.abc import Sequence
from contextlib import suppress

import pytest

from tenfold.core.config import FIRST_COME
from tenfold.core.errors import Overloaded
from tenfold.core.request import Timeline
from tenfold.core.slo import Slo
from tenfold.cost.shape import StepShape
from tenfold.sched.bill import OTHERS
from tests.cost.test_cost import cpu, gpu
from tests.helpers.scheduling import Machine, Server


class Traffic(Server):
    """Requests of all kinds that come, wait too long, lose their places and leave; with ``within``, also while a step
    is computed."""

    def __init__(self, seed: int, *, within: bool, overlap: bool) -> None:
        super().__init__(Slo(0.5, 0.03), blocks=150, max_running=12, tenants={"gold": 2.0}, overlap=overlap)
        self.draws = random.Random(seed)
        self.left: dict[str, Timeline] = {}
        if within:
            self.machine = self.meanwhile

    def meanwhile(self, shape: StepShape) -> float:
        self.leave(0.1)
        return cpu(shape)

    @property
    def here(self) -> list[str]:
        return [name for name in self.arrived if name not in {**self.timelines, **self.failed, **self.left}]

    def come(self, name: str) -> None:
        draws = self.draws
        prompt, outputs = draws.choice((1, 30, 120, 700)), draws.randint(1, 80)
        salt = draws.choice((None, "shared"))
        terms = {
            "tenant": draws.choice(("", "gold", "iron", "tin")),
            "slo_class": draws.choice(("interactive", "standard", "batch")),
            "queue_timeout": draws.choice((None, 0.2)),
        }
        with suppress(Overloaded):
            self.add(name, prompt, outputs, salt=salt, **terms)
            if salt and draws.random() < 0.3:
                self.add(f"{name}/1", prompt, outputs, salt=salt, after=name, **terms)

    def leave(self, chance: float) -> None:
        if (here := self.here) and self.draws.random() < chance:
            name = self.draws.choice(here)
            timeline = self.scheduler.end(name, self.now)
            assert timeline is not None
            self.left[name] = timeline

    def go(self, steps: int) -> None:
        for step in range(steps):
            if self.draws.random() < 0.4:
                self.come(f"{step}")
            self.leave(0.05)
            self.step()
            self.now += 100.0 if self.scheduler.idle and not self.under_way else self.draws.choice((0.0, 0.001))
        self.run()

    @property
    def told(self) -> float:
        lines = [*self.timelines.values(), *self.left.values(), *(one.timeline for one in self.failed.values())]
        return sum(line.machine_seconds for line in lines if line is not None)


def billed(server: Server) -> float:
    return sum(sum(account.values()) for account in server.scheduler.billed_seconds.values())


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_what_all_are_charged_is_what_the_steps_took(seed: int, overlap: bool) -> None:
    server = Traffic(seed, within=False, overlap=overlap)
    server.go(500)
    assert server.scheduler.preemptions
    assert server.left
    assert billed(server) == pytest.approx(server.scheduler.busy_seconds, rel=1e-9)
    assert server.told == pytest.approx(server.scheduler.busy_seconds, rel=1e-2 if overlap else 1e-9)
    assert not overlap or server.ahead > 0.9 * len(server.steps)
    accounts = server.scheduler.billed_seconds
    assert set(accounts) == {"interactive", "standard", "batch"}
    assert all(set(account) == {"", "gold", "iron", "tin"} for account in accounts.values())


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_those_that_leave_while_a_step_is_computed_pay_for_it(seed: int, overlap: bool) -> None:
    server = Traffic(seed, within=True, overlap=overlap)
    server.go(500)
    assert server.scheduler.preemptions or overlap
    assert billed(server) == pytest.approx(server.scheduler.busy_seconds, rel=1e-9)
    assert 0.9 * billed(server) < server.told < billed(server)


def test_idle_time_is_nobodys() -> None:
    server = Server()
    server.add("left", 100, 50)
    for _ in range(10):
        server.step()
    server.scheduler.end("left", server.now)  # not in a step: as where a stop string is found, or a client leaves
    server.now += 3600.0
    server.add("next", 100, 50)
    server.run()
    assert server.scheduler.busy_seconds == pytest.approx(sum(seconds for _, seconds in server.steps))
    assert server.timelines["next"].machine_seconds < 5


def charges(machine: Machine, prompts: Sequence[int], outputs: int) -> list[float]:
    server = Server(machine=machine)
    for prompt in prompts:
        server.add(f"{prompt}", prompt, outputs)
    server.run()
    return [server.timelines[f"{prompt}"].machine_seconds for prompt in prompts]


@pytest.mark.parametrize("machine", [cpu, gpu, lambda shape: 0.01])
def test_in_decode_who_holds_and_attends_to_more_pays_more(machine: Machine) -> None:
    prompts = (50, 1000, 3000)
    shorter, longer = (charges(machine, prompts, outputs) for outputs in (200, 300))
    few, some, many = (after - before for before, after in zip(shorter, longer, strict=True))
    assert few < some < many


def test_a_long_prompt_pays_what_it_adds() -> None:
    busy = []
    for prompt in (0, 3000):
        server = Server()
        for i in range(4):
            server.add(f"{i}", 50, 200)
        if prompt:
            server.add("long", prompt, 1)
        server.run()
        busy.append(server.scheduler.busy_seconds)
    added = busy[1] - busy[0]
    assert server.timelines["long"].machine_seconds == pytest.approx(added, rel=0.25)


def test_tenants_beyond_the_first_are_billed_together() -> None:
    server = Server(tenants={"gold": 2.0})
    names = [f"t{i}" for i in range(60)]
    for tenant in [*names, "", "gold", "t0"]:
        server.add(f"{tenant} {server.now}", 20, 2, tenant=tenant)
        server.run()
    account = server.scheduler.billed_seconds["standard"]
    assert set(account) == {*names[:50], "", "gold", OTHERS}
    assert account[OTHERS] == pytest.approx(10 * account["t1"], rel=0.01)
    assert account["t0"] == pytest.approx(2 * account["t1"], rel=0.01)


def test_who_pays_is_known_by_arrival_too() -> None:
    server = Server(policy=FIRST_COME)
    server.add("a", 20, 2, tenant="acme", slo_class="batch")
    server.run()
    assert server.scheduler.billed_seconds == {"batch": {"acme": pytest.approx(server.scheduler.busy_seconds)}}
