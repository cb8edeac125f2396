"""From logits to tokens.

Which token a sequence gets at output position p is a function of its logits, its parameters and (seed, p) alone, so
neither the batch nor a preemption changes it: the draw inverts the distribution's cumulative sum at one uniform number
hashed from (seed, p) and, where a grammar does not let that token come, at another hashed from that one. This makes
speculation exact: the token at p is drawn as it would be without it, and a drafted one is accepted if it is that one.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tenfold.core.plan import SampledToken, SequenceSlice, SequenceStart, StepResult
from tenfold.core.sampling import uniform
from tenfold.grammar.grammars import Grammars, MaskThread, Matcher
from tenfold.ops.base import ChoosingOps, Logits
from tenfold.ops.choosing import Changes, Choosing, Chosen, Masks, Wanted

_NOT_FINITE = "the model's logits are not finite; the weights may be damaged"
_NOTHING_LEFT = "the sampling parameters leave no token to choose from"


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
        "pending",
        "plain",
        "seed",
        "seen",
    )

    def __init__(self, start: SequenceStart, vocab: int, matcher: Matcher | None) -> None:
        params = self.params = start.params
        self.filters = (params.temperature, params.top_k, params.top_p, params.min_p)
        self.seed = start.seed
        self.outputs = 0
        self.pending = 0  # tokens that are being chosen
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
        self.changes = params.penalized or bool(bias)

    def add(self, token: int) -> None:
        self.outputs += 1
        if self.matcher is not None:
            self.matcher.consume((token,))
        if self.penalized:
            self.counts[token] = self.counts.get(token, 0) + 1
            if self.params.repetition_penalty != 1.0:
                self.seen.add(token)


@dataclass(frozen=True, slots=True)
class Drawing:
    """Tokens of a step that are being chosen."""

    slices: tuple[SequenceSlice, ...]
    rows: "list[_RowOf]"
    choosing: Choosing
    logprobs: dict[int, int] = field(default_factory=dict)  # row → where it stands in the summary


class Sampler:
    """Draws tokens for many sequences; owns their penalties' counts, their position and their place in a grammar."""

    def __init__(self, vocab: int, ops: ChoosingOps, grammars: Grammars | None = None) -> None:
        self._vocab = vocab
        self._ops = ops
        self._grammars = grammars
        self._states: dict[str, _State] = {}
        self._mask_thread = MaskThread()
        self._foreseen: _Foreseen | None = None

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

    def foresee(self, slices: Sequence[SequenceSlice]) -> None:
        """Have the masks made that a step may need, while it is computed: of sequences whose tokens are drawn or
        adjusted, of which more may not come than of the likeliest ones; these are only asked for."""
        self._take_foreseen()  # of a step that failed: its matchers may still be in use
        names, matchers = [], []
        for part in slices:
            state = self._states[part.id]
            if part.sample and state.matcher is not None and not state.plain:
                names.append(part.id)
                matchers.append(state.matcher)
        if names:
            masks = np.zeros((len(names), -(-self._vocab // 32)), np.int32)
            written = self._mask_thread.write(matchers, masks.ctypes.data, masks.strides[0], masks)
            self._foreseen = _Foreseen(names, masks, written)

    def sample(self, slices: Sequence[SequenceSlice], logits: Logits) -> StepResult:
        """A token for each of ``slices`` from its row of ``logits``, and further ones as far as what was drafted holds.

        ``logits`` [R, vocab] has a row for each slice, then one per token drafted for it; they may be overwritten.
        """
        return self.finish(self.begin(slices, logits))

    def begin(self, slices: Sequence[SequenceSlice], logits: Logits) -> Drawing:
        """Have the tokens chosen; nothing is waited for. The next step's may be begun before this is finished, as long
        as nothing of it depends on which they are: no penalty, no constraint, no drafts."""
        foreseen = self._take_foreseen()
        rows = self._rows(slices, foreseen)
        for part in slices:
            self._states[part.id].pending += 1
        asking = [i for i, row in enumerate(rows) if row.state.params.logprobs is not None]
        changes, masks = self._changes(rows), self._masks(rows)
        drawn = changes is not None or masks is not None or any(not row.state.plain for row in rows)
        wanted = Wanted(
            filters=np.array([row.filters for row in rows], np.float64) if drawn else None,
            changes=changes,
            masks=masks,
            logprobs=np.array(asking, np.int32) if asking else None,
            top=min(max((rows[i].state.params.logprobs or 0 for i in asking), default=0), self._vocab),
        )
        logprobs = {row: at for at, row in enumerate(asking)}
        return Drawing(tuple(slices), rows, self._ops.choose(logits, wanted), logprobs)

    def finish(self, drawing: Drawing) -> StepResult:
        """What came of it: waits for that, and counts it."""
        rows, chosen = drawing.rows, drawing.choosing.result()
        tokens, finite = chosen.tokens.tolist(), chosen.finite.tolist()
        failed: dict[str, str] = {}
        sampled: list[SampledToken] = []
        at = 0
        for part in drawing.slices:
            first = at
            at += 1 + part.drafted
            state = rows[first].state
            state.pending -= 1
            if tokens[first] < 0:
                failed[part.id] = _why_nothing(state) if finite[first] else _NOT_FINITE
            for i in range(first, at):
                token = tokens[i]
                if token < 0 or (i > first and rows[i].drafted != sampled[-1].token):
                    break  # where a further row gives nothing, the sequence finds that out when it gets there
                state.add(token)
                where = drawing.logprobs.get(i)
                if where is None:
                    sampled.append(SampledToken(part.id, token))
                else:
                    sampled.append(_with_logprobs(part.id, token, chosen, where, state.params.logprobs or 0))
        return StepResult(tuple(sampled), failed)

    def _take_foreseen(self) -> dict[str, NDArray[np.int32]]:
        """The masks that :meth:`foresee` had made, by sequence; waits for them."""
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is None:
            return {}
        foreseen.written.result()
        return dict(zip(foreseen.names, foreseen.masks, strict=True))

    def _rows(self, slices: Sequence[SequenceSlice], foreseen: dict[str, NDArray[np.int32]]) -> list["_RowOf"]:
        """Whose each row of logits is. Of those of drafted tokens, some will not count."""
        rows: list[_RowOf] = []
        for part in slices:
            state = self._states[part.id]
            position = state.outputs + state.pending
            rows.append(_RowOf(state, position, mask=foreseen.get(part.id)))
            for count in range(1, part.drafted + 1):
                end = len(part.tokens) - part.drafted + count
                rows.append(_RowOf(state, position + count, part.tokens[end - count : end]))
        return rows

    def _changes(self, rows: list["_RowOf"]) -> Changes | None:
        """What penalties, biases and tokens held back do to the logits."""
        found = [(i, *_changes_of(row)) for i, row in enumerate(rows) if row.adjusts]
        ids = [some for _, some, _, _ in found]
        if not any(map(len, ids)):
            return None
        return Changes(
            rows=np.repeat(np.array([i for i, *_ in found], np.int32), [len(some) for some in ids]),
            ids=np.concatenate(ids),
            scale=np.concatenate([scale for _, _, scale, _ in found]),
            amount=np.concatenate([amount for *_, amount in found]),
        )

    def _masks(self, rows: list["_RowOf"]) -> Masks | None:
        """What grammars let come next, where what was drafted before can come at all."""
        held: list[tuple[Matcher, _RowOf]] = []
        at: list[int] = []
        for i, row in enumerate(rows):
            matcher = row.state.matcher
            if matcher is not None and (not row.ahead or matcher.admits(row.ahead)):
                held.append((matcher, row))
                at.append(i)
        return _Held(np.array(at, np.int32), held, self._vocab) if held else None


@dataclass(frozen=True, slots=True)
class _Foreseen:
    """Masks that are being written: whose, [sequences, words of 32 bits], and when they are there."""

    names: list[str]
    masks: NDArray[np.int32]
    written: "Future[None]"


class _Held:
    """Rows of logits that grammars hold, implementing :class:`tenfold.ops.choosing.Masks`: of each its matcher, and
    what comes before it in the step."""

    def __init__(self, rows: np.ndarray, held: "list[tuple[Matcher, _RowOf]]", vocab: int) -> None:
        self.rows = rows
        self._held = held
        self._vocab = vocab

    def forced(self) -> NDArray[np.int32]:
        """See :meth:`tenfold.ops.choosing.Masks.forced`."""
        found = np.full(len(self._held), -1, np.int32)
        for i, (matcher, row) in enumerate(self._held):
            taken = matcher.consume(row.ahead) if row.ahead else 0
            if forced := matcher.forced():
                found[i] = forced[0]
            matcher.take_back(taken)
        return found

    def allow(self, which: NDArray[np.intp], tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """See :meth:`tenfold.ops.choosing.Masks.allow`."""
        found = np.empty(len(which), bool)
        for i, (at, token) in enumerate(zip(which.tolist(), tokens.tolist(), strict=True)):
            matcher, row = self._held[at]
            if row.mask is not None:
                found[i] = row.mask[token // 32] >> token % 32 & 1
                continue
            taken = matcher.consume(row.ahead) if row.ahead else 0
            found[i] = matcher.allows(token)
            matcher.take_back(taken)
        return found

    def bits(self, which: NDArray[np.intp]) -> NDArray[np.int32]:
        """See :meth:`tenfold.ops.choosing.Masks.bits`. None is set where a matcher cannot go on."""
        masks = np.zeros((len(which), -(-self._vocab // 32)), np.int32)
        start, size = masks.ctypes.data, masks.strides[0]
        for i, at in enumerate(which.tolist()):
            matcher, row = self._held[at]
            taken = matcher.consume(row.ahead) if row.ahead else 0
            if row.mask is not None:
                masks[i] = row.mask
            else:
                matcher.write_mask(start + i * size, size)
            if matcher.error is not None:
                masks[i] = 0
            matcher.take_back(taken)
        return masks


class _RowOf:
    """A row of logits: its sequence, the output position of the token that it gives, and the drafted tokens that come
    before it in the step. ``mask``: what its grammar lets come, where that is known already."""

    __slots__ = ("ahead", "mask", "position", "state")

    def __init__(
        self,
        state: _State,
        position: int,
        ahead: tuple[int, ...] = (),
        mask: NDArray[np.int32] | None = None,
    ) -> None:
        self.state = state
        self.position = position
        self.ahead = ahead
        self.mask = mask

    @property
    def drafted(self) -> int:
        """The token that has to come out before this row for it to count."""
        return self.ahead[-1]

    @property
    def adjusts(self) -> bool:
        """Whether its logits are changed before its token is chosen."""
        return self.state.changes or self.position < self.state.params.min_tokens

    @property
    def filters(self) -> tuple[float, ...]:
        """As ``SamplingOps.draw`` takes them."""
        state = self.state
        return (*state.filters, uniform(state.seed, self.position) if state.filters[0] else 0.0)


def _with_logprobs(sequence: str, token: int, chosen: Chosen, at: int, count: int) -> SampledToken:
    """The token with its log-probability and those of its ``count`` best rivals, of the model's own distribution."""
    summary = chosen.summary
    assert summary is not None
    top, log_sum = summary.sums[at].tolist()
    best = zip(summary.ids[at, :count].tolist(), summary.values[at, :count].tolist(), strict=True)
    return SampledToken(
        sequence,
        token,
        float(summary.own[at]) - top - log_sum,
        tuple([(other, value - top - log_sum) for other, value in best]),
    )


def _why_nothing(state: _State) -> str:
    error = None if state.matcher is None else state.matcher.error
    return _NOTHING_LEFT if error is None else f"the constraint cannot be followed any further: {error}"


def _changes_of(row: _RowOf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Penalties, logit bias, and end-of-text held back until min_tokens, once what is ahead has come out, too: tokens,
    what they are scaled by, and what is taken off."""
    state, params, ahead = row.state, row.state.params, row.ahead
    ids: list[np.ndarray] = []
    scales: list[np.ndarray] = []
    amounts: list[np.ndarray] = []

    def add(tokens: np.ndarray, scale: float, amount: np.ndarray | float) -> None:
        ids.append(tokens.astype(np.int32))
        scales.append(np.full(len(tokens), scale, np.float32))
        amounts.append(np.broadcast_to(np.asarray(amount, np.float32), len(tokens)))

    if params.repetition_penalty != 1.0 and (seen := state.seen.union(ahead)):
        add(np.fromiter(seen, dtype=np.int32, count=len(seen)), params.repetition_penalty, 0.0)
    if params.presence_penalty or params.frequency_penalty:
        known = Counter(state.counts)
        known.update(ahead)
        counts = np.fromiter(known.values(), dtype=np.float32, count=len(known))
        amount = params.presence_penalty + params.frequency_penalty * counts
        add(np.fromiter(known, dtype=np.int32, count=len(known)), 1.0, amount)
    if len(state.bias_ids):
        add(state.bias_ids, 1.0, -state.bias)
    if row.position < params.min_tokens:
        add(state.held_back, 1.0, np.inf)
    if not ids:
        return np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32)
    return np.concatenate(ids), np.concatenate(scales), np.concatenate(amounts)
