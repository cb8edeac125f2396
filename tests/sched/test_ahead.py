"""Plans made while the step before is computed: bounds are kept, nobody loses by one, and what they put off is done."""

import pytest

from tenfold.core.errors import Overloaded
from tenfold.core.plan import NEXT_TOKEN, StepPlan
from tenfold.core.slo import Slo
from tenfold.cost.shape import StepShape
from tests.helpers.scheduling import ATTENTION, Server


class Watched(Server):
    """Asserts that no plan made ahead takes a place, or leaves out one that decodes."""

    def plan(self, schedule: object) -> None:
        before, running = self.scheduler.preemptions.total(), self.scheduler.running
        super().plan(schedule)  # type: ignore[arg-type]
        if schedule == self.scheduler.schedule_ahead:
            assert self.scheduler.preemptions.total() == before
            assert self.scheduler.running >= running
            if len(self.under_way) == 2:
                decoding = {s.id for s in self.scheduler._running if s.pending == 1 and len(s.tokens) < s.longest}
                assert decoding <= {part.id for part in self.under_way[1][0].slices}


def latest(server: Server) -> float:
    """By how many seconds a token was later than its bound says."""
    chats = [times for name, times in server.times.items() if name.startswith("chat")]
    return max(at - times[0] - 0.03 * count for times in chats for count, at in enumerate(times))


def chatting(*, overlap: bool) -> Server:
    server = Server(Slo(ttft=20.0, tpot=0.03), overlap=overlap)
    for at in range(8):
        server.add(f"chat {at}", 20, 300)
    for at in range(6):
        for _ in range(20):
            server.step()
        server.add(f"long {at}", 3000, 1)
    server.run()
    return server


def test_tokens_are_in_time_and_prompts_as_fast() -> None:
    plain, ahead = (chatting(overlap=overlap) for overlap in (False, True))
    assert latest(ahead) <= max(0.001, latest(plain))
    assert ahead.ahead > 0.98 * len(ahead.steps)
    assert ahead.now <= 1.02 * plain.now
    for at in range(6):
        assert ahead.ttft(f"long {at}") <= 1.1 * plain.ttft(f"long {at}")


def test_of_a_full_pool_nothing_is_taken_ahead() -> None:
    server = Watched(blocks=40, overlap=True)
    for at in range(6):
        server.add(f"{at}", 100, 60)
    server.run()
    assert server.scheduler.preemptions["memory"] > 0
    assert all(len(server.times[f"{at}"]) == 60 for at in range(6))
    assert 0.5 * len(server.steps) < server.ahead < len(server.steps) - server.scheduler.preemptions["memory"]


def test_an_urgent_class_takes_a_place_all_the_same() -> None:
    waits = []
    for overlap in (False, True):
        server = Watched(max_running=2, blocks=300, overlap=overlap)
        for at in range(2):
            server.add(f"bulk {at}", 100, 400, slo_class="batch")
        for _ in range(5):
            server.step()
        server.add("urgent", 50, 5, slo_class="interactive")
        server.run()
        assert server.scheduler.preemptions["slo"] == 1
        waits.append(server.ttft("urgent"))
        assert all(len(server.times[f"bulk {at}"]) == 400 for at in range(2))
    assert waits[1] < min(1.0, waits[0] + 3 * max(seconds for _, seconds in server.steps))


def test_a_prompt_that_finds_no_blocks_ahead_takes_them_in_the_next_step() -> None:
    server = Watched(blocks=34, max_step_tokens=64, overlap=True)
    for at in range(3):
        server.add(f"bulk {at}", 14, 300, slo_class="batch")
    while len(server.times.get("bulk 2", ())) < 48:
        server.step()
    server.add("first", 300, 1)
    server.run()
    lost = [name for name, line in server.timelines.items() if line.preemptions]
    assert lost and "first" not in lost
    assert server.times["first"][0] < min(times[-1] for name, times in server.times.items() if name != "first")
    assert server.ahead > 0.9 * len(server.steps)


def refusal(*, overlap: bool) -> float:
    """When one that comes while a step is computed may come again."""
    server, waits = Server(overlap=overlap), list[float]()
    for at in range(4):
        server.add(f"chat {at}", 20, 300)
    for _ in range(100):
        server.step()
    machine, alone = server.machine, server.cost.predict(StepShape(256, 1, 1, 0.0, ATTENTION.keys(256, 256)))

    def meanwhile(shape: StepShape) -> float:
        with pytest.raises(Overloaded) as refused:
            server.add("late", 256, 1, ttft=1.01 * alone)
        waits.append(refused.value.retry_after or 0.0)
        return machine(shape)

    server.machine = meanwhile
    server.step()
    return waits[0] / server.steps[-1][1]


def test_a_promise_counts_the_step_that_was_planned_ahead() -> None:
    assert refusal(overlap=True) - refusal(overlap=False) == pytest.approx(1.0, rel=0.1)


def test_what_is_not_known_yet_is_one_token_of_each() -> None:
    server = Server(overlap=True)
    for at in range(3):
        server.add(f"{at}", 10 + at, 4)
    plans: list[StepPlan] = []
    while server.scheduler.waiting or server.scheduler.running:
        server.step()
        plans += [plan for plan, _ in server.under_way]
    assert [len(plan.slices) for plan in plans] == [3, 3, 3]
    assert all(part.tokens == (NEXT_TOKEN,) for plan in plans for part in plan.slices)
