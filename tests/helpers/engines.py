"""Engines over a fake model whose KV memory proves itself: any mixed-up block changes the output."""

import dataclasses
from collections import deque
from collections.abc import Sequence

import msgspec

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import VirtualClock
from tenfold.core.config import CacheConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.plan import NEXT_TOKEN, SampledToken, StepPlan, StepResult
from tenfold.core.request import EngineRequest, RequestOutput
from tenfold.core.sampling import SamplingParams
from tenfold.engine.core import EngineCore
from tenfold.engine.text import Detokenizer
from tenfold.exec.executor import Launched
from tenfold.sched.scheduler import Scheduler
from tenfold.spec.proposer import Proposer

VOCAB = 97
EOS = 0


class LetterDetokenizer:
    """Token t is the letter chr(97 + t % 26)."""

    def push(self, tokens: Sequence[int]) -> str:
        return "".join(letter(t) for t in tokens)

    def flush(self) -> str:
        return ""


def letter(token: int) -> str:
    return chr(97 + token % 26)


class LetterVocabulary:
    eos_ids: tuple[int, ...] = (EOS,)

    def token_text(self, token: int) -> str:
        return letter(token)

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special: bool) -> Detokenizer:
        return LetterDetokenizer()


_ROOT = 7


def _link(value: int, token: int, position: int) -> int:
    return hash((value, token, position)) & 0xFFFFFFFF


def _choose(value: int, seed: int) -> int:
    return hash((value, seed)) % VOCAB


def next_token(tokens: Sequence[int], seed: int) -> int:
    """What the model below gives after ``tokens``."""
    value = _ROOT
    for position, token in enumerate(tokens):
        value = _link(value, token, position)
    return _choose(value, seed)


class ChainExecutor:
    """The "KV" of a position is a hash chained over all tokens so far, read back from the paged memory.

    The next token is a function of the last position's chain value and the seed, so it is right only if every
    block of the sequence still holds what was computed for exactly this prefix.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.memory: list[int | None] = [None] * (blocks * block_size)
        self.seeds: dict[str, int] = {}
        self.fail: set[str] = set()
        self.steps = 0

    def _slot(self, blocks: tuple[int, ...], position: int) -> int:
        return blocks[position // self.block_size] * self.block_size + position % self.block_size

    def execute(self, plan: StepPlan) -> StepResult:
        self.steps += 1
        for name in plan.ended:
            del self.seeds[name]
        for start in plan.started:
            self.seeds[start.id] = start.seed
        sampled, failed = [], {}
        writes: dict[int, str] = {}
        for part in plan.slices:
            assert part.tokens
            right, last = True, -1
            value = _ROOT if part.start == 0 else self.memory[self._slot(part.blocks, part.start - 1)]
            assert value is not None, "a position was skipped"
            for offset, token in enumerate(part.tokens):
                value = _link(value, token, part.start + offset)
                slot = self._slot(part.blocks, part.start + offset)
                assert writes.setdefault(slot, part.id) == part.id, "two sequences write one slot"
                self.memory[slot] = value
                at = offset - (len(part.tokens) - 1 - part.drafted)  # of the tokens that it may give
                right = right and (at < 1 or token == last)
                if part.sample and at >= 0 and right and part.id not in self.fail:
                    last = _choose(value, self.seeds[part.id])
                    sampled.append(SampledToken(part.id, last))
            if part.sample and part.id in self.fail:
                failed[part.id] = "made to fail"
        return StepResult(tuple(sampled), failed)


class OverlappingChain(ChainExecutor):
    """The same, computing by itself: as late as it may. Knows what a step gave when the next one is computed."""

    def __init__(self, blocks: int, block_size: int) -> None:
        super().__init__(blocks, block_size)
        self.launched: deque[LaunchedChain] = deque()
        self.behind: list[int] = []  # at each wait, how many steps were launched behind the one that was waited for
        self.ahead: list[StepPlan] = []  # plans that were made on top of one that had not ended
        self._given: dict[str, int] = {}

    def launch(self, plan: StepPlan) -> Launched:
        assert len(self.launched) < 2
        if self.launched:
            self.ahead.append(plan)
        self.launched.append(LaunchedChain(self, plan))
        return self.launched[-1]

    def compute(self, plan: StepPlan) -> StepResult:
        slices = []
        for part in plan.slices:
            if NEXT_TOKEN in part.tokens:
                assert part.tokens == (NEXT_TOKEN,) and part.sample and not part.drafted and not part.asked
                part = msgspec.structs.replace(part, tokens=(self._given[part.id],))
            slices.append(part)
        result = self.execute(dataclasses.replace(plan, slices=tuple(slices)))
        self._given = dict.fromkeys(result.failed, 0)  # what nobody looks at
        self._given |= {sample.id: sample.token for sample in result.sampled}
        return result


class LaunchedChain:
    def __init__(self, executor: OverlappingChain, plan: StepPlan) -> None:
        self._executor = executor
        self.plan = plan

    def result(self) -> StepResult:
        assert self._executor.launched.popleft() is self, "waited for out of order"
        self._executor.behind.append(len(self._executor.launched))
        return self._executor.compute(self.plan)


class Rig:
    """A core over the fake model, checked after every step; with ``overlap``, the next one is planned meanwhile."""

    def __init__(
        self,
        blocks: int = 64,
        block_size: int = 4,
        *,
        sharing: bool = True,
        max_step_tokens: int = 16,
        max_running: int = 8,
        max_waiting: int = 1000,
        max_context: int = 128,
        proposers: Sequence[Proposer] = (),
        speculation: SpeculationConfig = SpeculationConfig(),  # noqa: B008
        overlap: bool = False,
    ) -> None:
        self.cache = CacheManager(CacheConfig(blocks, block_size, sharing))
        limits = SchedulerConfig(max_step_tokens, max_running, max_waiting, speculation=speculation)
        self.scheduler = Scheduler(limits, self.cache, proposers=proposers)
        self.executor = OverlappingChain(blocks, block_size) if overlap else ChainExecutor(blocks, block_size)
        self.clock = VirtualClock()
        self.core = EngineCore(
            self.scheduler, self.cache, self.executor, LetterVocabulary(), self.clock, max_context, VOCAB
        )
        self.outputs: dict[tuple[str, int], list[RequestOutput]] = {}

    def submit(
        self, name: str, prompt: Sequence[int], salt: str = "", draft_tokens: int | None = None, **params: object
    ) -> None:
        settings = SamplingParams(**{"seed": 1, **params})  # type: ignore[arg-type]
        self.core.submit(
            EngineRequest(
                id=name,
                prompt_ids=tuple(prompt),
                params=settings,
                arrival=self.clock.now(),
                salt=salt,
                draft_tokens=draft_tokens,
            )
        )

    def take(self, outputs: Sequence[RequestOutput]) -> None:
        for output in outputs:
            got = self.outputs.setdefault((output.id, output.index), [])
            assert not got or got[-1].finish is None, "an output after the last one"
            got.append(output)
        self.core.check()

    def step(self) -> None:
        self.take(self.core.step())
        self.clock.advance(0.01)

    def abort(self, name: str) -> None:
        self.take(self.core.abort(name))

    def run(self, limit: int = 10_000) -> None:
        while not self.core.idle:
            self.step()
            limit -= 1
            assert limit, "the engine does not come to an end"

    def tokens(self, name: str, index: int = 0) -> tuple[int, ...]:
        return tuple(t for output in self.outputs[name, index] for t in output.tokens)

    def finish(self, name: str, index: int = 0) -> str | None:
        return self.outputs[name, index][-1].finish
