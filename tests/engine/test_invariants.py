"""DESIGN.md's invariants 1, 2, 3 and 5 under random traffic, over the fake model (the real one: test_real_model)."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import ContextOverflow, InvalidRequest, Overloaded
from tests.helpers.engines import EOS, Rig


@dataclass(frozen=True)
class Work:
    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    n: int
    arrive: int  # before this step
    abort: int | None  # before this step


# A small alphabet and shared beginnings make prefix hits common.
prefixes = st.sampled_from([(), (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 9, 9), (3,) * 13])
works = st.builds(
    Work,
    prompt=st.builds(lambda a, b: (*a, *b), prefixes, st.lists(st.integers(1, 3), min_size=1, max_size=20)),
    max_tokens=st.integers(1, 24),
    seed=st.integers(0, 3),
    n=st.sampled_from([1, 1, 1, 2, 3]),
    arrive=st.integers(0, 30),
    abort=st.one_of(st.none(), st.none(), st.integers(0, 60)),
)


def play(rig: Rig, traffic: list[Work]) -> None:
    """Each arrives, and is aborted, before its step; then all that is left comes to its end."""
    for step in range(61):
        for i, work in enumerate(traffic):
            if work.arrive == step:
                rig.submit(f"r{i}", work.prompt, max_tokens=work.max_tokens, seed=work.seed, n=work.n)
            if work.abort == step:
                rig.abort(f"r{i}")
        rig.step()
    rig.run()


def alone(work: Work) -> list[tuple[int, ...]]:
    rig = Rig(blocks=64, sharing=False, max_step_tokens=64)
    rig.submit("x", work.prompt, max_tokens=work.max_tokens, seed=work.seed, n=work.n)
    rig.run()
    return [rig.tokens("x", i) for i in range(work.n)]


@settings(max_examples=300, deadline=None)
@given(
    traffic=st.lists(works, min_size=1, max_size=12),
    blocks=st.integers(16, 40),  # the largest request needs 15: preemptions are common
    sharing=st.booleans(),
    max_running=st.integers(1, 6),
    extra=st.integers(0, 20),
    overlap=st.booleans(),
)
def test_output_depends_on_the_request_alone(
    traffic: list[Work], blocks: int, sharing: bool, max_running: int, extra: int, overlap: bool
) -> None:
    tokens = max_running + extra
    rig = Rig(blocks, sharing=sharing, max_step_tokens=tokens, max_running=max_running, overlap=overlap)
    play(rig, traffic)
    for i, work in enumerate(traffic):
        expected = alone(work)
        for index in range(work.n):
            got, finish = rig.tokens(f"r{i}", index), rig.finish(f"r{i}", index)
            assert finish in ("stop", "length", "abort")
            if finish == "abort":
                assert work.abort is not None
                assert got == expected[index][: len(got)]
            else:
                assert got == expected[index]
                assert (finish == "stop") == (got[-1] == EOS)
    assert rig.cache.pool.held == 0
    rig.submit("last", (5,), max_tokens=1)  # ended sequences leave the executor with the next plan
    rig.step()
    assert set(rig.executor.seeds) <= {"last"}


def test_small_pool_preempts_and_recovers() -> None:
    rig = Rig(blocks=20, sharing=True, max_running=8)
    for i in range(8):
        rig.submit(f"r{i}", [i + 1] * 10, max_tokens=40, ignore_eos=True)
    rig.run()
    assert rig.scheduler.preemptions["memory"] > 0
    for i in range(8):
        assert len(rig.tokens(f"r{i}")) == 40
        assert rig.tokens(f"r{i}") == alone_ignoring_eos(i)


def alone_ignoring_eos(i: int) -> tuple[int, ...]:
    rig = Rig(sharing=False)
    rig.submit("x", [i + 1] * 10, max_tokens=40, ignore_eos=True)
    rig.run()
    return rig.tokens("x")


def test_abort_frees_blocks_before_the_next_step() -> None:
    rig = Rig()
    rig.submit("a", [1] * 30, max_tokens=50, ignore_eos=True)
    rig.step()
    assert rig.cache.pool.held > 0
    rig.abort("a")
    assert rig.cache.pool.held == 0
    assert rig.finish("a") == "abort"
    rig.abort("a")  # a second one is nothing
    rig.abort("never there")


def test_failed_sequence_ends_alone() -> None:
    rig = Rig()
    rig.submit("bad", [1, 2, 3], max_tokens=5)
    rig.submit("good", [1, 2, 4], max_tokens=5, ignore_eos=True)
    rig.executor.fail.add("bad")
    rig.run()
    assert rig.finish("bad") == "error"
    assert rig.outputs["bad", 0][-1].error == "made to fail"
    assert len(rig.tokens("good")) == 5


def test_prefix_hits_are_counted_and_saved() -> None:
    rig = Rig(block_size=4, max_step_tokens=64)
    rig.submit("a", range(1, 33), max_tokens=2, ignore_eos=True)
    rig.run()
    rig.submit("b", range(1, 33), max_tokens=2, ignore_eos=True)
    rig.run()
    assert rig.outputs["a", 0][-1].cached_tokens == 0
    assert rig.outputs["b", 0][-1].cached_tokens == 28  # the last block holds the last token: computed anew
    assert rig.core.stats().prompt_tokens_total == 32 + 4
    assert rig.core.stats().cached_tokens_total == 28


def test_queue_time_ends_with_the_first_step() -> None:
    rig = Rig(max_running=1)
    rig.submit("a", [1, 2], max_tokens=5, ignore_eos=True)
    rig.submit("b", [3, 4], max_tokens=2, ignore_eos=True)
    rig.run()
    assert {output.queue_seconds for output in rig.outputs["a", 0]} == {0.0}
    assert [o.queue_seconds for o in rig.outputs["b", 0]] == pytest.approx([0.05, 0.05])  # a step takes 0.01 s


def test_another_salt_shares_nothing() -> None:
    rig = Rig(max_step_tokens=64)
    rig.submit("a", range(1, 33), salt="one", max_tokens=2, ignore_eos=True)
    rig.run()
    rig.submit("b", range(1, 33), salt="two", max_tokens=2, ignore_eos=True)
    rig.run()
    assert rig.outputs["b", 0][-1].cached_tokens == 0


def test_n_samples_share_the_prompt() -> None:
    rig = Rig(blocks=64, block_size=4, max_step_tokens=64, max_running=8)
    rig.submit("a", range(1, 33), max_tokens=4, n=4, ignore_eos=True)
    for _ in range(2):
        rig.step()
    # 7 full blocks shared by all; one partly filled each, and at most one more each.
    assert rig.scheduler.running == 4
    assert rig.cache.pool.held <= 8 + 4 * 2
    rig.run()
    assert len({rig.tokens("a", i) for i in range(4)}) == 4


def test_chunked_prefill_does_not_stop_decodes() -> None:
    rig = Rig(blocks=64, max_step_tokens=8, max_running=4)
    rig.submit("short", [1], max_tokens=30, ignore_eos=True)
    rig.step()
    rig.submit("long", [2] * 70, max_tokens=1, ignore_eos=True)
    before = len(rig.tokens("short"))
    for i in range(10):
        rig.step()
        assert len(rig.tokens("short")) == before + i + 1
    rig.run()
    assert len(rig.tokens("long")) == 1


def test_limits_are_answers() -> None:
    rig = Rig(blocks=8, block_size=4, max_waiting=2, max_context=100)
    with pytest.raises(ContextOverflow, match="KV pool holds 32"):
        rig.submit("a", [1] * 10, max_tokens=40)
    with pytest.raises(ContextOverflow, match="KV pool holds 32"):
        rig.submit("a", [1] * 40)
    with pytest.raises(ContextOverflow, match="together may have 100"):
        rig.submit("a", [1] * 100)
    with pytest.raises(ContextOverflow, match="make 101"):
        rig.submit("a", [1] * 10, max_tokens=91)
    with pytest.raises(InvalidRequest, match="empty"):
        rig.submit("a", [])
    with pytest.raises(InvalidRequest, match="token id 97"):
        rig.submit("a", [1, 97])
    with pytest.raises(InvalidRequest, match="no more than 2 may wait"):
        rig.submit("a", [1], max_tokens=2, n=3)
    rig.submit("a", [1], max_tokens=2)
    rig.submit("b", [1], max_tokens=2)
    with pytest.raises(Overloaded):
        rig.submit("c", [1], max_tokens=2)
    with pytest.raises(Overloaded):
        rig.submit("d", [1], max_tokens=2, n=2)
    with pytest.raises(InvalidRequest, match="in use"):
        rig.submit("a", [1], max_tokens=2)
    rig.core.check()
    rig.run()
    assert set(rig.outputs) == {("a", 0), ("b", 0)}


def test_an_id_that_names_another_requests_sample_is_refused() -> None:
    rig = Rig()
    rig.submit("a", [1], max_tokens=2, n=2)
    with pytest.raises(InvalidRequest, match="in use"):
        rig.submit("a/1", [1], max_tokens=2)
    rig.run()
    rig.submit("a/1", [1], max_tokens=2)
    with pytest.raises(InvalidRequest, match="in use"):
        rig.submit("a", [1], max_tokens=2, n=2)
    rig.core.check()
    rig.run()


def test_half_refused_samples_leave_nothing() -> None:
    rig = Rig(max_waiting=3)
    rig.submit("first", [1], max_tokens=2)
    with pytest.raises(Overloaded):
        rig.submit("a", [1, 2, 3], max_tokens=2, n=3)
    rig.core.check()
    rig.run()
    assert set(rig.outputs) == {("first", 0)}


def test_no_max_tokens_runs_to_the_end_of_context() -> None:
    rig = Rig(max_context=20)
    rig.submit("a", [1] * 5, ignore_eos=True)
    rig.run()
    assert len(rig.tokens("a")) == 15
    assert rig.finish("a") == "length"
