"""From logits to tokens.

Which token a sequence gets at output position p is a function of its logits, its parameters and (seed, p) alone, so
neither the batch nor a preemption changes it: the draw inverts the distribution's cumulative sum at one uniform number
hashed from (seed, p).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.core.plan import SampledToken, SequenceStart, StepResult
from tenfold.ops.base import SamplingOps

Row = NDArray[np.float32]
_MASK = 2**64 - 1
_NOT_FINITE = "the model's logits are not finite; the weights may be damaged"
_NOTHING_LEFT = "the sampling parameters leave no token to choose from"


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same for the same arguments: SplitMix64's finalizer (Steele et al., OOPSLA'14)."""
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK
    for _ in range(2):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return (z >> 11) / 2.0**53


class _State:
    """What sampling needs to remember of one sequence."""

    __slots__ = (
        "bias",
        "bias_ids",
        "changes",
        "counts",
        "filters",
        "held_back",
        "outputs",
        "params",
        "penalized",
        "plain",
        "seed",
        "seen",
    )

    def __init__(self, start: SequenceStart, vocab: int) -> None:
        params = self.params = start.params
        self.filters = (params.temperature, params.top_k, params.top_p, params.min_p)
        self.seed = start.seed
        self.outputs = 0
        self.counts: dict[int, int] = {}  # of output tokens; kept where penalties ask for it
        self.seen = set(start.prompt_ids) if params.repetition_penalty != 1.0 else set()
        bias = {t: b for t, b in params.logit_bias.items() if t < vocab}
        self.bias_ids = np.fromiter(bias.keys(), dtype=np.intp, count=len(bias))
        self.bias = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))
        ends = {*start.eos_ids, *params.stop_token_ids}
        self.held_back = np.array(sorted(t for t in ends if t < vocab), dtype=np.intp)
        self.plain = params.greedy and params.logprobs is None  # where nothing is adjusted, the largest is the answer
        self.penalized = params.penalized
        self.changes = params.penalized or bool(bias)

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before this token is chosen."""
        return self.changes or self.outputs < self.params.min_tokens

    def add(self, token: int) -> None:
        self.outputs += 1
        if self.penalized:
            self.counts[token] = self.counts.get(token, 0) + 1
            if self.params.repetition_penalty != 1.0:
                self.seen.add(token)


class Sampler:
    """Draws tokens for many sequences; owns their penalties' counts and their position."""

    def __init__(self, vocab: int, ops: SamplingOps) -> None:
        self._vocab = vocab
        self._ops = ops
        self._states: dict[str, _State] = {}

    def start(self, start: SequenceStart) -> None:
        """Get to know a sequence."""
        self._states[start.id] = _State(start, self._vocab)

    def end(self, sequence: str) -> None:
        """Forget a sequence."""
        self._states.pop(sequence, None)

    def sample(self, sequences: Sequence[str], logits: NDArray[np.float32]) -> StepResult:
        """A token for each sequence from its row of ``logits`` [len(sequences), vocab]; rows may be overwritten."""
        tokens: list[int] = self._ops.largest(logits).tolist() if sequences else []
        states = [self._states[sequence] for sequence in sequences]
        failed = {sequences[i]: _NOT_FINITE for i, token in enumerate(tokens) if token < 0}
        choices = [i for i, state in enumerate(states) if not state.plain or state.adjusts]
        logprobs: dict[int, _Logprobs] = {}
        if choices:
            choices = [i for i in choices if tokens[i] >= 0]
            logprobs = self._logprobs(choices, states, logits)
            self._choose(choices, states, logits, tokens)
            failed |= {sequences[i]: _NOTHING_LEFT for i in choices if tokens[i] < 0}
        sampled: list[SampledToken] = []
        for i, (sequence, state, token) in enumerate(zip(sequences, states, tokens, strict=True)):
            if token < 0:
                continue
            state.add(token)
            known = logprobs.get(i)
            if known is None:
                sampled.append(SampledToken(sequence, token))
            else:
                sampled.append(SampledToken(sequence, token, known.of(token), known.top))
        return StepResult(tuple(sampled), failed)

    def _choose(self, choices: list[int], states: list[_State], logits: NDArray[np.float32], tokens: list[int]) -> None:
        """Replace ``tokens`` of the rows ``choices`` by what their parameters give; -1 where those leave none."""
        if not choices:
            return
        for i in choices:
            if states[i].adjusts:
                _adjust(states[i], logits[i])
        filters = [(*states[i].filters, uniform(states[i].seed, states[i].outputs)) for i in choices]
        drawn = self._ops.draw(logits, np.array(choices, np.int32), np.array(filters, np.float64))
        for i, token in zip(choices, drawn.tolist(), strict=True):
            tokens[i] = token

    def _logprobs(
        self, choices: list[int], states: list[_State], logits: NDArray[np.float32]
    ) -> dict[int, "_Logprobs"]:
        """By row, for those of ``choices`` that ask for them: of the model's own distribution, before any change."""
        wanted = [i for i in choices if states[i].params.logprobs is not None]
        if not wanted:
            return {}
        count = min(max(states[i].params.logprobs or 0 for i in wanted), logits.shape[1])
        sums, ids = self._ops.summarize(logits, np.array(wanted, np.int32), count)
        known = {}
        for i, (top, log_sum), best in zip(wanted, sums.tolist(), ids.tolist(), strict=True):
            state = states[i]
            row = logits[i].copy() if state.adjusts else logits[i]
            known[i] = _Logprobs(row, top, log_sum, best[: state.params.logprobs])
        return known


class _Logprobs:
    """One row's log-probabilities."""

    __slots__ = ("_log_sum", "_row", "_top", "top")

    def __init__(self, row: Row, top: float, log_sum: float, ids: list[int]) -> None:
        self._row = row
        self._top = top
        self._log_sum = log_sum
        self.top = tuple((token, self.of(token)) for token in ids)

    def of(self, token: int) -> float:
        """Natural log of the token's probability."""
        return float(self._row[token]) - self._top - self._log_sum


def _adjust(state: _State, row: Row) -> None:
    """Penalties, logit bias, and end-of-text held back until min_tokens: in place."""
    params = state.params
    if params.repetition_penalty != 1.0 and state.seen:
        seen = np.fromiter(state.seen, dtype=np.intp, count=len(state.seen))
        values = row[seen]
        row[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if state.counts and (params.presence_penalty or params.frequency_penalty):
        tokens = np.fromiter(state.counts, dtype=np.intp, count=len(state.counts))
        counts = np.fromiter(state.counts.values(), dtype=np.float32, count=len(state.counts))
        row[tokens] -= params.presence_penalty + params.frequency_penalty * counts
    if len(state.bias_ids):
        row[state.bias_ids] += state.bias
    if state.outputs < params.min_tokens:
        row[state.held_back] = -np.inf
