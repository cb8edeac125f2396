"""From logits to tokens.

Which token a sequence gets at output position p is a function of its logits, its parameters and (seed, p) alone, so
neither the batch nor a preemption changes it: the draw inverts the distribution's cumulative sum at one uniform number
hashed from (seed, p). That makes speculation exact: the token at p is drawn as it would be without it, and
a drafted one is accepted if it is that one.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.core.plan import SampledToken, SequenceSlice, SequenceStart, StepResult
from tenfold.grammar.grammars import Grammars, Matcher
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
        "matcher",
        "outputs",
        "params",
        "penalized",
        "plain",
        "seed",
        "seen",
    )

    def __init__(self, start: SequenceStart, vocab: int, matcher: Matcher | None) -> None:
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
        self.matcher = matcher
        self.plain = params.greedy and params.logprobs is None  # where nothing is adjusted, the largest is the answer
        self.penalized = params.penalized
        self.changes = params.penalized or bool(bias) or matcher is not None

    def add(self, token: int) -> None:
        self.outputs += 1
        if self.matcher is not None:
            self.matcher.consume((token,))
        if self.penalized:
            self.counts[token] = self.counts.get(token, 0) + 1
            if self.params.repetition_penalty != 1.0:
                self.seen.add(token)


class Sampler:
    """Draws tokens for many sequences; owns their penalties' counts, their position and their place in a grammar."""

    def __init__(self, vocab: int, ops: SamplingOps, grammars: Grammars | None = None) -> None:
        self._vocab = vocab
        self._ops = ops
        self._grammars = grammars
        self._mask = np.zeros((vocab + 31) // 32, np.int32)
        self._states: dict[str, _State] = {}

    def start(self, start: SequenceStart) -> None:
        """Get to know a sequence."""
        matcher, constraint = None, start.params.constraint
        if constraint is not None:
            assert self._grammars is not None, "a constraint that nobody can follow was let in"
            matcher = self._grammars.matcher(constraint)
        self._states[start.id] = _State(start, self._vocab, matcher)

    def end(self, sequence: str) -> None:
        """Forget a sequence."""
        self._states.pop(sequence, None)

    def filters_of(self, sequence: str, ahead: int) -> tuple[float, ...]:
        """How the token ``ahead`` positions after a sequence's next one is drawn, as ``SamplingOps.draw`` takes it."""
        state = self._states[sequence]
        return (*state.filters, uniform(state.seed, state.outputs + ahead))

    def sample(self, slices: Sequence[SequenceSlice], logits: NDArray[np.float32]) -> StepResult:
        """A token for each of ``slices`` from its row of ``logits``, and further ones as far as what was drafted holds.

        ``logits`` [R, vocab] has a row for each slice, then one per token drafted for it; they may be overwritten.
        """
        drawn: list[int] = self._ops.largest(logits).tolist() if slices else []
        rows = self._rows(slices)
        logprobs: dict[int, _Logprobs] = {}
        choices = [i for i, row in enumerate(rows) if not row.state.plain or row.adjusts]
        failed = {row.id: _NOT_FINITE for row, token in zip(rows, drawn, strict=True) if token < 0 and not row.ahead}
        if choices:
            choices = [i for i in choices if drawn[i] >= 0]
            logprobs = self._logprobs(choices, rows, logits)
            self._choose(choices, rows, logits, drawn)
            failed |= {rows[i].id: _why_nothing(rows[i].state) for i in choices if drawn[i] < 0 and not rows[i].ahead}
        sampled: list[SampledToken] = []
        at = 0
        for part in slices:
            first = at
            at += 1 + part.drafted
            for i in range(first, at):
                row, token = rows[i], drawn[i]
                if token < 0 or (i > first and row.drafted != sampled[-1].token):
                    break  # where a further row gives nothing, the sequence finds that out when it gets there
                row.state.add(token)
                known = logprobs.get(i)
                if known is None:
                    sampled.append(SampledToken(part.id, token))
                else:
                    sampled.append(SampledToken(part.id, token, known.of(token), known.top))
        return StepResult(tuple(sampled), failed)

    def _rows(self, slices: Sequence[SequenceSlice]) -> list["_RowOf"]:
        """Whose each row of logits is. Of those of drafted tokens, some will not count."""
        rows: list[_RowOf] = []
        for part in slices:
            state = self._states[part.id]
            rows.append(_RowOf(part.id, state))
            for count in range(1, part.drafted + 1):
                end = len(part.tokens) - part.drafted + count
                rows.append(_RowOf(part.id, state, part.tokens[end - count : end]))
        return rows

    def _choose(self, choices: list[int], rows: list["_RowOf"], logits: NDArray[np.float32], drawn: list[int]) -> None:
        """Replace ``drawn`` of the rows ``choices`` by what their parameters give; -1 where those leave none."""
        if not choices:
            return
        for i in choices:
            if rows[i].adjusts:
                _adjust(rows[i].state, rows[i].ahead, logits[i])
                self._constrain(rows[i].state, rows[i].ahead, logits[i])
        filters = [(*rows[i].state.filters, uniform(rows[i].state.seed, rows[i].outputs)) for i in choices]
        tokens = self._ops.draw(logits, np.array(choices, np.int32), np.array(filters, np.float64))
        for i, token in zip(choices, tokens.tolist(), strict=True):
            drawn[i] = token

    def _constrain(self, state: _State, ahead: tuple[int, ...], row: Row) -> None:
        """Leave what the grammar lets come next once ``ahead`` has come out, or all where that cannot: in place."""
        matcher = state.matcher
        if matcher is None:
            return
        taken = matcher.consume(ahead) if ahead else 0
        if taken == len(ahead):
            mask = self._mask
            matcher.write_mask(mask.ctypes.data, mask.nbytes)
            allowed = np.unpackbits(mask.view(np.uint8), count=self._vocab, bitorder="little")
            row[: self._vocab][allowed == 0] = -np.inf
            if matcher.error is not None:
                row[:] = -np.inf
        matcher.take_back(taken)

    def _logprobs(
        self, choices: list[int], rows: list["_RowOf"], logits: NDArray[np.float32]
    ) -> dict[int, "_Logprobs"]:
        """By row, for those of ``choices`` that ask for them: of the model's own distribution, before any change."""
        wanted = [i for i in choices if rows[i].state.params.logprobs is not None]
        if not wanted:
            return {}
        count = min(max(rows[i].state.params.logprobs or 0 for i in wanted), logits.shape[1])
        sums, ids = self._ops.summarize(logits, np.array(wanted, np.int32), count)
        known = {}
        for i, (top, log_sum), best in zip(wanted, sums.tolist(), ids.tolist(), strict=True):
            row = logits[i].copy() if rows[i].adjusts else logits[i]
            known[i] = _Logprobs(row, top, log_sum, best[: rows[i].state.params.logprobs])
        return known


class _RowOf:
    """A row of logits: its sequence, and the drafted tokens that come before it in the step."""

    __slots__ = ("ahead", "id", "state")

    def __init__(self, sequence: str, state: _State, ahead: tuple[int, ...] = ()) -> None:
        self.id = sequence
        self.state = state
        self.ahead = ahead

    @property
    def drafted(self) -> int:
        """The token that has to come out before this row for it to count."""
        return self.ahead[-1]

    @property
    def outputs(self) -> int:
        """The output position of the token that it gives."""
        return self.state.outputs + len(self.ahead)

    @property
    def adjusts(self) -> bool:
        """Whether its logits are changed before its token is chosen."""
        return self.state.changes or self.outputs < self.state.params.min_tokens


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


def _why_nothing(state: _State) -> str:
    error = None if state.matcher is None else state.matcher.error
    return _NOTHING_LEFT if error is None else f"the constraint cannot be followed any further: {error}"


def _adjust(state: _State, ahead: tuple[int, ...], row: Row) -> None:
    """Penalties, logit bias, and end-of-text held back until min_tokens, once ``ahead`` has come out, too: in place."""
    params = state.params
    if params.repetition_penalty != 1.0 and (seen := state.seen.union(ahead)):
        ids = np.fromiter(seen, dtype=np.intp, count=len(seen))
        values = row[ids]
        row[ids] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        known = Counter(state.counts)
        known.update(ahead)
        tokens = np.fromiter(known, dtype=np.intp, count=len(known))
        counts = np.fromiter(known.values(), dtype=np.float32, count=len(known))
        row[tokens] -= params.presence_penalty + params.frequency_penalty * counts
    if len(state.bias_ids):
        row[state.bias_ids] += state.bias
    if state.outputs + len(ahead) < params.min_tokens:
        row[state.held_back] = -np.inf
