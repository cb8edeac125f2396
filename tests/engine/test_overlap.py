"""The next step is planned while one is computed: nothing but time changes, and the device is not kept waiting."""

import random
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import VirtualClock
from tenfold.core.config import CacheConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.constraint import Constraint
from tenfold.core.plan import NEXT_TOKEN, StepPlan, StepResult
from tenfold.core.request import EngineRequest
from tenfold.core.sampling import SamplingParams
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.engine.calibration import Calibration
from tenfold.engine.core import EngineCore
from tenfold.engine.loop import run_loop
from tenfold.engine.wire import Command, Outputs, Report, Stop, Submit
from tenfold.exec.executor import Launched, Overlapping
from tenfold.sched.scheduler import Scheduler
from tests.engine.test_invariants import Work, alone, works
from tests.engine.test_speculation import Oracle
from tests.helpers.engines import EOS, VOCAB, ChainExecutor, LetterVocabulary, OverlappingChain, Rig, letter


class Overlapped(Rig):
    """A rig whose steps overlap; ``meanwhile`` happens while each is computed."""

    executor: OverlappingChain

    def __init__(self, meanwhile: Callable[["Overlapped"], None] = lambda rig: None, **settings: object) -> None:
        super().__init__(overlap=True, **settings)  # type: ignore[arg-type]
        compute = self.executor.execute

        def execute(plan: StepPlan) -> StepResult:
            meanwhile(self)
            return compute(plan)

        self.executor.execute = execute  # type: ignore[method-assign]

    @property
    def under_way(self) -> int:
        return len(self.executor.launched)


def test_who_overlaps() -> None:
    assert isinstance(OverlappingChain(1, 1), Overlapping)
    assert not isinstance(ChainExecutor(1, 1), Overlapping)


def test_the_device_is_never_idle_in_decode_and_prefill() -> None:
    """Long and short prompts, more than there are places for, that end by their length and by themselves."""
    rig = Overlapped(blocks=400, max_step_tokens=32, max_running=8, max_context=256)
    draws = random.Random(1)
    works = [
        Work(tuple(draws.choices(range(1, 90), k=draws.randint(1, 60))), draws.randint(5, 60), i, 1, 0, None)
        for i in range(40)
    ]
    for i, work in enumerate(works):
        rig.submit(f"r{i}", work.prompt, max_tokens=work.max_tokens, seed=work.seed)
    rig.run()
    assert rig.executor.behind[:-1] == [1] * (rig.executor.steps - 1)
    assert any(len(part.tokens) > 1 for plan in rig.executor.ahead for part in plan.slices)
    assert {rig.finish(f"r{i}") for i in range(40)} == {"stop", "length"}
    for i, work in enumerate(works):
        assert rig.tokens(f"r{i}") == alone(work)[0]


def test_steps_that_decode_are_as_many_as_without() -> None:
    """An end by length is seen ahead, and what waits has its place in the very next step."""
    steps = []
    for overlap in (False, True):
        rig = Rig(max_running=2, overlap=overlap)
        for i in range(6):
            rig.submit(f"r{i}", [i + 1, 2, 3], max_tokens=7, ignore_eos=True)
        rig.run()
        steps.append(rig.executor.steps)
        assert all(len(rig.tokens(f"r{i}")) == 7 and rig.finish(f"r{i}") == "length" for i in range(6))
    assert steps == [21, 21]


def ending_by_itself() -> tuple[int, tuple[int, ...]]:
    """A seed, and the tokens that end with the stop token."""
    for seed in range(1000):
        tokens = alone(Work((1, 2, 3), 60, seed, 1, 0, None))[0]
        if tokens[-1] == EOS and 5 < len(tokens) < 30:
            return seed, tokens
    raise AssertionError


def test_a_stop_token_ends_one_whose_next_step_is_under_way() -> None:
    seed, tokens = ending_by_itself()
    rig = Overlapped()
    rig.submit("stops", [1, 2, 3], max_tokens=60, seed=seed)
    rig.submit("other", [4, 5], max_tokens=50, ignore_eos=True)
    for _ in tokens:
        rig.step()
    assert rig.tokens("stops") == tokens
    assert rig.finish("stops") == "stop"
    (launched,) = rig.executor.launched
    assert "stops" in [part.id for part in launched.plan.slices]
    held = rig.cache.pool.held
    assert held == len(rig.cache.blocks("other"))  # its blocks are free although that step will use them
    rig.submit("next", [7] * 20, max_tokens=3, ignore_eos=True)
    rig.run()
    assert len(rig.tokens("other")) == 50
    assert rig.cache.pool.held == 0


def test_a_stop_string_does_too() -> None:
    seed, tokens = ending_by_itself()
    stop = letter(tokens[3])
    rig = Overlapped()
    rig.submit("stops", [1, 2, 3], max_tokens=60, seed=seed, stop=(stop,))
    rig.run()
    at = [letter(token) for token in tokens].index(stop) + 1
    assert rig.tokens("stops") == tokens[:at]
    assert rig.finish("stops") == "stop"
    assert rig.executor.steps == at + 1  # one for nothing
    line = rig.outputs["stops", 0][-1].timeline
    assert line is not None and line.output_tokens == at


def test_no_step_is_made_for_nothing_where_all_end_by_length() -> None:
    rig = Overlapped()
    for i in range(4):
        rig.submit(f"r{i}", [i + 1], max_tokens=10, ignore_eos=True)
    rig.submit("one", [9, 9], max_tokens=1, ignore_eos=True)
    rig.run()
    assert rig.executor.steps == 10
    assert len(rig.tokens("one")) == 1


def test_one_is_aborted_with_two_steps_of_it_under_way() -> None:
    def meanwhile(rig: Overlapped) -> None:
        if rig.executor.steps == 3:
            assert rig.under_way == 1  # besides the one that is waited for
            rig.abort("gone")
            assert rig.cache.pool.held == len(rig.cache.blocks("stays"))
            rig.outputs.clear()
            rig.submit("gone", [9, 8, 7], max_tokens=6, ignore_eos=True)  # another of the same name

    rig = Overlapped(meanwhile)
    rig.submit("gone", [1, 2, 3], max_tokens=30, ignore_eos=True)
    rig.submit("stays", [1, 2, 3, 4, 5], max_tokens=30, ignore_eos=True)
    rig.run()
    assert rig.tokens("gone") == alone_ignoring_eos((9, 8, 7), 6)
    assert rig.tokens("stays") == alone_ignoring_eos((1, 2, 3, 4, 5), 30)[-len(rig.tokens("stays")) :]
    stats = rig.core.stats()
    assert stats.billed_seconds_total["standard"][""] == pytest.approx(stats.busy_seconds_total)


@settings(max_examples=150, deadline=None)
@given(
    traffic=st.lists(works, min_size=1, max_size=10),
    blocks=st.integers(16, 40),
    max_running=st.integers(1, 6),
    extra=st.integers(0, 20),
    fails=st.sets(st.integers(0, 9), max_size=1),
)
def test_requests_come_and_go_while_two_steps_are_under_way(
    traffic: list[Work], blocks: int, max_running: int, extra: int, fails: set[int]
) -> None:
    def meanwhile(rig: Overlapped) -> None:
        for i, work in enumerate(traffic):
            if work.arrive == rig.executor.steps:
                rig.submit(f"r{i}", work.prompt, max_tokens=work.max_tokens, seed=work.seed, n=work.n)
            if work.abort == rig.executor.steps:
                rig.abort(f"r{i}")

    rig = Overlapped(meanwhile, blocks=blocks, max_step_tokens=max_running + extra, max_running=max_running)
    rig.executor.fail |= {f"r{i}" for i in fails}
    for _ in range(40):  # something is always computed
        rig.submit(f"first {rig.executor.steps}", (1, 2, 3), max_tokens=1)
        rig.run()
    for i, work in enumerate(traffic):
        expected = alone(work)
        for index in range(work.n):
            got, finish = rig.tokens(f"r{i}", index), rig.finish(f"r{i}", index)
            assert finish is not None
            assert got == expected[index] if finish in ("stop", "length") else got == expected[index][: len(got)]
    assert rig.cache.pool.held == 0
    stats = rig.core.stats()
    billed = stats.billed_seconds_total.get("standard", {"": 0.0})
    assert billed[""] == pytest.approx(stats.busy_seconds_total, rel=1e-9)


def alone_ignoring_eos(prompt: tuple[int, ...], outputs: int) -> tuple[int, ...]:
    rig = Rig(sharing=False)
    rig.submit("x", prompt, max_tokens=outputs, ignore_eos=True)
    rig.run()
    return rig.tokens("x")


def test_what_an_aborted_one_was_told_ends_with_tokens_it_got() -> None:
    timelines = []

    def meanwhile(rig: Overlapped) -> None:
        if rig.executor.steps == 4:
            (output,) = rig.core.abort("x")
            timelines.append(output.timeline)

    rig = Overlapped(meanwhile)
    rig.submit("x", [1, 2, 3], max_tokens=30, ignore_eos=True)
    rig.run()
    assert timelines[0] is not None
    assert timelines[0].output_tokens == 4 == len(rig.tokens("x"))


def test_all_are_aborted_and_the_engine_closes_with_steps_under_way() -> None:
    rig = Overlapped()
    for i in range(3):
        rig.submit(f"r{i}", [i + 1], max_tokens=10, ignore_eos=True)
    for _ in range(4):
        rig.step()
    assert rig.under_way == 1
    rig.take(rig.core.abort_all())
    assert not rig.core.idle
    assert rig.cache.pool.held == 0
    assert rig.core.step() == []
    assert rig.core.idle
    rig.submit("again", [5], max_tokens=10, ignore_eos=True)
    rig.step()
    outputs = rig.core.close()
    assert [output.finish for output in outputs] == ["abort"]
    assert rig.under_way == 0
    assert rig.core.idle


def test_one_that_fails_while_its_next_step_is_under_way() -> None:
    rig = Overlapped()
    rig.submit("bad", [1, 2, 3], max_tokens=20, ignore_eos=True)
    rig.submit("good", [1, 2, 4], max_tokens=20, ignore_eos=True)
    for _ in range(3):
        rig.step()
    rig.executor.fail.add("bad")
    rig.run()
    assert rig.finish("bad") == "error"
    assert len(rig.tokens("bad")) == 3
    assert rig.tokens("good") == alone_ignoring_eos((1, 2, 4), 20)
    assert rig.cache.pool.held == 0


def test_what_depends_on_tokens_waits_for_them() -> None:
    assert SamplingParams(min_tokens=3, logprobs=2, logit_bias={1: 1.0}, stop=("x",)).foreseeable
    assert not SamplingParams(constraint=Constraint("regex", "a")).foreseeable
    rig = Overlapped()
    rig.submit("plain", [1, 2, 3], max_tokens=30, ignore_eos=True)
    rig.submit("penalized", [4, 5, 6], max_tokens=10, ignore_eos=True, presence_penalty=0.5)
    rig.run()
    assert rig.executor.behind == [0] * 9 + [1] * 20 + [0]  # its last token is no one's business
    assert len(rig.tokens("plain")) == 30


def test_its_prompt_does_not() -> None:
    rig = Overlapped(max_step_tokens=8)
    rig.submit("plain", [1, 2, 3], max_tokens=30, ignore_eos=True)
    rig.step()
    rig.submit("penalized", [4] * 33, max_tokens=3, ignore_eos=True, frequency_penalty=0.5)
    rig.run()
    assert rig.executor.behind.count(0) == 3  # two tokens that others hang on, and the end


def test_preemption_waits_for_the_step_and_happens() -> None:
    rig = Overlapped(blocks=20, max_running=8)
    for i in range(8):
        rig.submit(f"r{i}", [i + 1] * 10, max_tokens=40, ignore_eos=True)
    rig.run()
    assert rig.scheduler.preemptions["memory"] > 0
    assert 0 < rig.executor.behind.count(0) < 0.5 * rig.executor.steps
    for i in range(8):
        assert rig.tokens(f"r{i}") == alone_ignoring_eos((i + 1,) * 10, 40)


def test_drafts_are_not_foregone() -> None:
    """Where they may pay, steps are made one by one, as without overlap; where they cannot, they overlap."""
    counts = []
    for overlap in (False, True):
        oracle = Oracle(lambda: 3)
        rig = Rig(proposers=(oracle,), overlap=overlap)
        oracle.seeds = rig.executor.seeds
        rig.submit("a", [1, 2, 3], max_tokens=40, ignore_eos=True)
        rig.run()
        counts.append(rig.executor.steps)
        if overlap:
            assert isinstance(rig.executor, OverlappingChain)
            assert set(rig.executor.behind) == {0}
    assert counts[0] == counts[1] < 30


def test_nobody_waits_for_drafts_that_are_not_there() -> None:
    """Looks that find nothing become seldom: 1, 2, 4 … 32 steps are planned ahead between them."""
    oracle = Oracle(lambda: 0)
    rig = Rig(proposers=(oracle,), overlap=True)
    oracle.seeds = rig.executor.seeds
    rig.submit("a", [1, 2, 3], max_tokens=100, ignore_eos=True)
    rig.run()
    assert isinstance(rig.executor, OverlappingChain)
    assert rig.executor.steps == 100
    assert 6 <= rig.executor.behind.count(0) <= 16


def test_nobody_waits_for_drafts_that_save_less_than_the_wait() -> None:
    oracle = Oracle(lambda: 1)
    rig = Rig(proposers=(oracle,), overlap=True)
    oracle.seeds = rig.executor.seeds
    speculation = rig.scheduler.speculation
    assert speculation is not None
    for _ in range(200):
        speculation.waited(10.0)  # seconds: no draft saves as much
    rig.submit("a", [1, 2, 3], max_tokens=100, ignore_eos=True)
    rig.run()
    assert isinstance(rig.executor, OverlappingChain)
    assert rig.executor.behind.count(1) > 0.7 * rig.executor.steps


def test_hopeless_drafts_keep_nothing_from_overlapping() -> None:
    for tokens, speculation in ((None, SpeculationConfig()), (0, SpeculationConfig(mode="fixed"))):
        oracle = Oracle(lambda: 3)
        rig = Overlapped(blocks=400, proposers=(oracle,), max_running=64, max_step_tokens=200, speculation=speculation)
        oracle.seeds = rig.executor.seeds
        for i in range(64):
            rig.submit(f"r{i}", [i + 1], max_tokens=14, ignore_eos=True, draft_tokens=tokens)
        rig.run()
        assert rig.executor.behind == [1] * (rig.executor.steps - 1) + [0]
        assert rig.executor.steps == 14


class Device(OverlappingChain):
    """Takes its own time, beside the host's."""

    def __init__(self, blocks: int, block_size: int, clock: VirtualClock, seconds: Callable[[], float]) -> None:
        super().__init__(blocks, block_size)
        self.clock = clock
        self.seconds = seconds
        self.busy = 0.0
        self.ends: dict[int, float] = {}
        self.until = 0.0

    def launch(self, plan: StepPlan) -> Launched:
        seconds = self.seconds()
        self.busy += seconds
        self.until = max(self.clock.now(), self.until) + seconds
        self.ends[id(plan)] = self.until
        return super().launch(plan)

    def compute(self, plan: StepPlan) -> StepResult:
        self.clock.advance(max(0.0, self.ends.pop(id(plan)) - self.clock.now()))
        return super().compute(plan)


class Timed:
    """A core over such a device; the host takes ``host`` seconds between calls."""

    def __init__(self, seconds: Callable[[], float], host: float) -> None:
        self.clock = VirtualClock()
        self.cache = CacheManager(CacheConfig(100, 4))
        self.cost = StepCost()
        self.seen: list[float] = []
        observe = self.cost.observe

        def seen(shape: StepShape, took: float) -> None:
            self.seen.append(took)
            observe(shape, took)

        self.cost.observe = seen  # type: ignore[method-assign]
        self.device = Device(100, 4, self.clock, seconds)
        self.scheduler = Scheduler(SchedulerConfig(64, 8), self.cache, self.cost)
        self.core = EngineCore(self.scheduler, self.cache, self.device, LetterVocabulary(), self.clock, 100, VOCAB)
        self.host = host

    def submit(self, name: str, outputs: int, **params: object) -> None:
        wanted = SamplingParams(max_tokens=outputs, ignore_eos=True, **params)  # type: ignore[arg-type]
        self.core.submit(EngineRequest(id=name, prompt_ids=(1, 2), params=wanted, arrival=self.clock.now()))

    def run(self) -> float:
        """Returns when the last output came."""
        came = 0.0
        while not self.core.idle:
            if self.core.step():
                came = self.clock.now()
            self.core.check()
            self.clock.advance(self.host)
        return came


def test_steps_follow_one_another_without_a_gap_and_take_what_the_device_takes() -> None:
    draws = random.Random(2)
    timed = Timed(lambda: draws.choice((0.01, 0.02)), host=0.005)
    for i in range(4):
        timed.submit(f"r{i}", 20 + i)
    came = timed.run()
    assert came == pytest.approx(timed.device.busy)
    stats = timed.core.stats()
    assert sum(timed.seen) == pytest.approx(timed.device.busy)
    assert {round(seen, 9) for seen in timed.seen} == {0.01, 0.02}
    assert stats.step_seconds_total == pytest.approx(timed.device.busy)
    assert stats.busy_seconds_total == pytest.approx(timed.device.busy)
    assert stats.billed_seconds_total["standard"][""] == pytest.approx(timed.device.busy)


def test_where_steps_wait_for_the_host_that_is_nobodys_but_the_bills() -> None:
    timed = Timed(lambda: 0.01, host=0.005)
    timed.submit("x", 11, presence_penalty=1.0)
    timed.submit("y", 11)
    came = timed.run()
    assert timed.seen == [pytest.approx(0.01)] * 11
    stats = timed.core.stats()
    assert came == pytest.approx(11 * 0.01)  # launched before the last outputs were given
    assert stats.busy_seconds_total == pytest.approx(came)


def test_tokens_come_as_steps_end() -> None:
    """None waits for the end of the step that was planned ahead."""
    timed = Timed(lambda: 0.01, host=0.001)
    timed.submit("x", 10)
    came = []
    while not timed.core.idle:
        came += [timed.clock.now() for _ in timed.core.step()]
        timed.clock.advance(0.001)
    assert came == [pytest.approx(0.01 * (i + 1)) for i in range(10)]


def test_measured_only_while_nothing_is_under_way() -> None:
    clock, cost = VirtualClock(), StepCost()
    cache, attention, limits = CacheManager(CacheConfig(400, 16)), Attention((0,)), SchedulerConfig(512, 64)
    device = Device(400, 16, clock, lambda: 0.01)
    calibration = Calibration(cache, device, cost, attention, clock, limits, 2048)
    scheduler = Scheduler(limits, cache, cost, attention)
    core = EngineCore(scheduler, cache, device, LetterVocabulary(), clock, 2048, VOCAB, calibration=calibration)
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    for name in "ab":
        for _ in range(5):
            core.calibrate()
        assert calibration.running
        core.submit(EngineRequest(id=name, prompt_ids=(3,) * 40, params=params, arrival=clock.now()))
        core.step()
        core.step()
        core.abort(name)
        assert not core.idle
        core.calibrate()
        assert not calibration.running
        while not core.idle:
            core.step()
    while core.calibrating:
        core.calibrate()
        core.check()
    assert cache.pool.held == 0


def test_the_loop_makes_overlapped_steps() -> None:
    rig = Rig(overlap=True)
    inbox: SimpleQueue[Command | None] = SimpleQueue()
    params = SamplingParams(max_tokens=10, ignore_eos=True, seed=3)
    inbox.put(Submit(EngineRequest(id="x", prompt_ids=(1, 2, 3), params=params, arrival=0.0)))
    tokens: list[int] = []

    def report(message: Report) -> None:
        if isinstance(message, Outputs):
            for output in message.outputs:
                tokens.extend(output.tokens)
                if output.finish:
                    inbox.put(Stop())

    run_loop(rig.core, inbox, report, rig.clock)
    other = Rig()
    other.submit("x", (1, 2, 3), max_tokens=10, ignore_eos=True, seed=3)
    other.run()
    assert tuple(tokens) == other.tokens("x")
    assert NEXT_TOKEN not in tokens
