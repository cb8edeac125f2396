"""Sampling: every filter against its definition, draws against their distribution, reproducibility."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InvalidRequest
from tenfold.core.plan import SampledToken, SequenceSlice, SequenceStart
from tenfold.core.sampling import SamplingParams, uniform
from tenfold.exec.sampler import Sampler
from tenfold.ops.base import SamplingOps
from tenfold.ops.cpu import CpuOps
from tenfold.ops.reference import ReferenceOps
from tests.helpers.models import random_weights, tiny_spec

VOCAB = 50
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=VOCAB).astype(np.float32) * 2
OPS: dict[str, SamplingOps] = {}


@pytest.fixture(scope="module", autouse=True)
def ops() -> Iterator[None]:
    weights = random_weights(tiny_spec(layers=1))
    OPS.update(cpu=CpuOps(weights, threads=2), reference=ReferenceOps(weights))
    yield
    OPS.clear()


def start(name: str = "x", seed: int = 1, prompt: tuple[int, ...] = (1,), **params: object) -> SequenceStart:
    return SequenceStart(name, prompt, SamplingParams(**params), seed, eos_ids=(3,))  # type: ignore[arg-type]


def part(name: str, *drafted: int) -> SequenceSlice:
    return SequenceSlice(name, 0, (1, *drafted), (0,), sample=True, drafted=len(drafted))


def draw(count: int, logits: np.ndarray = LOGITS, backend: str = "cpu", **params: object) -> list[int]:
    sampler = Sampler(len(logits), OPS[backend])
    sampler.start(start(**params))  # type: ignore[arg-type]
    return [sampler.sample([part("x")], logits[None].copy()).sampled[0].token for _ in range(count)]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0, "frequency_penalty": 0.3},
        {"temperature": 0.7},
        {"temperature": 0.8, "top_p": 0.95},
        {"temperature": 1.2, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.3},
        {"temperature": 1.0, "logit_bias": {4: 3.0}, "min_tokens": 30, "stop_token_ids": (5, 6)},
    ],
)
def test_backends_draw_alike(params: dict[str, object]) -> None:
    logits = np.random.default_rng(2).normal(size=3000).astype(np.float32) * 3
    assert draw(200, logits, "cpu", **params) == draw(200, logits, "reference", **params)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max())
    return e / e.sum()


def close_to(tokens: list[int], expected: np.ndarray) -> bool:
    """Whether the counts fit: chi-squared well within its spread (the draws are fixed by the seed)."""
    counts = np.bincount(tokens, minlength=len(expected))
    assert not counts[expected == 0].any(), "a filtered token was drawn"
    kept = expected > 0
    want = expected[kept] * len(tokens)
    chi = ((counts[kept] - want) ** 2 / want).sum()
    return bool(chi < kept.sum() + 5 * np.sqrt(2 * kept.sum()))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    assert close_to(draw(4000, temperature=temperature), softmax(LOGITS / temperature))


def test_uniform_is_uniform() -> None:
    values = np.array([uniform(seed, p) for seed in (0, 1, -5, 2**63) for p in range(2000)])
    assert 0 <= values.min() < values.max() < 1
    assert np.abs(np.histogram(values, 20)[0] - 400).max() < 100
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_top_k() -> None:
    expected = softmax(LOGITS)
    expected[np.argsort(-LOGITS)[5:]] = 0
    assert close_to(draw(3000, top_k=5), expected / expected.sum())


@pytest.mark.parametrize("size", [VOCAB, 5000])
@pytest.mark.parametrize("top_p", [0.2, 0.7, 0.95])
def test_top_p(size: int, top_p: float) -> None:
    logits = np.random.default_rng(1).normal(size=size).astype(np.float32) * (2 if size == VOCAB else 0.5)
    probs = softmax(logits)
    order = np.argsort(-logits)
    kept = int(np.searchsorted(np.cumsum(probs[order]), top_p)) + 1
    expected = probs.copy()
    expected[order[kept:]] = 0
    tokens = draw(3000, logits, top_p=top_p)
    assert expected[tokens].min() > 0
    if size == VOCAB:
        assert close_to(tokens, expected / expected.sum())


def test_min_p() -> None:
    expected = softmax(LOGITS)
    expected[expected < 0.1 * expected.max()] = 0
    assert close_to(draw(3000, min_p=0.1), expected / expected.sum())


def test_filters_together() -> None:
    expected = softmax(LOGITS)
    order = np.argsort(-LOGITS)
    expected[order[8:]] = 0
    expected /= expected.sum()
    kept = int(np.searchsorted(np.cumsum(expected[order]), 0.8)) + 1
    expected[order[kept:]] = 0
    expected[expected < 0.2 * expected.max()] = 0
    assert close_to(draw(3000, top_k=8, top_p=0.8, min_p=0.2), expected / expected.sum())


def test_greedy_takes_the_first_of_equals() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    logits[[7, 9]] = 1
    assert draw(3, logits, temperature=0.0) == [7, 7, 7]


def test_presence_and_frequency_penalties() -> None:
    logits = np.zeros(4, dtype=np.float32)
    logits[:] = [1.0, 0.9, 0.3, -5]
    # Greedy: 0 (1.0) then 1 (0.9 against 1.0 - 0.5), then 0 again (0.5 against 0.4), then 1 …
    assert draw(4, logits, temperature=0.0, presence_penalty=0.5) == [0, 1, 0, 0]
    assert draw(4, logits, temperature=0.0, frequency_penalty=0.5) == [0, 1, 0, 1]


def test_repetition_penalty_counts_the_prompt() -> None:
    logits = np.array([2.0, 1.5, -1.0, -3], dtype=np.float32)
    assert draw(1, logits, temperature=0.0, repetition_penalty=2.0, prompt=(0,)) == [1]
    assert draw(2, logits, temperature=0.0, repetition_penalty=1.2, prompt=(3,)) == [0, 0]


def test_logit_bias() -> None:
    assert draw(2, temperature=0.0, logit_bias={11: 100.0}) == [11, 11]
    assert 11 not in draw(300, LOGITS * 0, logit_bias={11: -100.0})


def test_min_tokens_holds_end_of_text_back() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    logits[3] = 10
    logits[5] = 5
    logits[8] = 4
    assert draw(4, logits, temperature=0.0, min_tokens=2, stop_token_ids=(5,)) == [8, 8, 3, 3]


def test_logprobs_are_the_models_own() -> None:
    sampler = Sampler(VOCAB, OPS["cpu"])
    sampler.start(start(logprobs=3, temperature=0.5, logit_bias={4: 50.0}))
    sample = sampler.sample([part("x")], LOGITS[None].copy()).sampled[0]
    expected = np.log(softmax(LOGITS))
    assert sample.token == 4
    assert sample.logprob == pytest.approx(expected[4])
    best = np.argsort(-LOGITS)[:3]
    assert [t for t, _ in sample.top] == best.tolist()
    assert [p for _, p in sample.top] == pytest.approx(expected[best].tolist())


def test_parameters_that_leave_nothing_fail_that_sequence_only() -> None:
    sampler = Sampler(4, OPS["cpu"])
    sampler.start(start("bad", min_tokens=2, stop_token_ids=(0, 1, 2, 3)))
    sampler.start(start("good", temperature=0.0))
    result = sampler.sample([part("bad"), part("good")], np.zeros((2, 4), dtype=np.float32))
    assert [s.id for s in result.sampled] == ["good"]
    assert "no token" in result.failed["bad"]


@pytest.mark.parametrize("penalty", [0.01, 100.0])
@pytest.mark.parametrize("temperature", [1e-300, 1e-5, 100.0])
def test_extreme_parameters_still_draw(penalty: float, temperature: float) -> None:
    tokens = draw(4, LOGITS * 20, temperature=temperature, repetition_penalty=penalty, min_p=1.0, top_p=1e-9)
    assert all(0 <= token < VOCAB for token in tokens)


def test_repetition_penalty_too_near_zero_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="repetition_penalty"):
        SamplingParams(repetition_penalty=1e-39)


def test_logits_that_are_not_finite_fail_that_sequence_only() -> None:
    sampler = Sampler(VOCAB, OPS["cpu"])
    for name in ("a", "b", "c"):
        sampler.start(start(name, temperature=0.0))
    logits = np.stack([LOGITS] * 3)
    logits[1, 4] = np.nan
    result = sampler.sample([part(name) for name in "abc"], logits)
    assert [s.id for s in result.sampled] == ["a", "c"]
    assert set(result.failed) == {"b"}


def test_drafted_tokens_are_accepted_up_to_the_first_wrong_one() -> None:
    logits = np.zeros((4, 8), dtype=np.float32)
    for row, token in enumerate((3, 5, 1, 6)):
        logits[row, token] = 1.0
    for drafted, tokens in [((3, 5, 1), [3, 5, 1, 6]), ((3, 5, 2), [3, 5, 1]), ((4, 5, 1), [3])]:
        sampler = Sampler(8, OPS["cpu"])
        sampler.start(start("x", temperature=0.0))
        result = sampler.sample([part("x", *drafted)], logits.copy())
        assert [sample.token for sample in result.sampled] == tokens


def test_logits_that_are_not_finite_count_only_where_a_sequence_gets_to() -> None:
    logits = np.zeros((3, 8), dtype=np.float32)
    logits[0, 3], logits[1, 2], logits[2, 4] = 1.0, np.nan, 1.0
    sampler = Sampler(8, OPS["cpu"])
    sampler.start(start("x", temperature=0.0))
    result = sampler.sample([part("x", 3, 4)], logits)
    assert [sample.token for sample in result.sampled] == [3]
    assert result.failed == {}


params_of_all_kinds = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "top_k": st.sampled_from([0, 4]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "presence_penalty": st.sampled_from([0.0, 1.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.6]),
        "repetition_penalty": st.sampled_from([1.0, 1.5]),
        "min_tokens": st.sampled_from([0, 3, 40]),
        "logprobs": st.sampled_from([None, 2]),
    }
)


@settings(max_examples=150, deadline=None)
@given(
    params=params_of_all_kinds,
    seed=st.integers(0, 2**40),
    drafts=st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6),
    honest=st.lists(st.integers(0, 9), min_size=6, max_size=6),
)
def test_speculation_changes_no_token_and_no_logprob(
    params: dict[str, float], seed: int, drafts: list[list[int]], honest: list[int]
) -> None:
    """Whatever is drafted, mostly the right tokens: all that comes out is as it is one token at a time."""

    def logits_after(tokens: list[int]) -> np.ndarray:
        return np.random.default_rng(hash(tuple(tokens)) & 0xFFFFFFFF).normal(size=10).astype(np.float32) * 2

    def fresh() -> Sampler:
        sampler = Sampler(10, OPS["cpu"])
        sampler.start(start("x", seed, prompt=(1, 7), **params))
        return sampler

    plain, expected = fresh(), list[SampledToken]()
    while len(expected) < 120:
        rows = logits_after([sample.token for sample in expected])[None]
        expected += plain.sample([part("x")], rows).sampled
    sampler, got = fresh(), list[SampledToken]()
    for draft, right in zip(drafts, honest, strict=False):
        before = [sample.token for sample in got]
        draft = [sample.token for sample in expected[len(got) : len(got) + right]] + draft
        rows = np.stack([logits_after(before + draft[:count]) for count in range(len(draft) + 1)])
        came = sampler.sample([part("x", *draft)], rows).sampled
        assert right < len(came) or len(came) == len(draft) + 1
        got += came
    assert got == expected[: len(got)]


def test_sampled_with_drafts_the_distribution_is_the_targets() -> None:
    """Chi-square over many seeds: of the first token, and of the second one given the first."""
    first = np.array([2.0, 1.0, 0.5, 0.0, -1.0], dtype=np.float32)
    second = np.array([0.0, 1.5, 0.2, 0.9, -0.5], dtype=np.float32)
    counts = np.zeros((2, 5))
    rng = np.random.default_rng(3)
    seeds = 20_000
    for seed in range(seeds):
        sampler = Sampler(5, OPS["cpu"])
        sampler.start(start("x", seed, temperature=0.8))
        draft = int(rng.choice(5, p=[0.1, 0.1, 0.1, 0.1, 0.6]))  # mostly a token that is seldom right
        sampled = list(sampler.sample([part("x", draft)], np.stack([first, second])).sampled)
        if len(sampled) == 1:
            sampled += sampler.sample([part("x")], second[None].copy()).sampled
        for position in range(2):
            counts[position, sampled[position].token] += 1
    for position, logits in enumerate((first, second)):
        expected = seeds * softmax(logits / 0.8)
        assert ((counts[position] - expected) ** 2 / expected).sum() < 18.5  # 0.1 % of 4 degrees of freedom


@settings(max_examples=60, deadline=None)
@given(
    others=st.lists(st.integers(0, 5), max_size=4),
    at=st.integers(0, 4),
    seed=st.integers(-(2**63), 2**64 - 1),
    params=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.7, 1.3]),
            "top_k": st.sampled_from([0, 4]),
            "top_p": st.sampled_from([1.0, 0.8]),
            "presence_penalty": st.sampled_from([0.0, 1.0]),
        }
    ),
)
def test_a_draw_does_not_depend_on_the_batch(others: list[int], at: int, seed: int, params: dict[str, float]) -> None:
    def run(batch: list[int]) -> list[int]:
        sampler = Sampler(VOCAB, OPS["cpu"])
        sampler.start(start("x", seed, **params))
        for other in batch:
            sampler.start(start(f"o{other}", other))
        names = [f"o{other}" for other in batch]
        names.insert(min(at, len(names)), "x")
        tokens = []
        for step in range(5):
            logits = np.random.default_rng(step).normal(size=(len(names), VOCAB)).astype(np.float32)
            logits[names.index("x")] = np.roll(LOGITS, step)
            result = sampler.sample([part(name) for name in names], logits)
            tokens.append(next(s.token for s in result.sampled if s.id == "x"))
        return tokens

    assert run([]) == run(sorted(set(others)))
