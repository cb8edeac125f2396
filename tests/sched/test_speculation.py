"""The controller drafts where that pays, hardly slows those that gain nothing, and leaves bounds and memory alone."""

import random
from collections.abc import Callable, Sequence

import pytest

from tenfold.core.config import SpeculationConfig
from tenfold.core.plan import SequenceSlice, SequenceStart
from tenfold.core.slo import Slo
from tenfold.spec.proposer import Proposal
from tests.helpers.scheduling import Server

FIXED = SpeculationConfig(mode="fixed", draft_tokens=4)
OFF = SpeculationConfig(mode="off")


class Scripted:
    """Always has a draft of as many tokens as it may, with ``matched(sequence)`` tokens behind it; None: no draft."""

    name = "scripted"

    def __init__(self, matched: Callable[[str], int | None] = lambda sequence: 20) -> None:
        self.matched = matched

    def begin(self, start: SequenceStart) -> None: ...

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        matched = self.matched(sequence)
        return None if matched is None else Proposal((1,) * most, matched)

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        """Nothing is kept."""


def luck(chance: float, seed: int = 0) -> Callable[[SequenceSlice], int]:
    """So likely each drafted token is right, if all before it are."""
    draws = random.Random(seed)

    def accepts(part: SequenceSlice) -> int:
        right = 0
        while right < part.drafted + part.asked and draws.random() < chance:
            right += 1
        return right

    return accepts


def served(count: int, *, outputs: int = 150, **settings: object) -> Server:
    """A server that has served so many requests at once."""
    server = Server(**settings)  # type: ignore[arg-type]
    for i in range(count):
        server.add(f"r{i}", 100, outputs)
    server.run()
    return server


def slowest(server: Server) -> float:
    return max(server.tpot(name) for name in server.times)


def mean(server: Server) -> float:
    return sum(server.tpot(name) for name in server.times) / len(server.times)


def test_one_sequence_is_sped_up() -> None:
    plain = served(1)
    fast = served(1, proposers=[Scripted()], accepts=luck(0.9))
    assert fast.tpot("r0") < 0.4 * plain.tpot("r0")
    line = fast.timelines["r0"]
    assert line.output_tokens == 150
    assert 0 < line.accepted_tokens < line.draft_tokens
    assert line.saved_seconds == pytest.approx(149 * (plain.tpot("r0") - fast.tpot("r0")), rel=0.15)


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("chance", [0.0, 0.1, 0.3, 0.6, 0.9])
def test_never_much_slower_than_without(count: int, chance: float) -> None:
    """At whatever load, and however seldom drafts are right: what was tried in vain is little."""
    plain = served(count)
    drafting = served(count, proposers=[Scripted(lambda sequence: 2)], accepts=luck(chance))
    assert mean(drafting) <= 1.01 * mean(plain)
    assert slowest(drafting) <= 1.03 * slowest(plain)


def test_load_turns_it_off() -> None:
    """Likely drafts go on where unlikely ones have ended."""
    drafted = {}
    for chance in (0.3, 0.9):
        for count in (1, 4, 16, 64):
            server = served(count, proposers=[Scripted(lambda sequence: 2)], accepts=luck(chance))
            drafted[chance, count] = sum(line.draft_tokens for line in server.timelines.values()) / count / 150
    assert drafted[0.3, 1] > 0.05 > 0.02 > drafted[0.3, 16] >= drafted[0.3, 64]
    assert drafted[0.9, 1] > drafted[0.9, 4] > drafted[0.9, 16] > drafted[0.3, 16]


def test_those_that_gain_nothing_are_hardly_slowed() -> None:
    """One of four has drafts, and they are right; a fixed draft makes the others pay for it."""
    lucky = Scripted(lambda sequence: 20 if sequence == "r0" else None)
    plain = served(4)
    drafting = served(4, proposers=[lucky], accepts=luck(0.95))
    assert drafting.tpot("r0") < 0.95 * plain.tpot("r0")
    assert max(drafting.tpot(f"r{i}") for i in (1, 2, 3)) < 1.02 * slowest(plain)


def test_a_step_is_no_longer_than_a_bound_allows() -> None:
    """Those that are ahead of their bound may wait for twice as long, once; all keep it."""
    plain = served(8)
    bound = 1.1 * slowest(plain)
    server = served(8, slo=Slo(tpot=bound), proposers=[Scripted()], accepts=luck(0.97))
    assert max(seconds for shape, seconds in server.steps if shape.prefill_keys == 0) <= 2 * bound
    assert slowest(server) <= bound


def test_prompts_get_their_part_of_a_step() -> None:
    server = Server(proposers=[Scripted()], accepts=luck(1.0), speculation=FIXED, max_step_tokens=32, max_running=32)
    for i in range(16):
        server.add(f"r{i}", 10, 400)
    while len(server.times) < 16:
        server.step()
    server.add("late", 200, 5)
    began = len(server.steps)
    while "late" not in server.times:
        server.step()
    assert len(server.steps) - began <= 200 / 8 + 2
    assert all(shape.rows <= 32 for shape, _ in server.steps)


def test_drafts_take_no_memory_that_others_need() -> None:
    """A pool that just holds what runs: as many are displaced as without drafts."""
    settings = {"blocks": 48, "outputs": 90}
    plain = served(6, **settings)  # type: ignore[arg-type]
    drafting = served(6, proposers=[Scripted()], accepts=luck(0.5), **settings)  # type: ignore[arg-type]
    assert drafting.scheduler.preemptions["memory"] <= plain.scheduler.preemptions["memory"]
    assert all(len(times) == 90 for times in drafting.times.values())


def test_fixed_drafts_always() -> None:
    server = served(3, proposers=[Scripted()], accepts=luck(0.0), speculation=FIXED)
    for line in server.timelines.values():
        assert line.draft_tokens == 4 * 148 - 6  # the last tokens need fewer
        assert line.accepted_tokens == 0
        assert line.saved_seconds < 0


def test_off_is_off() -> None:
    server = served(1, proposers=[Scripted()], accepts=luck(1.0), speculation=OFF)
    assert server.scheduler.speculation is None
    assert server.timelines["r0"].draft_tokens == 0


def test_what_seems_not_to_pay_is_tried_now_and_then() -> None:
    """Drafts that were never right become right: that is noticed."""
    chance = 0.0
    server = Server(
        proposers=[Scripted(lambda sequence: 2)], accepts=lambda part: luck(chance, len(server.steps))(part)
    )
    for i in range(8):
        server.add(f"r{i}", 20, 4000)
    while len(server.times.get("r7", ())) < 500:
        server.step()
    speculation = server.scheduler.speculation
    assert speculation is not None
    assert speculation.drafted.total() < 60
    chance, before = 1.0, speculation.accepted.total()
    while len(server.times["r7"]) < 3500:
        server.step()
    assert speculation.accepted.total() - before > 3000


def test_a_draft_model_is_asked_where_it_pays() -> None:
    plain = served(1)
    for chance, asked in ((0.8, True), (0.05, False)):
        server = served(1, draft_model=True, accepts=luck(chance))
        line = server.timelines["r0"]
        assert (line.draft_tokens > 40) == asked
        assert line.draft_tokens <= 40 or server.tpot("r0") < 0.92 * plain.tpot("r0")
        assert server.tpot("r0") < 1.02 * plain.tpot("r0")
    crowd = served(32, draft_model=True, accepts=luck(0.6))
    assert sum(line.draft_tokens for line in crowd.timelines.values()) < 0.05 * 32 * 150


def test_text_goes_before_the_draft_model_where_it_is_surer() -> None:
    server = Server(
        proposers=[Scripted(lambda sequence: 30 if sequence == "r0" else None)],
        draft_model=True,
        accepts=luck(0.8),
    )
    server.add("r0", 50, 60)
    server.add("r1", 50, 60)
    server.run()
    speculation = server.scheduler.speculation
    assert speculation is not None
    assert set(speculation.drafted) == {"scripted", "model"}
    assert speculation.spent > 0
    assert speculation.saved > speculation.spent


def test_the_bill_covers_drafted_tokens() -> None:
    server = served(4, proposers=[Scripted(lambda sequence: 20 if sequence == "r0" else None)], accepts=luck(0.2))
    lines = server.timelines
    assert sum(line.machine_seconds for line in lines.values()) == pytest.approx(sum(s for _, s in server.steps))
    assert lines["r0"].machine_seconds > max(lines[f"r{i}"].machine_seconds for i in (1, 2, 3))
