"""Drafts from text: against a search through all of it, with bounded memory, and apart where salts differ."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.spec.acceptance import Acceptance
from tenfold.spec.finished import FinishedTexts
from tenfold.spec.lookup import PromptLookup
from tenfold.spec.runs import MATCHED

texts = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def longest(tokens: Sequence[int], text: Sequence[int], ends: Sequence[int]) -> int:
    """The most of the last tokens that stand before one of the positions ``ends`` of a text."""
    best = 0
    for at in ends:
        length = 0
        while length < min(at, len(tokens), MATCHED) and tokens[-1 - length] == text[at - 1 - length]:
            length += 1
        best = max(best, length)
    return best


@settings(max_examples=200, deadline=None)
@given(text=texts, pieces=st.lists(st.integers(1, 30), min_size=1, max_size=8), most=st.integers(1, 20))
def test_lookup_finds_what_followed(text: list[int], pieces: list[int], most: int) -> None:
    lookup, tokens = PromptLookup(), list[int]()
    for size in pieces:  # the text grows from call to call
        tokens += (text * 30)[len(tokens) : len(tokens) + size]
        proposal = lookup.propose("x", tokens, "", most)
        places = [at for at in range(2, len(tokens)) if tokens[at - 2 : at] == tokens[-2:]]
        if not places:
            assert proposal is None
            continue
        assert proposal is not None
        assert len(proposal.tokens) == most
        assert proposal.matched == longest(tokens, tokens, places[-8:])
        followed = [at for at in places if longest(tokens, tokens, [at]) == proposal.matched]
        whole = [tokens + list(proposal.tokens[:i]) for i in range(most)]
        assert any(
            all(t == w[at + i] for i, (t, w) in enumerate(zip(proposal.tokens, whole, strict=True))) for at in followed
        )


def test_lookup_forgets_what_has_ended() -> None:
    lookup = PromptLookup()
    assert lookup.propose("x", [1, 2, 3, 1, 2], "", 2) == ((3, 1), 2)
    lookup.end("x", [1, 2, 3, 1, 2], "", finished=True)
    assert lookup.propose("x", [7, 8, 9], "", 2) is None


@settings(max_examples=200, deadline=None)
@given(finished=st.lists(st.lists(st.integers(0, 2), min_size=16, max_size=40), max_size=8), tokens=texts)
def test_finished_texts_hold_what_fits(finished: list[list[int]], tokens: list[int]) -> None:
    kept = FinishedTexts(100)
    for text in finished:
        kept.end("x", text, "", finished=True)
        assert kept.tokens <= 100
    there: list[list[int]] = []
    for text in reversed(finished):
        if sum(map(len, there)) + len(text) > 100:
            break
        there.append(text)
    proposal = kept.propose("y", tokens, "", 5)
    found = [(text, at) for text in there for at in range(3, len(text)) if text[at - 3 : at] == tokens[-3:]]
    if len(tokens) < 3 or not found:
        assert proposal is None
        return
    assert proposal is not None
    assert 3 <= proposal.matched <= max(longest(tokens, text, [at]) for text, at in found)
    assert any(list(proposal.tokens) == text[at : at + 5] for text, at in found)


def test_finished_texts_are_apart_by_salt() -> None:
    kept = FinishedTexts(1000)
    kept.end("x", range(50), "one", finished=True)
    assert kept.propose("y", [3, 4, 5], "two", 4) is None
    assert kept.propose("y", [3, 4, 5], "one", 4) == ((6, 7, 8, 9), 3)


@pytest.mark.parametrize(("text", "finished"), [(range(50), False), (range(15), True), ((), True)])
def test_not_every_text_is_kept(text: Sequence[int], finished: bool) -> None:
    kept = FinishedTexts(1000)
    kept.end("x", text, "", finished=finished)
    assert kept.tokens == 0


def test_of_a_long_text_the_end_is_kept() -> None:
    kept = FinishedTexts(100)
    kept.end("x", range(5000), "", finished=True)
    assert kept.tokens == 100
    assert kept.propose("y", [4990, 4991, 4992], "", 3) == ((4993, 4994, 4995), 3)
    assert kept.propose("y", [10, 11, 12], "", 3) is None


def test_acceptance_follows_what_is_seen() -> None:
    known = Acceptance()
    assert 0 < known.chance(2) < known.chance(8) < known.chance(1000) < 1
    before = known.chance(20)
    for i in range(400):
        known.observe(3, held=i % 4 == 0)
    assert known.chance(3) == pytest.approx(0.25, abs=0.03)
    assert known.chance(20) == before
    for _ in range(5000):
        known.observe(3, held=True)
    assert known.chance(3) > 0.9
