"""Continuous batching with chunked prefill, driven by what requests are promised.

Each step, every sequence in decode gets its next token; what is left of the step goes to chunks of prompts. How much
that is follows from the running sequences' TPOT bounds and the cost model; to whom it goes, from the TTFT bounds:
prompts whose bound can be kept come first, the earliest deadline before the others (so that of equals none gets ahead
of one that was told its time), and a part is kept for all the rest, late ones first. Waiting sequences get a place when
what is ahead of them does not fill the step (``queue`` says who is next), and where one more in decode would not break
a bound. A request whose bound is predicted to be missed is refused when it comes.

When blocks run out, a sequence gives way to those of higher standing (a larger weight, or the same and earlier), so the
first of all never does, and there is always progress; its blocks stay cached, so coming back costs what was evicted
meanwhile. One that may be displaced also gives way where that saves a bound of a class with more weight.

(Orca, OSDI'22; vLLM, SOSP'23; Sarathi-Serve, OSDI'24; VTC, OSDI'24.)
"""

from bisect import insort
from collections import Counter
from dataclasses import replace
from heapq import heapify, heappop, heappush

from tenfold.cache.manager import CacheManager
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import ContextOverflow
from tenfold.core.plan import SequenceSlice, SequenceStart, StepPlan, StepResult
from tenfold.core.request import Preemption, Timeline
from tenfold.core.slo import NO_SLO
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.admission import Admission, Load
from tenfold.sched.budget import StepBudget
from tenfold.sched.forecast import Forecast
from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import (
    OTHER,
    TIMELY,
    Event,
    FailEvent,
    Sequence,
    Submission,
    TokenEvent,
)

_LEAST_CHUNK = 16  # tokens of a prompt where not one is done in the time there is
_AIM = 0.96  # of a TPOT bound: predictions are not exact
_CARRIED = 2.0  # of what a sequence is ahead of its bound, a step may use so many times the bound
_OUTPUT_CHARGE = 2.0  # what a tenant is charged for an output token, in prompt tokens
_DISPLACES = 0.5  # a waiting one may displace others when no more than this part of its time to wait is left
_PROTECTED = 16  # tokens that a displaced sequence gets before it can be displaced again

Slices = dict[str, SequenceSlice]


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
        self._policy = config.policy
        self._by_arrival = config.policy.order == "arrival"
        self._cache = cache
        self.cost = cost or StepCost()  # whoever runs the steps tells it how long they took
        self._attention = attention or Attention(())
        self._forecast = Forecast(self.cost, self._attention, config.max_step_tokens)
        self.shape = StepShape()  # of the last plan
        self._planned: list[Sequence] = []  # in it
        self._sequences: dict[str, Sequence] = {}
        self._queue = WaitingQueue(config.policy.fairness, config.tenants)
        self._running: list[Sequence] = []  # by order of arrival
        self._held: dict[str, list[Sequence]] = {}  # by the sequence they wait for
        self._held_count = 0
        self._expiries: list[tuple[float, int, Sequence]] = []  # a heap
        self._started: list[SequenceStart] = []
        self._ended: list[str] = []
        self._arrivals = 0
        self._load = Load()
        self._admission = Admission(config, cache, self._forecast, self._queue)
        self._prefill_part = 0.0  # of the last plan's predicted seconds
        self._began = 0.0  # the last plan's step
        self._backlog = False  # whether timely prompts waited for the last plan
        self._owed = 0.0  # seconds of prefill that those that are not timely did not get of their part,
        self._owed_places = 0.0  # and places
        self._held_of: Counter[str] = Counter()  # held ones, by tenant
        self.interference = 0.0  # seconds that decode spent on others' prompts, for whoever was in decode throughout
        self.preemptions: Counter[str] = Counter()  # by reason
        self.preempted: list[tuple[str, str]] = []  # since this was emptied last: ids, and reasons in words
        self.computed_prompt_tokens = 0
        self.cached_prompt_tokens = 0

    @property
    def running(self) -> int:
        """Sequences with KV blocks."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._queue) + self._held_count

    @property
    def refused(self) -> Counter[str]:
        """Requests that were not let in, or given up before they began, by reason."""
        return self._admission.refused

    @property
    def waiting_by_class(self) -> dict[str, int]:
        """Sequences in the queue, by SLO class."""
        return dict(self._queue.by_class)

    @property
    def service(self) -> dict[str, float]:
        """What each tenant of late was served, in prompt tokens, divided by its weight."""
        return self._queue.service()

    @property
    def max_waiting(self) -> int:
        """Sequences the queue can hold."""
        return self._config.max_waiting

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._sequences

    def add(self, submission: Submission, now: float | None = None) -> None:
        """Queue a sequence, ``now`` (its arrival, where left out).

        Raises ContextOverflow where the pool could never hold it, InvalidRequest where a bound it names cannot be kept
        even alone, Overloaded where the queue is full or its TTFT bound is predicted to be missed.
        """
        capacity = self._cache.pool.blocks * self._cache.block_size
        if submission.max_length > capacity:
            raise ContextOverflow(
                f"this request may grow to {submission.max_length} tokens, but the KV pool holds {capacity}: "
                "lower max_tokens or the prompt, or start the server with a larger --kv-tokens",
                param="max_tokens",
            )
        if self._by_arrival:
            terms = submission.terms
            plain = replace(terms.slo_class, weight=1.0)
            submission = replace(submission, terms=replace(terms, slo_class=plain, slo=NO_SLO, tenant=""))
        sequence = Sequence(submission, self._arrivals)
        assert sequence.id not in self._sequences, f"{sequence.id} is already here"
        tenant = sequence.terms.tenant
        of_tenant = 0 if self._by_arrival else self._queue.waiting_of(tenant) + self._held_of[tenant]
        self._admission.check_limits(self.waiting, of_tenant, len(self._running), self._load)
        parent = self._sequences.get(submission.after) if submission.after else None
        if parent is not None:
            sequence.tier, sequence.key, sequence.deadline = parent.tier, parent.key, parent.deadline
        elif self._by_arrival:
            sequence.key = float(sequence.order)
        else:
            self._admission.promise(sequence, self._running, submission.arrival if now is None else now, self._load)
        self._arrivals += 1
        self._sequences[sequence.id] = sequence
        if parent is not None and parent.computed < parent.prompt:
            self._held.setdefault(parent.id, []).append(sequence)
            self._held_count += 1
            self._held_of[tenant] += 1
        else:
            self._queue.push(sequence)
        if parent is None and (timeout := sequence.terms.queue_timeout) is not None:
            heappush(self._expiries, (submission.arrival + timeout, sequence.order, sequence))
            if len(self._expiries) > 2 * self.waiting + 64:  # mostly of those that have begun
                self._expiries = [
                    entry for entry in self._expiries if not entry[2].admitted and entry[2].id in self._sequences
                ]
                heapify(self._expiries)

    def end(self, sequence_id: str, now: float, *, finished: bool = False) -> Timeline | None:
        """Take a sequence out, whatever its state, and free its blocks; None if it is not here.

        ``finished``: it came to its own end, and tells how long answers are.
        """
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return None
        self._release_held(sequence)
        if not self._queue.remove(sequence):
            self._leave(sequence)
        if sequence.admitted:
            self._ended.append(sequence_id)
        if finished:
            self._forecast.ended(sequence.terms.slo_class.name, sequence.outputs)
        return sequence.timeline(now, self.interference)

    def expire(self, now: float) -> list[FailEvent]:
        """Give up those that have waited to begin for longer than they may."""
        events: list[FailEvent] = []
        while self._expiries and self._expiries[0][0] <= now:
            sequence = heappop(self._expiries)[2]
            if sequence.admitted or self._sequences.get(sequence.id) is not sequence:
                continue
            self.refused["timeout"] += 1
            timeout = sequence.terms.queue_timeout or 0.0
            message = f"the request has waited for {timeout:g} s to begin, as long as it may; try again later"
            retry_after = self._admission.drained(len(self._running), self._load)
            together = (*self._held.get(sequence.id, ()), sequence)
            events += [FailEvent(one.id, message, retry_after, self.end(one.id, now)) for one in together]
        return events

    def schedule(self, now: float) -> StepPlan | None:
        """The next step, or None when there is nothing to compute: reserves blocks, preempts, admits.

        Every plan must be applied before the next is asked for.
        """
        budget = StepBudget(self.cost, self._attention, self._config.max_step_tokens)
        slices: Slices = {}
        decoding = [s for s in self._running if len(s.tokens) - s.computed == 1]
        lost = self._decode(decoding, budget, slices, now)
        self._load.decode = decode = budget.predicted if slices else 0.0
        self._load.capped = False
        prefilling = []
        if self._queue or len(decoding) != len(self._running):
            prefilling = [s for s in self._running if len(s.tokens) - s.computed != 1]
        self._backlog = False
        if prefilling or self._queue:
            budget.seconds = self._seconds(decode, now)
            self._backlog = self._queue.timely > 0 or any(s.tier == TIMELY for s in prefilling)
            if not lost:
                self._admit(prefilling, budget, slices, now)
            self._prefill(prefilling, budget, slices, now)
        if not slices:
            assert not self._running and not self._queue, "sequences wait but none can run"
            return None
        self.shape = budget.shape
        predicted = budget.predicted if prefilling else decode
        self._prefill_part = 1 - decode / predicted if predicted > 0 else 0.0
        self._began = now
        self._planned = [self._sequences[name] for name in slices]
        plan = StepPlan(tuple(slices.values()), tuple(self._started), tuple(self._ended))
        self._started, self._ended = [], []
        return plan

    def apply(self, plan: StepPlan, result: StepResult, now: float) -> list[Event]:
        """Advance by what ``plan`` computed until ``now``; sequences ended meanwhile are passed over."""
        seconds = max(0.0, now - self._began)
        self._load.step += 0.1 * (seconds - self._load.step)
        self.interference += seconds * self._prefill_part
        events: list[Event] = []
        samples = {sample.id: sample for sample in result.sampled}
        timely = 0.0
        for sequence, part in zip(self._planned, plan.slices, strict=True):
            if self._sequences.get(part.id) is not sequence:
                continue  # ended, and perhaps another of the same id came
            if part.id in result.failed:
                timeline = self.end(part.id, now)
                events.append(FailEvent(part.id, result.failed[part.id], timeline=timeline))
                continue
            timely += self._advance(sequence, len(part.tokens), now)
            if part.sample:
                sample = samples[part.id]
                sequence.tokens.append(sample.token)
                self._queue.charge(sequence.terms.tenant, _OUTPUT_CHARGE)
                if sequence.first_token is None:
                    sequence.first_token = now
                    sequence.phases.enter("decode", now, self.interference)
                finish, stop = sequence.finish_reason(sample.token) or (None, None)
                timeline = self.end(part.id, now, finished=True) if finish else None
                events.append(TokenEvent(part.id, sample, finish, stop, sequence.cached, sequence.queued, timeline))
        if self._backlog:
            self._forecast.progress(timely, seconds)
        return events

    def check(self) -> None:
        """Assert that the books balance (tests call this after every step)."""
        self._cache.check()
        self._queue.check()
        places = [s.id for s in self._running] + [s.id for s in self._sequences.values() if s.waiting]
        places += [s.id for held in self._held.values() for s in held]
        assert sorted(places) == sorted(self._sequences), "a sequence is in no queue, or in two"
        assert self._held_count == sum(map(len, self._held.values()))
        assert all(s.computed < len(s.tokens) for s in self._running)

    # What a step holds.

    def _decode(self, sequences: list[Sequence], budget: StepBudget, slices: Slices, now: float) -> bool:
        """The next token of each, for as many as there are blocks. Returns whether the step lost one again."""
        lost = crowded = False
        for sequence in sequences:
            if crowded and sequence.waiting:
                continue  # preempted a moment ago
            if not self._cache.reserve(sequence.id, sequence.computed + 1):
                crowded = True
                room, taken = self._make_room(sequence, sequence.computed + 1, budget, slices, now)
                lost |= taken
                if not room:
                    continue
            slices[sequence.id] = self._slice(sequence, 1, budget)
        return lost

    def _prefill(self, sequences: list[Sequence], budget: StepBudget, slices: Slices, now: float) -> None:
        """Chunks of prompts, the most urgent first; a part is kept for those that are not timely."""
        for sequence in sequences:
            if sequence.tier == TIMELY and sequence.late(now):
                sequence.give_up_bound()
        sequences.sort(key=lambda s: s.urgency)
        timely = next((i for i, s in enumerate(sequences) if s.urgency[0] == OTHER), len(sequences))
        first, others = sequences[:timely], sequences[timely:]
        if not others or not (first or self._queue.timely):
            self._chunks(sequences, budget, slices, now, least=_LEAST_CHUNK)
            return
        policy = self._policy
        share, part = policy.background_share if others[0].deadline is None else policy.late_share, 0.0
        if budget.seconds is not None:
            left = max(0.0, budget.seconds - budget.predicted)
            part = share * left
            share = min(0.5, (part + self._owed) / left) if left > 0 else 0.0
        budget.keep(share)
        self._chunks(first, budget, slices, now, least=_LEAST_CHUNK)
        # Where timely ones wait for a place, what is not used now brings the end of an answer nearer.
        budget.keep(0.0 if first else 1 - share)
        before = len(slices)
        self._chunks(others, budget, slices, now, least=0 if slices else _LEAST_CHUNK)
        self._owed = 0.0 if len(slices) > before else self._owed + part

    def _chunks(self, sequences: list[Sequence], budget: StepBudget, slices: Slices, now: float, *, least: int) -> None:
        """As much of each as fits, one after the other; ``least`` tokens where of the first not one does."""
        for sequence in sequences:
            if budget.full:
                break
            if sequence.waiting:
                continue  # preempted a moment ago
            count = budget.most(sequence.computed, sequence.pending) or min(least, sequence.pending, budget.tokens)
            if count == 0:
                continue
            if not self._cache.reserve(sequence.id, sequence.computed + count):
                room, _ = self._make_room(sequence, sequence.computed + count, budget, slices, now)
                if not room:
                    continue
            slices[sequence.id] = self._slice(sequence, count, budget)
            least = 0

    def _seconds(self, decode: float, now: float) -> float | None:
        """How long the step may last so that no sequence in decode misses its bound; None: there is none.

        A next token is due when as many bounds as there are tokens have passed since the first one. A sequence that is
        too late even if nothing but decode (``decode`` seconds) is done holds nobody up, beyond the bound itself; and
        some time is always prefill's.
        """
        limit, tightest = float("inf"), None
        for s in self._running:
            bound = s.slo.tpot
            if bound is None:
                continue
            if 2 * bound <= decode:
                continue  # nothing that could be done now would keep it
            if tightest is None or bound < tightest:
                tightest = bound
            bound *= _AIM
            if s.first_token is None or s.computed != len(s.tokens) - 1:
                continue
            left = s.first_token + bound * s.outputs - now
            if left < decode:
                left = decode + bound if bound <= decode else max(left, bound)
            left = max(min(left, _CARRIED * bound), decode + self._policy.least_share * max(bound, decode))
            limit = min(limit, left)
        self._load.tightest = tightest
        if limit != float("inf"):
            return limit
        if self._policy.stretch is not None and decode > 0 and not self._by_arrival:
            return self._policy.stretch * decode
        return None

    # Who gets a place, and who loses it.

    def _admit(self, prefilling: list[Sequence], budget: StepBudget, slices: Slices, now: float) -> None:
        """Let waiting sequences in, and among ``prefilling``, while what is ahead of each does not fill the step.

        Where timely ones do, one that is not may get in for the part that is kept for those.
        """
        fits: int | None = None  # tokens of a prompt
        blocked: float | None = None  # the weight of a returning one that found no room
        owed = self._owed_places >= 1
        while (candidate := self._queue.next(now, returning=blocked is None)) is not None:
            if blocked is not None and candidate.terms.slo_class.weight <= blocked:
                return
            turn = self._queue.next(now, others=True) if owed and candidate.urgency[0] == TIMELY else None
            candidate = turn or candidate
            urgency = candidate.urgency
            ahead = sum(len(s.tokens) - s.computed for s in prefilling if s.urgency <= urgency)
            if ahead and fits is None:
                fits = max(1, budget.most(0, budget.tokens))
            if fits is not None and ahead >= fits:
                other = self._queue.next(now, others=True) if urgency[0] == TIMELY else None
                if other is None or any(s.urgency[0] == OTHER and s.urgency <= other.urgency for s in prefilling):
                    return
                candidate = other
            if self._enter(candidate, prefilling, budget, now):
                self._count_places(candidate)
                owed = self._owed_places >= 1
            elif turn is not None:
                owed = False  # it finds no room yet: timely ones that do need not wait for that
            elif candidate.returning:
                blocked = candidate.terms.slo_class.weight
            elif not self._displace(candidate, prefilling, budget, slices, now):
                return

    def _count_places(self, sequence: Sequence) -> None:
        """Of places, too, those that are not timely get their part."""
        if sequence.tier == TIMELY and len(self._queue) > self._queue.timely:
            self._owed_places = min(2.0, self._owed_places + self._policy.background_share)
        elif sequence.tier == OTHER:
            self._owed_places = max(0.0, self._owed_places - 1)

    def _enter(self, sequence: Sequence, prefilling: list[Sequence], budget: StepBudget, now: float) -> bool:
        """Give it a place and the blocks it finds; False where there is none, or not enough of them.

        What the running ones still need for their prompts and next block is kept back, so that a newcomer does not
        cause the next preemption. One that found no room is looked at again when there is more.
        """
        if len(self._running) >= self._config.max_running or self._crowds(sequence, prefilling, budget):
            self._load.capped = True
            return False
        room = self._cache.pool.available - self._promised()
        if room <= sequence.no_room:
            self._load.capped = True
            return False
        cached = self._cache.open(sequence.id, sequence.tokens, sequence.submission.salt)
        room = self._cache.pool.available - self._promised()
        if self._cache.missing(sequence.id, len(sequence.tokens)) > room:
            self._cache.close(sequence.id)
            sequence.no_room = room
            self._load.capped = True
            return False
        sequence.no_room = -1
        self._queue.began(sequence)
        self._queue.remove(sequence)
        insort(self._running, sequence, key=lambda s: s.order)
        sequence.computed = cached
        sequence.reached = max(sequence.reached, cached)
        if not sequence.admitted:
            sequence.admitted = True
            sequence.queued = max(0.0, now - sequence.submission.arrival)
            sequence.cached = cached
            self.cached_prompt_tokens += cached
            self._started.append(sequence.submission.start)
            sequence.phases.enter("prefill", now, self.interference)
        else:
            sequence.phases.enter(self._phase(sequence), now, self.interference)
        prefilling.append(sequence)
        return True

    def _crowds(self, sequence: Sequence, prefilling: list[Sequence], budget: StepBudget) -> bool:
        """Whether decode with one more sequence is predicted to leave too little of the tightest TPOT bound.

        A bound that even one sequence alone would miss keeps nobody out.
        """
        bound, own = self._load.tightest, sequence.slo.tpot
        if own is not None and (bound is None or own < bound):
            alone = self._forecast.decode(len(sequence.tokens))
            bound = own if alone <= (1 - self._policy.least_share) * own else bound
        if bound is None or not self._running:
            return False
        limit = (1 - self._policy.least_share) * bound
        shape = budget.shape
        more = [*prefilling, sequence]
        keys = sum(self._attention.keys(1, len(s.tokens)) for s in more)
        rows = shape.rows + len(more)
        together = StepShape(rows, rows, rows, shape.decode_keys + keys, 0.0)
        return self.cost.predict(together) > limit

    def _displace(
        self, sequence: Sequence, prefilling: list[Sequence], budget: StepBudget, slices: Slices, now: float
    ) -> bool:
        """Take a place from a running sequence of less weight, if that is how this one's bound can still be kept."""
        if sequence.tier != TIMELY or sequence.deadline is None or sequence.slo.ttft is None:
            return False
        slack = sequence.deadline - sequence.work - now
        if slack > _DISPLACES * (sequence.slo.ttft - sequence.work):
            return False
        weight = sequence.terms.slo_class.weight
        victims = [
            s
            for s in self._running
            if s.terms.slo_class.weight < weight and s.terms.slo_class.preemptible and len(s.tokens) >= s.protected
        ]
        needed = self._cache.blocks_for(len(sequence.tokens) + self._cache.block_size)
        room = self._cache.pool.available - self._promised()
        if not victims or needed > room + sum(len(self._cache.blocks(s.id)) for s in victims):
            return False
        victim = min(victims, key=self._loss)
        name = sequence.terms.slo_class.name
        reason = f"gave its place to a request of class {name}, to keep a TTFT bound of {sequence.slo.ttft:.3g} s"
        self._preempt(victim, "slo", reason, now, budget, slices)
        victim.protected = len(victim.tokens) + _PROTECTED
        victim.returning = False
        if victim.deadline is not None:
            victim.give_up_bound()
        self._queue.push(victim)
        if victim in prefilling:
            prefilling.remove(victim)
        sequence.no_room = -1
        return True

    def _make_room(
        self, sequence: Sequence, tokens: int, budget: StepBudget, slices: Slices, now: float
    ) -> tuple[bool, bool]:
        """Reserve ``tokens`` positions, preempting those of lower standing as needed, at worst ``sequence`` itself.

        Returns whether there is room now, and whether the step lost a sequence by that.
        """
        taken = False
        while not self._cache.reserve(sequence.id, tokens):
            lower = [s for s in self._running if s.rank > sequence.rank]
            least = min((s.terms.slo_class.weight for s in lower), default=0.0)
            victim = min((s for s in lower if s.terms.slo_class.weight == least), key=self._loss, default=sequence)
            taken |= victim.id in slices
            reason = "KV blocks ran out" if victim is sequence else "KV blocks ran out, for one of higher standing"
            self._preempt(victim, "memory", reason, now, budget, slices)
            victim.returning = True
            self._queue.push(victim)
            if victim is sequence:
                return False, taken
        return True, taken

    def _loss(self, sequence: Sequence) -> tuple[bool, float, int]:
        """What is lost if it gives way: a bound it keeps so far; seconds to compute it again, per block; the latest
        has waited least."""
        harmed = sequence.slo.tpot is not None and sequence.first_token is not None
        seconds = self._forecast.prefill(0, sequence.computed)
        return harmed, seconds / max(1, len(self._cache.blocks(sequence.id))), -sequence.order

    def _preempt(
        self, victim: Sequence, kind: str, reason: str, now: float, budget: StepBudget, slices: Slices
    ) -> None:
        part = slices.pop(victim.id, None)
        if part is not None:
            budget.give_back(part.start, len(part.tokens), sample=part.sample)
        self._leave(victim)
        victim.computed = 0
        victim.phases.preemptions.append(Preemption(max(0.0, now - victim.submission.arrival), reason))
        victim.phases.enter("preempted", now, self.interference)
        self.preemptions[kind] += 1
        self.preempted.append((victim.id, reason))

    def _promised(self) -> int:
        """Blocks the running sequences will ask for next."""
        ahead = self._cache.block_size
        return sum(self._cache.missing(s.id, len(s.tokens) + ahead) for s in self._running)

    def _slice(self, sequence: Sequence, count: int, budget: StepBudget) -> SequenceSlice:
        start, end = sequence.computed, sequence.computed + count
        sample = end == len(sequence.tokens)
        budget.take(start, count, sample=sample)
        return SequenceSlice(
            id=sequence.id,
            start=start,
            tokens=tuple(sequence.tokens[start:end]),
            blocks=self._cache.blocks(sequence.id),
            sample=sample,
        )

    def _advance(self, sequence: Sequence, count: int, now: float) -> float:
        """It has ``count`` more tokens in memory. Returns how much timely work that was, in seconds."""
        prompt, before = sequence.prompt, sequence.computed
        if before < prompt:
            new = min(prompt - before, count)
            self.computed_prompt_tokens += new
            fresh = min(prompt, before + count) - max(before, sequence.reached)
            if fresh > 0:
                self._queue.charge(sequence.terms.tenant, fresh)
        done = 0.0
        if sequence.work > 0.0:
            done = sequence.work * count / (len(sequence.tokens) - before)
            sequence.work = max(0.0, sequence.work - done)
        sequence.computed = after = before + count
        if before < sequence.reached <= after and sequence.phases.preemptions:
            sequence.phases.enter(self._phase(sequence), now, self.interference)
        if after >= sequence.reached:
            sequence.reached = after
            sequence.returning = False
        self._cache.commit(sequence.id, sequence.tokens, after)
        if after >= prompt and self._held:
            self._release_held(sequence)
        return done if sequence.tier == TIMELY else 0.0

    def _phase(self, sequence: Sequence) -> str:
        """What a sequence with a place spends its time on."""
        if sequence.computed < sequence.reached:
            return "recompute"
        return "prefill" if sequence.first_token is None else "decode"

    def _release_held(self, sequence: Sequence) -> None:
        """Let those that waited for ``sequence``'s prefill into the queue, where its own place was."""
        for held in self._held.pop(sequence.id, []):
            self._let_go(held)
            self._queue.push(held)

    def _leave(self, sequence: Sequence) -> None:
        """Out of the running set (or the held ones), blocks released."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._cache.close(sequence.id)
        else:
            siblings = self._held.get(sequence.submission.after or "", [])
            if sequence in siblings:
                siblings.remove(sequence)
                self._let_go(sequence)

    def _let_go(self, held: Sequence) -> None:
        """One that was held is held no more."""
        self._held_count -= 1
        self._held_of[held.terms.tenant] -= 1
        if not self._held_of[held.terms.tenant]:
            del self._held_of[held.terms.tenant]
