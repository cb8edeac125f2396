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

from collections import Counter
from collections.abc import Sequence as Many
from dataclasses import replace
from heapq import heapify, heappop, heappush

from tenfold.cache.manager import CacheManager
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import ContextOverflow
from tenfold.core.plan import SampledToken, StepPlan, StepResult
from tenfold.core.request import Timeline
from tenfold.core.slo import NO_SLO
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.admission import Admission
from tenfold.sched.assembly import Assembly
from tenfold.sched.bill import Bill
from tenfold.sched.budget import StepBudget
from tenfold.sched.coasting import Coasting
from tenfold.sched.forecast import Forecast, Load
from tenfold.sched.pace import Pace
from tenfold.sched.places import Places
from tenfold.sched.prefill import Prefill
from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import (
    TIMELY,
    Event,
    FailEvent,
    Sequence,
    Submission,
    TokenEvent,
)
from tenfold.sched.siblings import Siblings
from tenfold.sched.speculation import Speculation
from tenfold.sched.tenants import OUTPUT_CHARGE, Tenants
from tenfold.spec.proposer import Proposer

_RESTS = 3.0  # TPOT bounds by which one of a tenant that holds much is ahead where it lets others' prompts go first


class Scheduler:
    """Owner of every sequence's status: held (for a sibling's prefill) → waiting → running → ended."""

    def __init__(
        self,
        config: SchedulerConfig,
        cache: CacheManager,
        cost: StepCost | None = None,
        attention: Attention | None = None,
        proposers: Many[Proposer] = (),
        *,
        draft_model: bool = False,
    ) -> None:
        self._config = config
        self._policy = config.policy
        self._by_arrival = config.policy.order == "arrival"
        self._cache = cache
        self.cost = cost or StepCost()  # whoever runs the steps tells it how long they took
        self._attention = attention or Attention(())
        self._forecast = Forecast(self.cost, self._attention, config.max_step_tokens)
        self.shape = StepShape()  # of the last plan
        self._planned: list[Sequence] = []  # in it, while it is computed
        self._left: list[Sequence] = []  # those of it that have ended meanwhile
        self._sequences: dict[str, Sequence] = {}
        self._tenants = Tenants(config.tenants, config.policy.fairness, config.policy.reserve)
        self._queue = WaitingQueue(self._tenants, config.policy.fairness)
        self._load = Load()
        self._places = Places(
            config, cache, self._queue, self._tenants, self.cost, self._attention, self._forecast, self._load
        )
        self._prefill = Prefill(config.policy, cache, self._queue, self._tenants, self._places, self._load)
        self._running = self._places.running
        self._pace = Pace(config.policy, self._load, self._running)
        self.speculation: Speculation | None = None
        if (proposers or draft_model) and config.speculation.mode != "off":
            self.speculation = Speculation(config.speculation, proposers, self.cost, cache, model=draft_model)
        self._bill = Bill(self.cost, self._attention, self._load, config.tenants)
        self._siblings = Siblings()
        self._expiries: list[tuple[float, int, Sequence]] = []  # a heap
        self.coasting = Coasting(
            self._places,
            self._queue,
            self._siblings,
            self._tenants,
            cache,
            self._attention,
            self._load,
            self._forecast,
            self._bill,
            self._expiries,
        )
        self._ended: list[str] = []
        self._arrivals = 0
        self._admission = Admission(config, cache, self._forecast, self._queue, self._tenants)
        self._prefill_part = 0.0  # of the last plan's predicted seconds
        self._began = 0.0  # the last plan's step
        self._backlog = False  # whether timely prompts, but for those held back, wanted more of the last plan
        self.computed_prompt_tokens = 0

    @property
    def running(self) -> int:
        """Sequences with KV blocks."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._queue) + self._siblings.count

    @property
    def preemptions(self) -> Counter[str]:
        """How often a sequence lost its place, by reason."""
        return self._places.preemptions

    @property
    def preempted(self) -> list[tuple[str, str]]:
        """Those that lost it since this was emptied last: ids, and reasons in words."""
        return self._places.preempted

    @property
    def cached_prompt_tokens(self) -> int:
        """Tokens of prompts that were found in the cache when they got a place."""
        return self._places.cached_prompt_tokens

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
        return self._tenants.service()

    @property
    def busy_seconds(self) -> float:
        """What all steps took, with what was between them."""
        return self._bill.seconds

    @property
    def billed_seconds(self) -> dict[str, dict[str, float]]:
        """What of that was of sequences that have ended, by SLO class and tenant."""
        return {name: dict(account) for name, account in self._bill.accounts.items()}

    @property
    def most_together(self) -> int:
        """Sequences of one request that the queue can hold."""
        return self._config.most_together

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
        payer = submission.terms.tenant
        if self._by_arrival:
            terms = submission.terms
            plain = replace(terms.slo_class, weight=1.0)
            submission = replace(submission, terms=replace(terms, slo_class=plain, slo=NO_SLO, tenant=""))
        sequence = Sequence(submission, self._arrivals)
        sequence.payer = payer
        assert sequence.id not in self._sequences, f"{sequence.id} is already here"
        tenant = sequence.terms.tenant
        of_tenant = 0 if self._by_arrival else self._queue.waiting_of(tenant) + self._siblings.of(tenant)
        self._admission.check_limits(self.waiting, of_tenant, len(self._running), self._load)
        parent = self._sequences.get(submission.after) if submission.after else None
        if parent is not None:
            sequence.tier, sequence.key, sequence.deadline = parent.tier, parent.key, parent.deadline
        elif self._by_arrival:
            sequence.key = float(sequence.order)
        else:
            now = submission.arrival if now is None else now
            self._tenants.tick(now)
            self._tenants.came(tenant)
            self._admission.promise(sequence, self._running, now, self._load)
        self._arrivals += 1
        self._sequences[sequence.id] = sequence
        if self.speculation is not None:
            self.speculation.begin(sequence)
        if parent is not None and parent.computed < parent.prompt:
            self._siblings.hold(sequence, parent.id)
        else:
            self._queue.push(sequence)
        if parent is None and (timeout := sequence.terms.queue_timeout) is not None:
            heappush(self._expiries, (submission.arrival + timeout, sequence.order, sequence))
            if len(self._expiries) > 2 * self.waiting + 64:  # mostly of those that have begun
                self._expiries[:] = [
                    entry for entry in self._expiries if not entry[2].admitted and entry[2].id in self._sequences
                ]
                heapify(self._expiries)

    def end(self, sequence_id: str, now: float, *, finished: bool = False) -> Timeline | None:
        """Take a sequence out, whatever its state, and free its blocks; None if it is not here.

        ``finished``: it came to its own end, and tells how long answers are. Of a step that is being computed its
        timeline knows nothing; its tenant is charged for that when the step has ended.
        """
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return None
        self._release_held(sequence)
        if not self._queue.remove(sequence) and not self._places.leave(sequence):
            self._siblings.drop(sequence)
        if sequence.admitted:
            self._ended.append(sequence_id)
        if sequence in self._planned:
            self._left.append(sequence)
        if finished:
            self._forecast.ended(sequence.terms.slo_class.name, sequence.outputs)
        if self.speculation is not None:
            self.speculation.ended(sequence, finished=finished)
        timeline = sequence.timeline(now, self._load.interference)
        self._bill.close(sequence)
        if self.idle and not self._planned:
            self._bill.idle()
        return timeline

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
            together = (*self._siblings.behind(sequence.id), sequence)
            events += [FailEvent(one.id, message, retry_after, self.end(one.id, now)) for one in together]
        return events

    def schedule(self, now: float) -> StepPlan | None:
        """The next step, or None when there is nothing to compute: reserves blocks, preempts, admits.

        Every plan must be applied before the next is asked for.
        """
        budget = StepBudget(self.cost, self._attention, self._config.max_step_tokens)
        step, load = Assembly(budget, now), self._load
        self._tenants.tick(now)
        decoding = [s for s in self._running if len(s.tokens) - s.computed == 1]
        mixed = len(decoding) != len(self._running)
        if mixed:
            decoding, step.resting = self._yielding(decoding, now)
        lost = self._decode(decoding, step)
        decode = budget.predicted if step.slices else 0.0
        load.decode = self._with_resting(step) if step.resting else decode
        limit = self._pace.seconds(decode, now) if mixed or self._queue or self.speculation is not None else None
        if self.speculation is not None and not lost:
            decode = self.speculation.draft(step, decode, limit)
        if mixed or lost:
            step.prefilling = [s for s in self._running if len(s.tokens) - s.computed != 1]
        load.full = load.capped = closed = self._places.closed_until(now) > now
        self._backlog = closed and self._queue.timely > 0
        if step.prefilling or (self._queue and not closed):
            budget.open(limit)
            self._tenants.tell_apart(step.prefilling)
            if not lost:
                self._places.admit(step)
            part = self._tenants.part
            computed = any(s.tier == TIMELY and part(s.terms.tenant) == 1 for s in step.prefilling)
            self._backlog = computed or (load.capped and self._queue.timely > 0)
            self._prefill.fill(step)
        if not step.slices and step.resting:
            self._decode(list(step.resting), step)  # the prompt they rested for found no room
        if not step.slices:
            assert not self._running and not self._queue, "sequences wait but none can run"
            return None
        self.shape = budget.shape
        predicted = budget.predicted if step.prefilling else decode
        self._prefill_part = 1 - decode / predicted if predicted > 0 else 0.0
        self._began = now
        self._planned = [self._sequences[name] for name in step.slices]
        plan = StepPlan(tuple(step.slices.values()), tuple(self._places.started), tuple(self._ended))
        self._places.started, self._ended = [], []
        return plan

    def apply(self, plan: StepPlan, result: StepResult, now: float) -> list[Event]:
        """Advance by what ``plan`` computed until ``now``; sequences ended meanwhile are passed over."""
        seconds = max(0.0, now - self._began)
        self._load.step += 0.1 * (seconds - self._load.step)
        self._load.interference += seconds * self._prefill_part
        planned, self._planned = self._planned, []
        held = [*self._running, *self._left] if self._left else self._running
        self._left.clear()
        self._bill.step(self.shape, planned, plan.slices, held, self._began, now)
        events: list[Event] = []
        samples: dict[str, list[SampledToken]] = {}
        for sample in result.sampled:
            samples.setdefault(sample.id, []).append(sample)
        timely = 0.0
        for sequence, part in zip(planned, plan.slices, strict=True):
            if self._sequences.get(part.id) is not sequence:
                self._bill.close(sequence)  # it ended meanwhile, and perhaps another of the same id came
                continue
            if part.id in result.failed:
                timeline = self.end(part.id, now)
                events.append(FailEvent(part.id, result.failed[part.id], timeline=timeline))
                continue
            pending, count = sequence.pending, len(part.tokens) - part.drafted
            if not part.sample:
                timely += self._advance(sequence, count, pending, now)
                continue
            got = samples[part.id]
            used, finish, stop = sequence.extend(got)
            timely += self._advance(sequence, count + len(used) - 1, pending, now)
            self._tenants.charge(sequence.terms.tenant, OUTPUT_CHARGE * len(used))
            if self.speculation is not None and count == 1:
                self.speculation.learn(sequence, len(got) - 1, len(used))
            if sequence.first_token is None:
                sequence.first_token = now
                sequence.phases.enter("decode", now, self._load.interference)
            timeline = self.end(part.id, now, finished=True) if finish else None
            events.append(TokenEvent(part.id, used, finish, stop, sequence.cached, sequence.queued, timeline))
        if self.speculation is not None:
            self.speculation.close_step()
        if self._backlog:
            self._forecast.progress(timely, seconds)
        if self.idle:
            self._bill.idle()
        return events

    def check(self) -> None:
        """Assert that the books balance (tests call this after every step)."""
        self._cache.check()
        self._queue.check()
        places = [s.id for s in self._running] + [s.id for s in self._sequences.values() if s.waiting]
        places += self._siblings.names()
        assert sorted(places) == sorted(self._sequences), "a sequence is in no queue, or in two"
        self._siblings.check()
        assert all(s.computed < len(s.tokens) for s in self._running)

    # What a step holds.

    def _yielding(self, decoding: list[Sequence], now: float) -> tuple[list[Sequence], list[Sequence]]:
        """Those that decode in this step, and those that rest while another's prompt is computed: they are of a tenant
        that holds much, and well ahead of their TPOT bound."""
        part = self._tenants.part
        tenants = {s.terms.tenant for s in self._running}
        heavy = {tenant for tenant in tenants if part(tenant) < 1} if len(tenants) > 1 else ()
        if not heavy or all(s.terms.tenant in heavy for s in self._running if len(s.tokens) - s.computed != 1):
            return decoding, []
        resting = [s for s in decoding if s.terms.tenant in heavy and s.ahead(now) >= _RESTS]
        return [s for s in decoding if s not in resting], resting

    def _with_resting(self, step: Assembly) -> float:
        """Predicted seconds of a step in which those that rest now decode with the others."""
        shape = step.budget.shape
        keys = sum(self._attention.keys(1, len(s.tokens)) for s in step.resting)
        rows = shape.rows + len(step.resting)
        return self.cost.predict(StepShape(rows, rows, rows, shape.decode_keys + keys, 0.0))

    def _decode(self, sequences: list[Sequence], step: Assembly) -> bool:
        """The next token of each, for as many as there are blocks. Returns whether the step lost one again."""
        lost = crowded = False
        for sequence in sequences:
            if crowded and sequence.waiting:
                continue  # preempted a moment ago
            if not self._cache.reserve(sequence.id, sequence.computed + 1):
                crowded = True
                room, taken = self._places.make_room(sequence, sequence.computed + 1, step)
                lost |= taken
                if not room:
                    continue
            step.put(sequence, 1, self._cache.blocks(sequence.id))
            step.decoding.append(sequence)
        return lost

    def _advance(self, sequence: Sequence, count: int, pending: int, now: float) -> float:
        """It has ``count`` more tokens in memory, of ``pending`` that it lacked. Returns how much timely work that was,
        in seconds."""
        prompt, before = sequence.prompt, sequence.computed
        if before < prompt:
            new = min(prompt - before, count)
            self.computed_prompt_tokens += new
            fresh = min(prompt, before + count) - max(before, sequence.reached)
            if fresh > 0:
                self._tenants.charge(sequence.terms.tenant, fresh)
        done = 0.0
        if sequence.work > 0.0:
            done = sequence.work * min(1.0, count / pending)
            sequence.work = max(0.0, sequence.work - done)
        sequence.computed = after = before + count
        if before < sequence.reached <= after and sequence.phases.preemptions:
            sequence.phases.enter(sequence.phase, now, self._load.interference)
        if after >= sequence.reached:
            sequence.reached = after
            sequence.returning = False
        self._cache.commit(sequence.id, sequence.tokens, after)
        if after >= prompt and self._siblings:
            self._release_held(sequence)
        return done if sequence.tier == TIMELY else 0.0

    def _release_held(self, sequence: Sequence) -> None:
        """Let those that waited for ``sequence``'s prefill into the queue, where its own place was."""
        for held in self._siblings.release(sequence.id):
            self._queue.push(held)
