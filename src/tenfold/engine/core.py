"""The engine's only loop body: admit requests, compute a step, turn its tokens into text."""

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import Clock
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import ContextOverflow, InvalidRequest, NotFound
from tenfold.core.laps import NO_LAPS, Laps
from tenfold.core.plan import SampledToken, SequenceStart, StepPlan
from tenfold.core.request import EngineRequest, EngineStats, RequestOutput, SampleLogprobs, Timeline, TokenLogprob
from tenfold.cost.machine import Machine
from tenfold.cost.record import CostRecord
from tenfold.engine.calibration import Calibration
from tenfold.engine.inspection import LIVE, PLAIN, Detail, Inspection, records_of
from tenfold.engine.steps import Steps
from tenfold.engine.text import Detokenizer, SampleText
from tenfold.exec.executor import Executor
from tenfold.grammar.grammars import Grammars
from tenfold.sched.scheduler import Scheduler
from tenfold.sched.sequence import Event, FailEvent, Submission, TokenEvent
from tenfold.sched.terms import TermsOf

_log = logging.getLogger("tenfold.engine")
_WORTH_KEEPING = 200  # steps of this run: fewer change too little


class Vocabulary(Protocol):
    """What the engine asks of a tokenizer."""

    eos_ids: tuple[int, ...]

    def token_text(self, token: int) -> str:
        """A token's own text."""
        ...

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special: bool) -> Detokenizer:
        """An incremental detokenizer for text that follows ``prompt_ids``."""
        ...


@dataclass(slots=True)
class _Sample:
    request: EngineRequest
    index: int
    text: SampleText


class EngineCore:
    """Requests in, outputs out; every accepted sample ends exactly once.

    One thread makes the steps. Others may submit and abort meanwhile: while a step is launched, or waited for, nothing
    here changes, so they need not wait for its end.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        cache: CacheManager,
        executor: Executor,
        vocabulary: Vocabulary,
        clock: Clock,
        max_context: int,
        vocab_size: int,
        laps: Laps = NO_LAPS,
        calibration: Calibration | None = None,
        record: CostRecord | None = None,
        limits: SchedulerConfig | None = None,
        machine: Machine | None = None,
        grammars: Grammars | None = None,
        *,
        pools: bool = False,
    ) -> None:
        self._lock = threading.Lock()  # held but for the time in which a step is computed
        self._terms_of = TermsOf(limits or SchedulerConfig())
        self.laps = laps
        self._calibration = calibration
        self._record = record
        self._machine = machine
        self._grammars = grammars
        self._pools = pools  # whether the executor gives embeddings
        self._limits = limits or SchedulerConfig()
        self._scheduler = scheduler
        self._cache = cache
        self._steps = Steps(executor, scheduler, cache, clock)
        self._vocabulary = vocabulary
        self._clock = clock
        self._max_context = max_context
        self._vocab_size = vocab_size
        self._requests: dict[str, list[str]] = {}  # the sequences of each that have not ended
        self._samples: dict[str, _Sample] = {}
        self._generated = 0
        self._finished: Counter[str] = Counter()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute, and nothing being computed."""
        return self._scheduler.idle and not self._steps

    @property
    def calibrating(self) -> bool:
        """Whether there are steps left to measure, so that step times can be predicted."""
        return self._calibration is not None and not self._calibration.done

    def calibrate(self) -> None:
        """Make one such step. For when there is nothing else to do; a request ends it, and then it begins anew."""
        assert self._calibration is not None
        with self._lock:
            if not self.idle:
                return
            self._calibration.step()
        if self._calibration.done and not self._calibration.brief:
            self._keep()

    def close(self) -> list[RequestOutput]:
        """End everything, and keep what was learned of step times for the next start."""
        outputs = self.abort_all()
        while self._steps:
            self._end()
        if self._calibration is not None:
            self._calibration.stop()
        known = self._calibration is None or self._calibration.brief or self._calibration.done
        if known and self._scheduler.cost.observed >= _WORTH_KEEPING:
            self._keep()
        return outputs

    def submit(self, request: EngineRequest) -> None:
        """Queue a request. Raises InvalidRequest (ContextOverflow) or Overloaded, and then nothing is queued."""
        if (constraint := request.params.constraint) is not None:  # takes time, which steps need not wait for
            if self._grammars is None:
                raise InvalidRequest("this engine follows no constraints", param="response_format")
            self._grammars.matcher(constraint)
        if request.pooling is not None and not self._pools:
            raise InvalidRequest(
                "this engine gives no embeddings: its backend does not hand out hidden states; start the server with "
                "--backend cpu"
            )
        with self._lock:
            self._submit(request)

    def _submit(self, request: EngineRequest) -> None:
        if self._calibration is not None:
            self._calibration.stop()
        params = request.params
        terms = self._terms_of(request)
        now = self._clock.now()
        names = [request.id if i == 0 else f"{request.id}/{i}" for i in range(params.n)]
        max_length = self._check(request, names)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        eos_ids = () if params.ignore_eos else self._vocabulary.eos_ids
        for index, name in enumerate(names):
            start = SequenceStart(name, request.prompt_ids, params, seed + index, eos_ids, request.pooling)
            submission = Submission(
                start=start,
                arrival=request.arrival,
                max_length=max_length,
                stop_ids=frozenset((*eos_ids, *params.stop_token_ids)),
                salt=f"{request.tenant}\0{request.salt}" if request.tenant else request.salt,
                after=names[0] if index else None,
                terms=terms,
                draft_tokens=request.draft_tokens if request.pooling is None else 0,
            )
            try:
                self._scheduler.add(submission, now)
            except Exception:
                for added in names[:index]:
                    self._scheduler.end(added, now)
                    del self._samples[added]
                raise
            detokenizer = self._vocabulary.detokenizer(request.prompt_ids, skip_special=params.skip_special_tokens)
            self._samples[name] = _Sample(request, index, SampleText(detokenizer, params))
        self._requests[request.id] = names

    def configure(self, limits: SchedulerConfig) -> None:
        """Other limits, as :meth:`Scheduler.configure` takes them. What was accepted keeps what it was promised."""
        with self._lock:
            self._limits = limits
            self._terms_of = TermsOf(limits)
            self._scheduler.configure(limits)

    def abort(self, request_id: str) -> list[RequestOutput]:
        """End what is left of a request now; its blocks are free when this returns."""
        with self._lock:
            names, now = tuple(self._requests.get(request_id, ())), self._clock.now()
            timelines = [self._scheduler.end(name, now) for name in names]
            return [self._close(name, "abort", timeline) for name, timeline in zip(names, timelines, strict=True)]

    def abort_all(self) -> list[RequestOutput]:
        """End everything."""
        return [output for request in tuple(self._requests) for output in self.abort(request)]

    def step(self) -> list[RequestOutput]:
        """Wait for the end of a step, begun here if none is under way; gives what is new of each sample.

        With an executor that overlaps steps, the next one is planned and launched first, so that what is done here and
        until the next call keeps nobody from computing. Where that cannot be, it is launched when this one has ended.
        """
        steps, scheduler = self._steps, self._scheduler
        outputs = [] if steps else self._begin(scheduler.schedule)
        if not steps:
            return outputs
        if steps.overlaps:
            outputs += self._begin(scheduler.schedule_ahead)
        outputs += self._end()
        if steps.overlaps and not steps and not scheduler.idle:
            outputs += self._begin(scheduler.schedule)
        return outputs

    def _begin(self, schedule: Callable[[float], StepPlan | None]) -> list[RequestOutput]:
        """Launch what ``schedule`` plans."""
        with self._lock:
            now = self._clock.now()
            self._steps.begin(now)
            outputs = [self._output(event, now) for event in self._scheduler.expire(now)]
            plan = schedule(now)
            for name, reason in self._scheduler.preempted:
                _log.info("%s lost its place: %s", name, reason)
            self._scheduler.preempted.clear()
            if plan is None:
                return outputs
            step = self._steps.planned(plan, now)
        if not self._steps:
            self.laps.step(plan)
        self.laps.lap("schedule")
        self._steps.launch(plan, step)
        return outputs

    def _end(self) -> list[RequestOutput]:
        """Wait for the first step under way, and take what it gives. Others may submit and abort meanwhile."""
        steps, plan = self._steps, self._steps.first.plan
        result = steps.wait()
        if steps.overlaps:
            self.laps.lap("wait")
        with self._lock:
            now = self._clock.now()
            events = self._scheduler.apply(plan, result, now)
            self.laps.lap("apply")
            outputs = [self._output(event, now) for event in events]
            self.laps.lap("detokenize")
            steps.close(self._clock.now())
        if steps:
            self.laps.step(steps.first.plan)
        return outputs

    def _keep(self) -> None:
        if self._record is not None:
            self._record.save(self._scheduler.cost.fit)

    def inspect(self, steps: int = 0, detail: Detail = PLAIN) -> Inspection:
        """What is known of the machine, and the last ``steps`` steps. Raises NotFound where that was not asked for."""
        with self._lock:
            if self._machine is None:
                raise NotFound("this engine knows nothing of its machine")
            cost = self._scheduler.cost
            drafts = self._scheduler.speculation.profile if self._scheduler.speculation is not None else None
            machine = msgspec.structs.replace(self._machine, fit=cost.fit, drift=cost.drift, drafts=drafts)
            known = self._calibration is None or self._calibration.brief or self._calibration.done
            now, log = self._clock.now(), self._steps.log
            last, made = log.latest(steps, detail.after), log.made
            live = self._scheduler.live(now, LIVE) if detail.live else []
            pool = self._cache.map() if detail.pool else None
        return Inspection(
            now=now,
            calibrated=known,
            machine=machine,
            limits=self._limits,
            steps=records_of(last),
            made=made,
            live=live,
            pool=pool,
        )

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment."""
        with self._lock:
            return self._stats()

    def _stats(self) -> EngineStats:
        pool, scheduler, drafts = self._cache.pool, self._scheduler, self._scheduler.speculation
        return EngineStats(
            steps_total=self._steps.count,
            step_seconds_total=self._steps.seconds,
            prompt_tokens_total=scheduler.computed_prompt_tokens,
            cached_tokens_total=scheduler.cached_prompt_tokens,
            generated_tokens_total=self._generated,
            preemptions_total=dict(scheduler.preemptions),
            refused_total=dict(scheduler.refused),
            finished_total=dict(self._finished),
            running=scheduler.running,
            waiting=scheduler.waiting,
            waiting_by_class=scheduler.waiting_by_class,
            blocks_free=pool.free,
            blocks_cached=pool.cached,
            blocks_held=pool.held,
            blocks=pool.blocks,
            part_seconds_total=self.laps.totals(),
            step_cost_error=self._scheduler.cost.error,
            step_cost_drift=self._scheduler.cost.drift,
            busy_seconds_total=scheduler.busy_seconds,
            billed_seconds_total=scheduler.billed_seconds,
            draft_tokens_total=dict(drafts.drafted) if drafts is not None else {},
            accepted_tokens_total=dict(drafts.accepted) if drafts is not None else {},
            draft_seconds_total=drafts.spent if drafts is not None else 0.0,
            saved_seconds_total=drafts.saved if drafts is not None else 0.0,
        )

    def check(self) -> None:
        """Assert every invariant of the books (tests call this after every step)."""
        self._scheduler.check()
        left = [name for names in self._requests.values() for name in names]
        assert sorted(left) == sorted(self._samples), "a sample without its request, or the reverse"
        assert self._scheduler.idle == (not left)
        if not left and not (self._calibration and self._calibration.running):
            assert self._cache.pool.held == 0, "blocks are held though nothing runs"

    def _check(self, request: EngineRequest, names: Sequence[str]) -> int:
        """The request's greatest length in tokens, prompt included; raises what makes it impossible."""
        prompt, limit = len(request.prompt_ids), self._max_context
        if request.params.n > self._scheduler.most_together:
            raise InvalidRequest(
                f"n is {request.params.n}, but no more than {self._scheduler.most_together} may wait together: lower "
                "n, or start the server with a larger --max-waiting (or --max-waiting-per-tenant)",
                param="n",
            )
        if request.id in self._requests or any(name in self._samples for name in names):
            raise InvalidRequest(f"request id {request.id!r} is in use; ids must be unique", param="id")
        if not prompt:
            raise InvalidRequest("the prompt is empty; give at least one token", param="prompt")
        if bad := [t for t in request.prompt_ids if not 0 <= t < self._vocab_size]:
            raise InvalidRequest(
                f"token id {bad[0]} is not in the vocabulary (0 to {self._vocab_size - 1})",
                param="prompt",
            )
        if prompt >= limit:
            raise ContextOverflow(
                f"the prompt has {prompt} tokens, but prompt and output together may have {limit}: shorten it",
                param="prompt",
            )
        wanted = request.params.max_tokens
        capacity = self._cache.pool.blocks * self._cache.block_size
        if wanted is None and prompt < capacity:
            return min(limit, capacity)
        length = prompt + (wanted or 1)
        if length > limit:
            raise ContextOverflow(
                f"the prompt's {prompt} tokens and max_tokens {wanted} make {length}, but together they may be {limit}",
                param="max_tokens",
            )
        return length

    def _output(self, event: Event, now: float) -> RequestOutput:
        if isinstance(event, FailEvent):
            return self._close(event.id, "error", event.timeline, event.error, event.retry_after)
        sample = self._samples[event.id]
        if sample.request.pooling is not None:
            return self._embedding(event, sample)
        finish, stop, timeline = event.finish, event.stop, event.timeline
        tokens, text, found = event.samples, "", None
        for count, token in enumerate(tokens, 1):
            if count == len(tokens) and stop is not None and not sample.request.params.include_stop:
                break  # the ending id's own text is not part of the answer
            more, found = sample.text.push(token.token)
            text += more
            if found is not None:
                tokens = tokens[:count]  # what came behind a stop string never was
                break
        if finish and found is None:
            rest, found = sample.text.flush()
            text += rest
        if found is not None:
            timeline = self._scheduler.end(event.id, now, finished=True) or timeline
            finish = "stop"
            if timeline is not None and (unused := len(event.samples) - len(tokens)):
                timeline = msgspec.structs.replace(timeline, output_tokens=timeline.output_tokens - unused)
        self._generated += len(tokens)
        if finish:
            self._forget(event.id, finish)
        return RequestOutput(
            id=sample.request.id,
            index=sample.index,
            text=text,
            tokens=tuple([token.token for token in tokens]),
            logprobs=self._logprobs(tokens),
            finish=finish,
            stop=stop if found is None else found,
            cached_tokens=event.cached,
            queue_seconds=event.queued,
            timeline=timeline,
        )

    def _embedding(self, event: TokenEvent, sample: _Sample) -> RequestOutput:
        """The end of a sample whose text was not to be continued: the token that came is nobody's."""
        (token,), timeline = event.samples, event.timeline
        self._forget(event.id, "stop")
        return RequestOutput(
            id=sample.request.id,
            index=sample.index,
            embedding=token.embedding,
            finish="stop",
            cached_tokens=event.cached,
            queue_seconds=event.queued,
            timeline=None if timeline is None else msgspec.structs.replace(timeline, output_tokens=0),
        )

    def _close(
        self,
        name: str,
        finish: str,
        timeline: Timeline | None,
        error: str | None = None,
        retry_after: float | None = None,
    ) -> RequestOutput:
        """End a sample that got no token."""
        sample = self._samples[name]
        self._forget(name, finish)
        return RequestOutput(
            id=sample.request.id,
            index=sample.index,
            finish=finish,
            error=error,
            timeline=timeline,
            retry_after=retry_after,
        )

    def _forget(self, name: str, finish: str) -> None:
        request = self._samples.pop(name).request.id
        self._requests[request].remove(name)
        if not self._requests[request]:
            del self._requests[request]
        self._finished[finish] += 1

    def _logprobs(self, samples: Sequence[SampledToken]) -> tuple[SampleLogprobs, ...] | None:
        text, found = self._vocabulary.token_text, []
        for sample in samples:
            if sample.logprob is None:
                return None
            top = tuple(TokenLogprob(token, logprob, text(token)) for token, logprob in sample.top)
            found.append(SampleLogprobs(TokenLogprob(sample.token, sample.logprob, text(sample.token)), top))
        return tuple(found)
