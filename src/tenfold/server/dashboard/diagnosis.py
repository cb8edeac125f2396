"""The doctor beside the server: what it says of the last minute, for whoever looks."""

import asyncio
from collections import deque

from tenfold.core.clock import Clock
from tenfold.core.errors import EngineUnavailable
from tenfold.doctor.evidence import Counts, Evidence, read_counts, steps_of
from tenfold.doctor.finding import Finding, of_the_past
from tenfold.engine.client import EngineClient
from tenfold.observe.about import tenfold_version
from tenfold.observe.metrics import Metrics
from tenfold.observe.requests import Everyone, RequestLog
from tenfold.server.dashboard.protocol import DoctorReport

_WINDOW = 60.0  # seconds that are looked back
_APART = 5.0  # seconds between looks: who asks sooner gets what was said last
_STEPS = 4096
_ANSWERS = 100


class Diagnosis:
    """Looks only when asked: the counters of the last looks are the begin of the next ones' time."""

    def __init__(self, engine: EngineClient, metrics: Metrics, log: RequestLog, clock: Clock) -> None:
        self._engine = engine
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._looks: deque[tuple[float, Counts]] = deque(maxlen=int(_WINDOW / _APART) + 1)
        self._said: tuple[float, str | Everyone | None, DoctorReport] | None = None
        self._looking = asyncio.Lock()

    async def report(self, viewer: str | Everyone | None) -> DoctorReport:
        """Of the answers that ``viewer`` may see. Raises EngineUnavailable, and NotFound without a cost model."""
        async with self._looking:
            now = self._clock.now()
            if self._said is not None and self._said[1] == viewer and now - self._said[0] < _APART:
                return self._said[2]
            report = await self._look(now, viewer)
            self._said = now, viewer, report
            return report

    async def _look(self, now: float, viewer: str | Everyone | None) -> DoctorReport:
        health = self._engine.health()
        if health.state != "ready":
            raise EngineUnavailable(f"the engine is {health.state}: there is nothing to diagnose")
        stats = await self._engine.stats()
        text = self._metrics.render(health, stats, None, tenfold_version()).decode()
        after = await asyncio.to_thread(read_counts, text)
        while self._looks and now - self._looks[0][0] > _WINDOW:
            self._looks.popleft()
        since, before = self._looks[0] if self._looks else (None, Counts())
        if not self._looks or now - self._looks[-1][0] >= _APART:
            self._looks.append((now, after))
        seen = await self._engine.inspect(_STEPS)
        seconds = _WINDOW if since is None else now - since
        steps, past = steps_of(seen.steps, seen.now, seconds)

        def think() -> list[Finding]:
            from tenfold.doctor.server import diagnose  # imports kernels: nobody else here needs them

            evidence = Evidence(
                seconds=seconds,
                machine=seen.learned(),
                limits=seen.limits,
                steps=steps,
                choices=[choice for one in self._log.latest(_ANSWERS, viewer) for choice in one.choices],
                before=before,
                after=after,
                calibrated=seen.calibrated,
                past=past,
                here=True,
            )
            findings = diagnose(evidence)
            return of_the_past(findings, seconds) if past else findings

        return DoctorReport(
            findings=await asyncio.to_thread(think), seconds=None if since is None else round(seconds, 1)
        )
