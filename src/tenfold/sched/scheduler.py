"""Decode-first continuous batching with chunked prefill under a budget of tokens and of predicted time.

Each step, every sequence in decode gets its next token; what the budget leaves goes to prefill chunks, sequences
already prefilling before new ones, in order of arrival. With a TPOT bound the budget is what no running sequence is
predicted to miss its bound by, and prompts share it; a few tokens at least, so that prefill never stands still.

When blocks run out, the latest arrival is preempted: its blocks stay cached, so coming back costs what was evicted
meanwhile. The earliest arrival is never preempted for another, so there is always progress. (Orca, OSDI'22; vLLM,
SOSP'23; Sarathi-Serve, OSDI'24.)
"""

from bisect import insort
from collections import OrderedDict

from tenfold.cache.manager import CacheManager
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import ContextOverflow, Overloaded
from tenfold.core.plan import SequenceSlice, SequenceStart, StepPlan, StepResult
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.budget import StepBudget
from tenfold.sched.sequence import Event, FailEvent, Sequence, Submission, TokenEvent

_LEAST_SHARE = 0.2  # of the bound: prefill's time in a step, also where that misses the bound,
_LEAST_CHUNK = 16  # and its tokens where not one is done in that time
_TOGETHER = 4  # prompts that share a step, where they do
_CARRIED = 2.0  # of what a sequence is ahead of its bound, a step may use so many times the bound


class Scheduler:
    """Owner of every sequence's status: held (for a sibling's prefill) → waiting → running → ended."""

    def __init__(
        self,
        config: SchedulerConfig,
        cache: CacheManager,
        cost: StepCost | None = None,
        attention: Attention | None = None,
    ) -> None:
        self._config = config
        self._cache = cache
        self.cost = cost or StepCost()  # whoever runs the steps tells it how long they took
        self._attention = attention or Attention(())
        self._shares = config.slo.tpot is not None  # whether prompts share a step, or come one after the other
        self.shape = StepShape()  # of the last plan
        self._sequences: dict[str, Sequence] = {}
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        self._running: list[Sequence] = []  # by order of arrival
        self._held: dict[str, list[Sequence]] = {}  # by the sequence they wait for
        self._held_count = 0
        self._started: list[SequenceStart] = []
        self._ended: list[str] = []
        self._blocked: tuple[str, int] | None = None  # the queue's head that found no room, and the room then
        self._arrivals = 0
        self.preemptions = 0
        self.computed_prompt_tokens = 0
        self.cached_prompt_tokens = 0

    @property
    def running(self) -> int:
        """Sequences with KV blocks."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting) + self._held_count

    @property
    def max_waiting(self) -> int:
        """Sequences the queue can hold."""
        return self._config.max_waiting

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._sequences

    def add(self, submission: Submission) -> None:
        """Queue a sequence. Raises ContextOverflow where the pool could never hold it, Overloaded when full."""
        capacity = self._cache.pool.blocks * self._cache.block_size
        if submission.max_length > capacity:
            raise ContextOverflow(
                f"this request may grow to {submission.max_length} tokens, but the KV pool holds {capacity}: "
                "lower max_tokens or the prompt, or start the server with a larger --kv-tokens",
                param="max_tokens",
            )
        if self.waiting >= self._config.max_waiting:
            raise Overloaded(f"the queue is full ({self._config.max_waiting} waiting); try again later", retry_after=1)
        sequence = Sequence(submission, self._arrivals)
        assert sequence.id not in self._sequences, f"{sequence.id} is already here"
        self._arrivals += 1
        self._sequences[sequence.id] = sequence
        parent = self._sequences.get(submission.after) if submission.after else None
        if parent is not None and parent.computed < parent.prompt:
            self._held.setdefault(parent.id, []).append(sequence)
            self._held_count += 1
        else:
            self._waiting[sequence.id] = sequence

    def end(self, sequence_id: str) -> bool:
        """Take a sequence out, whatever its state, and free its blocks; False if it is not here."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return False
        self._release_held(sequence)
        if self._waiting.pop(sequence_id, None) is None:
            self._leave(sequence)
        if sequence.admitted:
            self._ended.append(sequence_id)
        return True

    def schedule(self, now: float) -> StepPlan | None:
        """The next step, or None when there is nothing to compute: reserves blocks, preempts, admits.

        Every plan must be applied before the next is asked for.
        """
        budget = StepBudget(self.cost, self._attention, self._config.max_step_tokens)
        slices: list[SequenceSlice] = []
        lost = self._take([s for s in self._running if s.pending == 1], budget, slices)
        prefilling = [s for s in self._running if s.pending != 1]
        if prefilling or self._waiting:
            budget.seconds = self._seconds(budget, now)
            if not lost:
                self._admit(prefilling, budget, now)
            if self._shares:  # what a short one does not need is the next one's
                prefilling.sort(key=lambda s: s.pending)
            self._take(prefilling, budget, slices)
        if not slices:
            assert not self._running and not self._waiting, "sequences wait but none can run"
            return None
        self.shape = budget.shape
        plan = StepPlan(tuple(slices), tuple(self._started), tuple(self._ended))
        self._started, self._ended = [], []
        return plan

    def apply(self, plan: StepPlan, result: StepResult, now: float) -> list[Event]:
        """Advance by what ``plan`` computed until ``now``; sequences ended meanwhile are passed over."""
        events: list[Event] = []
        samples = {sample.id: sample for sample in result.sampled}
        for part in plan.slices:
            sequence = self._sequences.get(part.id)
            if sequence is None:
                continue
            if part.id in result.failed:
                self.end(part.id)
                events.append(FailEvent(part.id, result.failed[part.id]))
                continue
            self._advance(sequence, len(part.tokens))
            if part.sample:
                sample = samples[part.id]
                sequence.tokens.append(sample.token)
                if sequence.first_token is None:
                    sequence.first_token = now
                finish, stop = sequence.finish_reason(sample.token) or (None, None)
                events.append(TokenEvent(part.id, sample, finish, stop, sequence.cached, sequence.queued))
                if finish:
                    self.end(part.id)
        return events

    def check(self) -> None:
        """Assert that the books balance (tests call this after every step)."""
        self._cache.check()
        places = [s.id for s in self._running] + list(self._waiting)
        places += [s.id for held in self._held.values() for s in held]
        assert sorted(places) == sorted(self._sequences), "a sequence is in no queue, or in two"
        assert self._held_count == sum(map(len, self._held.values()))
        assert all(s.computed < len(s.tokens) for s in self._running)

    def _take(self, sequences: list[Sequence], budget: StepBudget, slices: list[SequenceSlice]) -> bool:
        """Put tokens of ``sequences`` into the step, in this order, while it is not full.

        Returns whether the step lost a sequence because blocks ran out.
        """
        lost = crowded = taken_any = False
        for at, sequence in enumerate(sequences):
            if budget.full:
                break
            if crowded and sequence not in self._running:
                continue  # preempted a moment ago
            sharing = len(sequences) - at if self._shares else 1
            count = budget.most(sequence.computed, sequence.pending, sharing)
            if count == 0:
                if taken_any:
                    continue
                count = min(_LEAST_CHUNK, sequence.pending, budget.tokens)
            if not self._cache.reserve(sequence.id, sequence.computed + count):
                crowded = True
                room, taken = self._make_room(sequence, sequence.computed + count, slices, budget)
                lost |= taken
                if not room:
                    continue
            slices.append(self._slice(sequence, count, budget))
            taken_any = True
        return lost

    def _seconds(self, budget: StepBudget, now: float) -> float | None:
        """How long the step may last so that no sequence in decode misses its bound; None: there is none.

        Its next token is due when as many bounds as it has tokens have passed since its first one. One that is too late
        even if nothing but decode is done holds nobody up, beyond the bound itself; and some time is always prefill's.
        """
        bound = self._config.slo.tpot
        if bound is None:
            return None
        firsts = [(s.first_token, s.outputs) for s in self._running if s.first_token is not None and s.pending == 1]
        if not firsts:
            return None
        decode = budget.predicted
        left = [first + bound * outputs - now for first, outputs in firsts]
        limit = min(min(max(s, bound) if s < decode else s for s in left), _CARRIED * bound)
        return max(limit, decode + _LEAST_SHARE * bound)

    def _make_room(
        self, sequence: Sequence, tokens: int, slices: list[SequenceSlice], budget: StepBudget
    ) -> tuple[bool, bool]:
        """Reserve ``tokens`` positions, preempting later arrivals as needed, at worst ``sequence`` itself.

        Returns whether there is room now, and whether the step lost a sequence by that.
        """
        taken = False
        while not self._cache.reserve(sequence.id, tokens):
            victim = self._running[-1]
            for i, part in enumerate(slices):
                if part.id == victim.id:
                    budget.give_back(part.start, len(part.tokens), sample=part.sample)
                    del slices[i]
                    taken = True
                    break
            self._preempt(victim)
            if victim is sequence:
                return False, taken
        return True, taken

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.computed = 0
        self.preemptions += 1
        self._waiting[sequence.id] = sequence
        self._waiting.move_to_end(sequence.id, last=False)

    def _admit(self, prefilling: list[Sequence], budget: StepBudget, now: float) -> None:
        """Let waiting sequences in, and among ``prefilling``, until those can fill the step; there is room for each.

        Where prompts share, a few more: a long one leaves the others their part. What the running ones still
        need for their prompts and next block is kept back, so that a newcomer does not cause the next preemption. A
        queue's head that found no room is looked at again when there is more.
        """
        pending = sum(s.pending for s in prefilling)
        while self._waiting and len(self._running) < self._config.max_running:
            if pending >= budget.tokens and not (self._shares and len(prefilling) < _TOGETHER):
                return
            sequence = next(iter(self._waiting.values()))
            room = self._cache.pool.available - self._promised()
            if self._blocked is not None and self._blocked[0] == sequence.id and room <= self._blocked[1]:
                return
            cached = self._cache.open(sequence.id, sequence.tokens, sequence.submission.salt)
            room = self._cache.pool.available - self._promised()
            if self._cache.missing(sequence.id, len(sequence.tokens)) > room:
                self._cache.close(sequence.id)
                self._blocked = (sequence.id, room)
                return
            self._blocked = None
            del self._waiting[sequence.id]
            insort(self._running, sequence, key=lambda s: s.order)
            sequence.computed = cached
            if not sequence.admitted:
                sequence.admitted = True
                sequence.queued = max(0.0, now - sequence.submission.arrival)
                sequence.cached = cached
                self.cached_prompt_tokens += cached
                self._started.append(sequence.submission.start)
            prefilling.append(sequence)
            pending += sequence.pending

    def _promised(self) -> int:
        """Blocks the running sequences will ask for next."""
        ahead = self._cache.block_size
        return sum(self._cache.missing(s.id, len(s.tokens) + ahead) for s in self._running)

    def _slice(self, sequence: Sequence, count: int, budget: StepBudget) -> SequenceSlice:
        start, end = sequence.computed, sequence.computed + count
        budget.take(start, count, sample=end == len(sequence.tokens))
        return SequenceSlice(
            id=sequence.id,
            start=start,
            tokens=tuple(sequence.tokens[start:end]),
            blocks=self._cache.blocks(sequence.id),
            sample=end == len(sequence.tokens),
        )

    def _advance(self, sequence: Sequence, count: int) -> None:
        prompt = sequence.prompt
        if sequence.computed < prompt:
            self.computed_prompt_tokens += min(prompt - sequence.computed, count)
        sequence.computed += count
        self._cache.commit(sequence.id, sequence.tokens, sequence.computed)
        if sequence.computed >= prompt and self._held:
            self._release_held(sequence)

    def _release_held(self, sequence: Sequence) -> None:
        """Let those that waited for ``sequence``'s prefill into the queue, ahead of later arrivals."""
        for held in reversed(self._held.pop(sequence.id, [])):
            self._held_count -= 1
            self._waiting[held.id] = held
            self._waiting.move_to_end(held.id, last=False)

    def _leave(self, sequence: Sequence) -> None:
        """Out of the running set (or the held ones), blocks released."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._cache.close(sequence.id)
        else:
            siblings = self._held.get(sequence.submission.after or "", [])
            if sequence in siblings:
                siblings.remove(sequence)
                self._held_count -= 1
