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

from collections import Counter, deque
from collections.abc import Sequence as Many
from dataclasses import replace

from tenfold.cache.manager import CacheManager
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import ContextOverflow
from tenfold.core.plan import NEXT_TOKEN, StepPlan, StepResult
from tenfold.core.request import Timeline
from tenfold.core.slo import NO_SLO
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.admission import Admission
from tenfold.sched.assembly import Assembly
from tenfold.sched.bill import Bill
from tenfold.sched.budget import StepBudget
from tenfold.sched.coasting import Coasting
from tenfold.sched.decode import Decode
from tenfold.sched.expiries import Expiries
from tenfold.sched.flight import Flight
from tenfold.sched.forecast import Forecast, Load
from tenfold.sched.live import LiveSequence, live
from tenfold.sched.pace import Pace
from tenfold.sched.places import Places
from tenfold.sched.prefill import Prefill
from tenfold.sched.progress import Progress
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
from tenfold.sched.speculation import Drafted, Speculation
from tenfold.sched.tenants import OUTPUT_CHARGE, Tenants
from tenfold.spec.proposer import Proposer


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
        self._flights: deque[Flight] = deque()  # the step that is computed, and one that was planned ahead
        self._sequences: dict[str, Sequence] = {}
        self._tenants = Tenants(config.tenants, config.policy.fairness, config.policy.reserve)
        self._queue = WaitingQueue(self._tenants, config.policy.fairness)
        self._load = Load()
        self._places = Places(
            config, cache, self._queue, self._tenants, self.cost, self._attention, self._forecast, self._load
        )
        self._decode = Decode(cache, self._places, self._tenants, self.cost, self._attention)
        self._prefill = Prefill(config.policy, cache, self._queue, self._tenants, self._places, self._load)
        self._running = self._places.running
        self._pace = Pace(config.policy, self._load, self._running)
        self.speculation: Speculation | None = None
        if (proposers or draft_model) and config.speculation.mode != "off":
            self.speculation = Speculation(config.speculation, proposers, self.cost, cache, model=draft_model)
        self._bill = Bill(self.cost, self._attention, self._load, config.tenants)
        self._siblings = Siblings(self._queue)
        self._expiries = Expiries(self._sequences)
        self.coasting = Coasting(
            self._places,
            self._queue,
            self._siblings,
            self._tenants,
            cache,
            self.cost,
            self._attention,
            self._load,
            self._forecast,
            self._bill,
            self._expiries,
            lambda sequence, now: self.end(sequence.id, now, finished=True),
        )
        self._progress = Progress(cache, self._tenants, self._siblings, self._load)
        self._ended: list[str] = []
        self._arrivals = 0
        self._admission = Admission(config, cache, self._forecast, self._queue, self._tenants)

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
    def computed_prompt_tokens(self) -> int:
        """Tokens of prompts that were computed."""
        return self._progress.prompt_tokens

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

    def live(self, now: float, most: int) -> list[LiveSequence]:
        """Sequences that have not ended, at most so many; those with a place first."""
        return live(self._sequences.values(), now, self._load.interference, most)

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
            self._load.ahead = max(0, len(self._flights) - 1)
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
            self._expiries.push(sequence, submission.arrival + timeout, self.waiting)

    def configure(self, config: SchedulerConfig) -> None:
        """Other limits of steps and queue, and other bounds and weights of the same classes, from the next plan and the
        next sequence on. Policy, tenants and speculation stay: much is built from them."""
        assert (config.policy, config.tenants) == (self._policy, self._config.tenants)
        assert config.speculation == self._config.speculation
        assert {one.name for one in config.classes} == {one.name for one in self._config.classes}
        self._config = config
        self._forecast.chunk = config.max_step_tokens
        self._places.configure(config)
        self._admission.configure(config)

    def end(self, sequence_id: str, now: float, *, finished: bool = False) -> Timeline | None:
        """Take a sequence out, whatever its state, and free its blocks; None if it is not here.

        ``finished``: it came to its own end, and tells how long answers are. Of a step that is being computed its
        timeline knows nothing; its tenant is charged for that when the step has ended.
        """
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return None
        sequence.drop_unknown()
        self._siblings.release(sequence_id)
        if not self._queue.remove(sequence) and not self._places.leave(sequence):
            self._siblings.drop(sequence)
        if sequence.admitted:
            self._ended.append(sequence_id)
        for flight in self._flights:  # steps are computed in order: others may have its blocks from the next plan on
            if sequence in flight.sequences:
                flight.left.append(sequence)
        if finished and sequence.submission.start.pooling is None:
            self._forecast.ended(sequence.terms.slo_class.name, sequence.outputs)
        if self.speculation is not None:
            self.speculation.ended(sequence, finished=finished)
        timeline = sequence.timeline(now, self._load.interference)
        self._bill.close(sequence)
        if self.idle and not self._flights:
            self._bill.idle()
        return timeline

    def expire(self, now: float) -> list[FailEvent]:
        """Give up those that have waited to begin for longer than they may."""
        events: list[FailEvent] = []
        for sequence in self._expiries.due(now):
            self.refused["timeout"] += 1
            timeout = sequence.terms.queue_timeout or 0.0
            message = f"the request has waited for {timeout:g} s to begin, as long as it may; try again later"
            retry_after = self._admission.drained(len(self._running), self._load)
            together = (*self._siblings.behind(sequence.id), sequence)
            events += [FailEvent(one.id, message, retry_after, self.end(one.id, now)) for one in together]
        return events

    def schedule(self, now: float) -> StepPlan | None:
        """The next step, or None when there is nothing to compute: reserves blocks, preempts, admits.

        Every plan must be applied before the next is asked for, but for one :meth:`schedule_ahead`.
        """
        assert not self._flights, "the plan before has not been applied"
        return self._plan(Assembly(StepBudget(self.cost, self._attention, self._config.max_step_tokens), now))

    def schedule_ahead(self, now: float) -> StepPlan | None:
        """The step after the one that is computed, before what that gives is known; None where that cannot be done
        (then it is for :meth:`schedule`, later), or where there may be nothing to compute.

        Admits, but nobody loses a place by it. Asked for once for each step, while no other is computed.
        """
        (flight,) = self._flights
        if not flight.followable:
            return None
        budget = StepBudget(self.cost, self._attention, self._config.max_step_tokens)
        step = Assembly(budget, now, begins=max(now, flight.began + flight.predicted))
        step.ending = flight.presume(self._load.held)
        return self._plan(step)

    def _plan(self, step: Assembly) -> StepPlan | None:
        budget, load, ending, drafts = step.budget, self._load, step.ending, Drafted()
        self._tenants.tick(step.now)
        decoding = [s for s in self._running if len(s.tokens) - s.computed == 1]
        if ending:
            decoding = [s for s in decoding if s not in ending]
        if step.ahead and not self._decode.has_blocks(decoding):
            return None
        mixed = len(decoding) + len(ending) != len(self._running)
        if mixed:
            decoding = self._decode.yielding(decoding, step)
        lost = self._decode.fill(decoding, step)
        decode = budget.predicted if step.slices else 0.0
        load.decode = self._decode.seconds(step) if step.resting else decode
        bounded = mixed or self._queue or self.speculation is not None
        limit = self._pace.seconds(decode, step.begins) if bounded else None
        if (speculation := self.speculation) is not None and not lost:
            drafted = speculation.forgo(step, decode) if step.ahead else speculation.draft(step, decode, limit)
            if drafted is None:
                return None
            drafts, decode = drafted, drafted.seconds
        if mixed or lost:
            step.prefilling = [s for s in self._running if len(s.tokens) - s.computed != 1]
        backlog = self._fill(step, limit, lost=lost)
        if not step.slices and step.resting:
            self._decode.fill(list(step.resting), step)  # the prompt they rested for found no room
        if not step.slices:
            assert step.ahead or not (self._running or self._queue), "sequences wait but none can run"
            return None
        self.shape = budget.shape
        predicted = budget.predicted if step.prefilling else decode
        part = 1 - decode / predicted if predicted > 0 else 0.0
        plan = StepPlan(tuple(step.slices.values()), tuple(self._places.started), tuple(self._ended))
        self._places.started, self._ended = [], []
        sequences = [self._sequences[name] for name in step.slices]
        self._flights.append(
            Flight(plan, sequences, budget.shape, step.now, predicted, part, backlog, drafts, step.wanting)
        )
        return plan

    def _fill(self, step: Assembly, limit: float | None, *, lost: bool) -> bool:
        """Let others in, and add chunks of prompts. Returns whether timely ones, but for those held back, wanted
        more."""
        load, part = self._load, self._tenants.part
        load.full = load.capped = closed = self._places.closed_until(step.now, len(step.ending)) > step.now
        if not step.prefilling and (closed or not self._queue):
            return closed and self._queue.timely > 0
        step.budget.open(limit)
        self._tenants.tell_apart(step.prefilling)
        if not lost:
            self._places.admit(step)
        computed = any(s.tier == TIMELY and part(s.terms.tenant) == 1 for s in step.prefilling)
        backlog = computed or (load.capped and self._queue.timely > 0)
        self._prefill.fill(step)
        return backlog

    def apply(self, plan: StepPlan, result: StepResult, now: float) -> list[Event]:
        """Advance by what ``plan`` computed until ``now``; sequences ended meanwhile are passed over."""
        flight = self._flights.popleft()
        assert flight.plan is plan, "plans are applied in their order"
        if self._flights:
            self._flights[0].began = max(self._flights[0].began, now)
        seconds = max(0.0, now - flight.began)
        self._load.step += 0.1 * (seconds - self._load.step)
        self._load.interference += seconds * flight.prefill_part
        left = dict.fromkeys(s for one in (flight, *self._flights) for s in one.left)
        held = [*self._running, *left] if left else self._running
        self._bill.step(flight.shape, flight.sequences, plan.slices, held, flight.began, now)
        events: list[Event] = []
        samples, timely = flight.samples(result), 0.0
        for sequence, part in zip(flight.sequences, plan.slices, strict=True):
            if self._sequences.get(part.id) is not sequence:
                self._bill.close(sequence)  # it ended meanwhile, and perhaps another of the same id came
                continue
            if part.id in result.failed:
                timeline = self.end(part.id, now)
                events.append(FailEvent(part.id, result.failed[part.id], timeline=timeline))
                continue
            count = len(part.tokens) - part.drafted
            if not part.sample:
                timely += self._progress.advance(sequence, part.start, count, len(sequence.tokens) - part.start, now)
                continue
            if flight.presumed:
                sequence.tokens.pop()  # it is known now
            got = samples[part.id]
            used, finish, stop = sequence.extend(got)
            timely += self._progress.advance(sequence, part.start, count + len(used) - 1, count, now)
            self._tenants.charge(sequence.terms.tenant, OUTPUT_CHARGE * len(used))
            if self.speculation is not None and count == 1:
                self.speculation.learn(flight.drafts, sequence, len(got) - 1, len(used))
            if sequence.first_token is None:
                sequence.first_token = now
                sequence.phases.enter("decode", now, self._load.interference)
            timeline = self.end(part.id, now, finished=True) if finish else None
            events.append(TokenEvent(part.id, used, finish, stop, sequence.cached, sequence.queued, timeline))
        if self.speculation is not None:
            self.speculation.close_step(flight.drafts)
        if flight.backlog:
            self._forecast.progress(timely, seconds)
        if self.idle and not self._flights:
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
        unknown = {s.id for s in self._sequences.values() if NEXT_TOKEN in s.tokens}
        known = [f for f in self._flights if f.presumed]
        assert len(self._flights) <= 2 and known in ([], [self._flights[0]] if self._flights else [])
        assert unknown <= {part.id for flight in known for part in flight.plan.slices if part.sample}
