"""Speculation changes nothing but time: random traffic, with aborts and preemptions, over the fake model."""

from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.config import SpeculationConfig
from tenfold.core.plan import SequenceStart
from tenfold.spec.proposer import Proposal
from tests.engine.test_invariants import Work, alone, play, works
from tests.helpers.engines import EOS, VOCAB, Rig, next_token

FIXED = SpeculationConfig(mode="fixed", draft_tokens=4)


class Oracle:
    """Knows what comes: ``right`` tells of how many tokens it says so; then comes one that is wrong."""

    name = "oracle"

    def __init__(self, right: Callable[[], int]) -> None:
        self.right = right
        self.seeds: dict[str, int] = {}
        self.ended: list[str] = []

    def begin(self, start: SequenceStart) -> None: ...

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        text, right = list(tokens), self.right()
        for _ in range(min(right, most)):
            text.append(next_token(text, self.seeds[sequence]))
        if right < most:
            text.append((next_token(text, self.seeds[sequence]) + 1) % VOCAB)
        return Proposal(tuple(text[len(tokens) :]), right) if right >= 0 else None

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        self.ended.append(sequence)


def rig_of(oracle: Oracle, **settings: object) -> Rig:
    rig = Rig(proposers=(oracle,), **settings)  # type: ignore[arg-type]
    oracle.seeds = rig.executor.seeds
    return rig


@settings(max_examples=150, deadline=None)
@given(
    traffic=st.lists(works, min_size=1, max_size=10),
    blocks=st.integers(16, 40),
    sharing=st.booleans(),
    max_running=st.integers(1, 6),
    extra=st.integers(0, 20),
    fixed=st.booleans(),
    rights=st.lists(st.integers(-1, 5), min_size=1, max_size=20),
)
def test_output_is_the_same_with_and_without(
    traffic: list[Work],
    blocks: int,
    sharing: bool,
    max_running: int,
    extra: int,
    fixed: bool,
    rights: list[int],
) -> None:
    turns = iter(rights * 10_000)
    oracle = Oracle(lambda: next(turns))
    speculation = FIXED if fixed else SpeculationConfig()
    rig = rig_of(
        oracle,
        blocks=blocks,
        sharing=sharing,
        max_step_tokens=max_running + extra,
        max_running=max_running,
        speculation=speculation,
    )
    play(rig, traffic)
    names = [f"r{i}" if index == 0 else f"r{i}/{index}" for i, work in enumerate(traffic) for index in range(work.n)]
    assert sorted(oracle.ended) == sorted(names)
    for i, work in enumerate(traffic):
        expected = alone(work)
        for index in range(work.n):
            got, last = rig.tokens(f"r{i}", index), rig.outputs[f"r{i}", index][-1]
            assert last.timeline is not None
            assert last.timeline.output_tokens == len(got)
            assert last.timeline.accepted_tokens <= last.timeline.draft_tokens
            if last.finish == "abort":
                assert got == expected[index][: len(got)]
            else:
                assert got == expected[index]
                assert (last.finish == "stop") == (got[-1] == EOS)
    assert rig.cache.pool.held == 0


def test_several_tokens_come_at_once() -> None:
    rig = rig_of(Oracle(lambda: 3), speculation=FIXED, max_step_tokens=64)
    rig.submit("a", [1, 2, 3], max_tokens=41, ignore_eos=True, seed=7)
    rig.run()
    plain = Rig()
    plain.submit("a", [1, 2, 3], max_tokens=41, ignore_eos=True, seed=7)
    plain.run()
    assert rig.tokens("a") == plain.tokens("a")
    sizes = [len(output.tokens) for output in rig.outputs["a", 0]]
    assert sizes[:3] == [1, 4, 4]  # the first token comes from the prompt; then three drafted and one more
    stats = rig.core.stats()
    assert stats.generated_tokens_total == 41
    assert stats.accepted_tokens_total == {"oracle": 30}
    assert stats.steps_total == 11


def test_a_stop_string_cuts_off_what_was_drafted_behind_it() -> None:
    plain, drafting = Rig(), rig_of(Oracle(lambda: 4), speculation=FIXED, max_step_tokens=64)
    for rig in (plain, drafting):
        rig.submit("a", [1, 2, 3], max_tokens=60, ignore_eos=True)
        rig.run()
    text = "".join(output.text for output in plain.outputs["a", 0])
    for rig in (plain, drafting):
        for at in range(3, 12):  # so that the end falls on each place of a step
            rig.submit(f"s{at}", [1, 2, 3], max_tokens=60, ignore_eos=True, stop=(text[at : at + 3],))
        rig.run()
    for at in range(3, 12):
        name = f"s{at}"
        assert drafting.tokens(name) == plain.tokens(name)
        one, other = drafting.outputs[name, 0][-1], plain.outputs[name, 0][-1]
        assert (one.finish, one.stop) == (other.finish, other.stop)
        assert one.timeline is not None
        assert one.timeline.output_tokens == len(plain.tokens(name))
    assert drafting.core.stats().generated_tokens_total == plain.core.stats().generated_tokens_total


def test_a_request_may_ask_for_fewer_or_none() -> None:
    for wanted, most in ((None, 4), (2, 2), (0, 0)):
        rig = rig_of(Oracle(lambda: 5), speculation=FIXED, max_step_tokens=64)
        rig.submit("a", [1, 2, 3], max_tokens=30, ignore_eos=True, draft_tokens=wanted)
        rig.run()
        assert max(len(output.tokens) for output in rig.outputs["a", 0]) == 1 + most
