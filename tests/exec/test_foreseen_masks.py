"""Masks that are made while a step is computed: the same tokens come of them."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from tenfold.core.constraint import Constraint
from tenfold.core.plan import SequenceSlice, SequenceStart
from tenfold.core.sampling import SamplingParams
from tenfold.exec.sampler import Sampler
from tenfold.grammar.grammars import MaskThread, Matcher
from tenfold.ops.reference import ReferenceOps
from tests.grammar.test_grammars import EOS, VOCAB, beyond_a_limit, make
from tests.helpers.models import random_weights, tiny_spec

PATTERN = Constraint("regex", "(true|name|[a-c]{2,5})12")
DRAWN = SamplingParams(temperature=1.5, constraint=PATTERN)
GREEDY = SamplingParams(temperature=0.0, constraint=PATTERN)
TELLING = SamplingParams(temperature=0.0, logprobs=2, constraint=PATTERN)
FREE = SamplingParams(temperature=1.0)


def sampler() -> Sampler:
    return Sampler(VOCAB, ReferenceOps(random_weights(tiny_spec(layers=1))), make())


def start(name: str, params: SamplingParams) -> SequenceStart:
    return SequenceStart(name, (1,), params, seed=5, eos_ids=(EOS,))


def part(name: str, *drafted: int, sample: bool = True) -> SequenceSlice:
    return SequenceSlice(name, 0, (1, *drafted), (0,), sample=sample, drafted=len(drafted))


def texts(*, foreseen: bool, drafted: tuple[int, ...] = ()) -> dict[str, list[int]]:
    """Of four sequences in steps together, until each constrained one has ended."""
    made, rng = sampler(), np.random.default_rng(3)
    kinds = {"drawn": DRAWN, "greedy": GREEDY, "telling": TELLING, "free": FREE}
    found: dict[str, list[int]] = {name: [] for name in kinds}
    for name, params in kinds.items():
        made.start(start(name, params))
    for _ in range(12):
        running = [name for name in found if EOS not in found[name]]
        slices = [part(name, *(drafted if name == "drawn" else ())) for name in running]
        logits = rng.normal(size=(len(slices) + sum(one.drafted for one in slices), VOCAB)).astype(np.float32) * 4
        if foreseen:
            made.foresee(slices)
        result = made.sample(slices, logits)
        assert not result.failed
        for token in result.sampled:
            found[token.id].append(token.token)
    return found


@pytest.mark.parametrize("drafted", [(), (ord("a"), ord("b"))])
def test_the_same_tokens(drafted: tuple[int, ...]) -> None:
    plain, foreseen = texts(foreseen=False, drafted=drafted), texts(foreseen=True, drafted=drafted)
    assert plain == foreseen
    assert all(EOS in plain[name] for name in ("drawn", "greedy", "telling"))


class _Slow(MaskThread):
    """Begins when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.asked: list[Matcher] = []

    def write(self, matchers: Sequence[Matcher], address: int, size: int, owner: object) -> "Future[None]":
        self.asked += matchers
        write = super().write

        def later() -> None:
            assert self.go.wait(30)
            write(matchers, address, size, owner).result()

        return ThreadPoolExecutor(1).submit(later)


def test_nobody_waits_until_a_token_is_chosen() -> None:
    made, slow = sampler(), _Slow()
    made._mask_thread = slow
    for name, params in {"drawn": DRAWN, "greedy": GREEDY, "chunk": DRAWN, "free": FREE}.items():
        made.start(start(name, params))
    slices = [part("drawn"), part("greedy"), part("chunk", sample=False), part("free")]
    made.foresee(slices)  # returns, though the thread has not begun
    assert len(slow.asked) == 1, "one that asks first, one that needs no token and one without constraint need no mask"
    slow.go.set()
    token = made.sample([slices[0]], np.zeros((1, VOCAB), np.float32)).sampled[0].token
    assert token in {*b"abctn", 258, 259}


def test_a_step_that_fails_leaves_nothing_to_the_next_one() -> None:
    made, slow = sampler(), _Slow()
    made._mask_thread = slow
    made.start(start("x", DRAWN))
    made.foresee([part("x")])  # and the pass fails: nobody asks for the mask
    threading.Timer(0.2, slow.go.set).start()
    made.foresee([part("x")])
    assert slow.go.is_set(), "its matcher was in use"
    assert len(made.sample([part("x")], np.zeros((1, VOCAB), np.float32)).sampled) == 1
    assert slow.asked == [slow.asked[0]] * 2


def test_a_constraint_that_cannot_be_followed_ends_its_sequence_alone() -> None:
    made = sampler()
    made.start(start("fails", SamplingParams(temperature=1.0, constraint=beyond_a_limit())))
    made.start(start("goes", DRAWN))
    quote = np.full((2, VOCAB), -30.0, np.float32)
    quote[0, ord('"')] = 30.0
    both = [part("fails"), part("goes")]
    made.foresee(both)
    assert not made.sample(both, quote).failed
    made.foresee(both)
    result = made.sample(both, np.zeros((2, VOCAB), np.float32))
    assert list(result.failed) == ["fails"]
    assert "too many" in result.failed["fails"]
    assert [token.id for token in result.sampled] == ["goes"]
