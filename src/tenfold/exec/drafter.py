"""Drafts by a small model of the same vocabulary, all sequences of a step together.

Its keys and values lie in blocks of the same numbers as the target's, in a memory of its own: what a sequence holds,
and shares, is the same for both. It computes what it lacks of a sequence only when it is asked to draft for it.

A draft is drawn as the sequence's own tokens are: at the same uniform number, so that the two meet as often as their
distributions allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.core.plan import SequenceSlice, SequenceStart
from tenfold.exec.batches import Batches
from tenfold.exec.sampler import Sampler
from tenfold.model.decoder import forward_of
from tenfold.ops.base import Ops
from tenfold.ops.choosing import Wanted

_CHUNK = 512  # tokens that are caught up in one pass


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A small model. ``vocabulary`` [outputs] holds the target's id of each token that it knows, ascending."""

    name: str
    ops: Ops
    vocabulary: NDArray[np.int32]


class _Text:
    """What is known of a sequence: its tokens, how many of them the draft model has computed, and where."""

    __slots__ = ("blocks", "computed", "tokens")

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)
        self.computed = 0
        self.blocks: tuple[int, ...] = ()

    def follow(self, part: SequenceSlice) -> None:
        """A step computes these tokens of it; what was drafted before and did not come is forgotten."""
        del self.tokens[part.start :]
        self.tokens += part.tokens
        self.computed = min(self.computed, part.start)
        if self.computed and part.blocks is not self.blocks and part.blocks[: len(self.blocks)] != self.blocks:
            self.computed = 0
        self.blocks = part.blocks


class Drafter:
    """Owner of the draft model's KV memory, and of what it has computed."""

    def __init__(self, model: DraftModel, blocks: int, block_size: int, sampler: Sampler) -> None:
        self._ops = model.ops
        self._vocabulary = model.vocabulary
        self._forward = forward_of(model.ops)
        self._kv = model.ops.new_kv(blocks, block_size)
        self._batches = Batches()
        self._sampler = sampler
        self._texts: dict[str, _Text] = {}

    def start(self, start: SequenceStart) -> None:
        """Get to know a sequence."""
        self._texts[start.id] = _Text(start.prompt_ids)

    def end(self, sequence: str) -> None:
        """Forget a sequence."""
        self._texts.pop(sequence, None)

    def follow(self, slices: Sequence[SequenceSlice]) -> None:
        """These are computed by the target."""
        for part in slices:
            self._texts[part.id].follow(part)

    def draft(self, slices: Sequence[SequenceSlice]) -> tuple[SequenceSlice, ...]:
        """The slices, with as many drafted tokens more as each asks for."""
        asking = [part for part in slices if part.asked]
        if not asking:
            return tuple(slices)
        self._catch_up(asking)
        drafts: dict[str, list[int]] = {part.id: [] for part in asking}
        while asking:
            passed = self._batches.make(tuple(self._next(part, drafts[part.id]) for part in asking))
            logits = self._forward(passed, self._kv)
            filters = [self._sampler.filters_of(part.id, len(drafts[part.id])) for part in asking]
            wanted = Wanted(np.array(filters, np.float64))
            drawn = self._ops.choose(logits, wanted).result().tokens.tolist()
            for part, token in zip(asking, drawn, strict=True):
                text = self._texts[part.id]
                text.computed = part.start + len(part.tokens) + len(drafts[part.id])
                if token >= 0:
                    drafts[part.id].append(int(self._vocabulary[token]))
            asking = [
                part
                for part, token in zip(asking, drawn, strict=True)
                if token >= 0 and len(drafts[part.id]) < part.asked
            ]
        for name, draft in drafts.items():
            self._texts[name].tokens += draft
        return tuple([_with_draft(part, drafts.get(part.id, ())) for part in slices])

    def _catch_up(self, asking: Sequence[SequenceSlice]) -> None:
        """Compute what is lacking of each, but for the last token."""
        for part in asking:
            text = self._texts[part.id]
            end = part.start + len(part.tokens) - 1
            while text.computed < end:
                first, last = text.computed, min(end, text.computed + _CHUNK)
                chunk = SequenceSlice(part.id, first, tuple(text.tokens[first:last]), part.blocks, sample=False)
                self._forward(self._batches.make((chunk,)), self._kv)
                text.computed = last

    def _next(self, part: SequenceSlice, draft: Sequence[int]) -> SequenceSlice:
        """The last token that is known of a sequence."""
        token = draft[-1] if draft else part.tokens[-1]
        return SequenceSlice(
            part.id, part.start + len(part.tokens) - 1 + len(draft), (token,), part.blocks, sample=True
        )


def _with_draft(part: SequenceSlice, draft: Sequence[int]) -> SequenceSlice:
    if not draft:
        return part
    return SequenceSlice(part.id, part.start, (*part.tokens, *draft), part.blocks, sample=True, drafted=len(draft))
