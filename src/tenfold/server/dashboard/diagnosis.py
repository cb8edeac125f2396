"""The doctor beside the server: what it says of the last minute, for whoever looks."""

import asyncio
from collections import deque
from dataclasses import dataclass, replace

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
_APART = 5.0  # seconds between looks: who asks sooner is told by the last one
_STEPS = 4096
_ANSWERS = 100


@dataclass(frozen=True, slots=True)
class _Look:
    """What all viewers share: ``evidence`` without answers, gathered ``at``. ``whole``: there was none before it."""

    at: float
    evidence: Evidence
    whole: bool


class Diagnosis:
    """Looks only when asked: the counters of the last looks are the begin of the next ones' time.

    However many ask, the engine is looked at once in a while; what follows is thought over once for each viewer.
    """

    def __init__(self, engine: EngineClient, metrics: Metrics, log: RequestLog, clock: Clock) -> None:
        self._engine = engine
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._counts: deque[tuple[float, Counts]] = deque(maxlen=int(_WINDOW / _APART) + 1)
        self._seen: _Look | None = None
        self._said: dict[str | Everyone | None, DoctorReport] = {}  # of that look, by viewer
        self._looking = asyncio.Lock()

    async def report(self, viewer: str | Everyone | None) -> DoctorReport:
        """Of the answers that ``viewer`` may see. Raises EngineUnavailable, and NotFound without a cost model."""
        async with self._looking:
            now = self._clock.now()
            if self._seen is None or now - self._seen.at >= _APART:
                self._seen = await self._look(now)
                self._said = {}
            said = self._said.get(viewer)
            if said is None:
                said = self._said[viewer] = await self._think(self._seen, viewer)
            return said

    async def _look(self, now: float) -> _Look:
        health = self._engine.health()
        if health.state != "ready":
            raise EngineUnavailable(f"the engine is {health.state}: there is nothing to diagnose")
        stats = await self._engine.stats()
        text = self._metrics.render(health, stats, None, tenfold_version()).decode()
        after = await asyncio.to_thread(read_counts, text)
        while self._counts and now - self._counts[0][0] > _WINDOW:
            self._counts.popleft()
        since, before = self._counts[0] if self._counts else (None, Counts())
        seen = await self._engine.inspect(_STEPS)
        self._counts.append((now, after))
        seconds = _WINDOW if since is None else now - since
        steps, past = steps_of(seen.steps, seen.now, seconds)
        evidence = Evidence(
            seconds=seconds,
            machine=seen.learned(),
            limits=seen.limits,
            steps=steps,
            choices=[],
            before=before,
            after=after,
            calibrated=seen.calibrated,
            past=past,
            here=True,
        )
        return _Look(now, evidence, since is None)

    async def _think(self, look: _Look, viewer: str | Everyone | None) -> DoctorReport:
        choices = [choice for one in self._log.latest(_ANSWERS, viewer) for choice in one.choices]
        evidence = replace(look.evidence, choices=choices)

        def findings() -> list[Finding]:
            from tenfold.doctor.server import diagnose  # imports kernels: nobody else here needs them

            found = diagnose(evidence)
            return of_the_past(found, evidence.seconds) if evidence.past else found

        return DoctorReport(
            findings=await asyncio.to_thread(findings), seconds=None if look.whole else round(evidence.seconds, 1)
        )
