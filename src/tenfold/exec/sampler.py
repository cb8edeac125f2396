"""From logits to tokens.

Which token a sequence gets at output position p is a function of its logits, its parameters and (seed, p) alone, so
neither the batch nor a preemption changes it: the draw inverts the distribution's cumulative sum at one uniform number
hashed from (seed, p).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.core.plan import SampledToken, SequenceStart, StepResult

Row = NDArray[np.float32]
_MASK = 2**64 - 1


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

    __slots__ = ("bias", "bias_ids", "counts", "held_back", "outputs", "params", "plain", "seed", "seen")

    def __init__(self, start: SequenceStart, vocab: int) -> None:
        params = self.params = start.params
        self.seed = start.seed
        self.outputs = 0
        self.counts: dict[int, int] = {}  # of output tokens; kept where penalties ask for it
        self.seen = set(start.prompt_ids) if params.repetition_penalty != 1.0 else set()
        bias = {t: b for t, b in params.logit_bias.items() if t < vocab}
        self.bias_ids = np.fromiter(bias.keys(), dtype=np.intp, count=len(bias))
        self.bias = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))
        ends = {*start.eos_ids, *params.stop_token_ids}
        self.held_back = np.array(sorted(t for t in ends if t < vocab), dtype=np.intp)
        # Greedy with nothing to adjust: the row's maximum is the answer.
        self.plain = params.greedy and not params.penalized and not bias and params.logprobs is None

    def add(self, token: int) -> None:
        self.outputs += 1
        if self.params.penalized:
            self.counts[token] = self.counts.get(token, 0) + 1
            if self.params.repetition_penalty != 1.0:
                self.seen.add(token)


class Sampler:
    """Draws tokens for many sequences; owns their penalties' counts and their position."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._states: dict[str, _State] = {}

    def start(self, start: SequenceStart) -> None:
        """Get to know a sequence."""
        self._states[start.id] = _State(start, self._vocab)

    def end(self, sequence: str) -> None:
        """Forget a sequence."""
        self._states.pop(sequence, None)

    def sample(self, sequences: Sequence[str], logits: NDArray[np.float32]) -> StepResult:
        """A token for each sequence from its row of ``logits`` [len(sequences), vocab]; rows may be overwritten."""
        best = np.argmax(logits, axis=1) if len(sequences) else ()
        sampled: list[SampledToken] = []
        failed: dict[str, str] = {}
        for sequence, row, top in zip(sequences, logits, best, strict=True):
            state = self._states[sequence]
            if not np.isfinite(row[top]):
                failed[sequence] = "the model's logits are not finite; the weights may be damaged"
                continue
            if state.plain and state.outputs >= state.params.min_tokens:
                token = SampledToken(sequence, int(top))
            else:
                drawn = _draw(sequence, state, row)
                if drawn is None:
                    failed[sequence] = "the sampling parameters leave no token to choose from"
                    continue
                token = drawn
            state.add(token.token)
            sampled.append(token)
        return StepResult(tuple(sampled), failed)


def _draw(sequence: str, state: _State, row: Row) -> SampledToken | None:
    """A token by the sequence's parameters; None where they leave none."""
    params = state.params
    logprobs = _log_softmax(row) if params.logprobs is not None else None
    _adjust(state, row)
    if not np.isfinite(row.max()):
        return None
    if params.greedy:
        token = int(np.argmax(row))
    else:
        ids, probs = _candidates(row, params.temperature, params.top_k, params.top_p, params.min_p)
        cumulative = np.cumsum(probs)
        at = uniform(state.seed, state.outputs) * cumulative[-1]
        index = min(int(np.searchsorted(cumulative, at, side="right")), len(probs) - 1)
        token = index if ids is None else int(ids[index])
    if logprobs is None:
        return SampledToken(sequence, token)
    top = tuple((int(t), float(logprobs[t])) for t in _largest(logprobs, params.logprobs or 0))
    return SampledToken(sequence, token, float(logprobs[token]), top)


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
    row[state.bias_ids] += state.bias
    if state.outputs < params.min_tokens:
        row[state.held_back] = -np.inf


def _candidates(
    row: Row, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[NDArray[np.intp] | None, NDArray[np.float64]]:
    """The tokens left after the filters and their unnormalized probabilities; ids None stands for all tokens."""
    weights = np.exp((row.astype(np.float64) - float(row.max())) / temperature)
    ids: NDArray[np.intp] | None = None
    if 0 < top_k < len(row):
        ids = _largest(row, top_k)
        weights = weights[ids]
    if top_p < 1.0:
        if ids is None:
            ids, weights = _nucleus(row, weights, top_p)
        else:
            kept = _prefix(weights, top_p * float(weights.sum()))
            ids, weights = ids[:kept], weights[:kept]
    if min_p > 0.0:
        keep = weights >= min_p  # the largest weight is 1
        ids = np.flatnonzero(keep) if ids is None else ids[keep]
        weights = weights[keep]
    return ids, weights


def _nucleus(row: Row, weights: NDArray[np.float64], top_p: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The fewest most likely tokens with ``top_p`` of the mass, sorting as few as that takes."""
    mass = top_p * float(weights.sum())
    size = 256
    while True:
        ids = _largest(row, size)
        kept = _prefix(weights[ids], mass)
        if kept < len(ids) or len(ids) == len(row):
            return ids[:kept], weights[ids[:kept]]
        size *= 8


def _prefix(weights: NDArray[np.float64], mass: float) -> int:
    """How many leading weights it takes to reach ``mass``; at least one."""
    return min(int(np.searchsorted(np.cumsum(weights), mass, side="left")) + 1, len(weights))


def _largest(values: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values, largest first, ties by lower index."""
    if count <= 0:
        return np.empty(0, dtype=np.intp)
    if count < len(values):
        threshold = np.partition(values, len(values) - count)[len(values) - count]
        ids = np.flatnonzero(values >= threshold)
    else:
        ids = np.arange(len(values))
    return ids[np.argsort(-values[ids], kind="stable")][:count]


def _log_softmax(row: Row) -> NDArray[np.float64]:
    shifted = row.astype(np.float64) - float(row.max())
    shifted -= np.log(np.exp(shifted).sum())
    return shifted
