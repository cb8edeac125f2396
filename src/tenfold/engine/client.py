"""The seam between those who want tokens (server, LLM, bench) and the one engine loop."""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec

from tenfold.core.config import SchedulerConfig
from tenfold.core.request import EngineInfo, EngineRequest, EngineStats, RequestOutput
from tenfold.engine.inspection import PLAIN, Detail, Inspection

State = Literal["starting", "ready", "stuck", "restarting", "failed"]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The truth about the engine: ``ready`` is the only healthy state.

    ``stuck``: alive, has work, and has finished no step for ``progress_age`` seconds. ``restarting``: it died
    and is being started again, as often as it takes. ``failed``: it could not start, or was stopped; ``reason``
    says more.
    """

    state: State
    progress_age: float  # seconds since the engine last showed progress (a step, or an idle heartbeat)
    restarts: int = 0
    reason: str | None = None


class EngineClient(Protocol):
    """An engine, in this process or in a child process. All methods are for one asyncio loop."""

    async def start(self) -> EngineInfo:
        """Load the model and start the loop. Raises ModelError or ConfigError when it cannot run."""
        ...

    async def stop(self) -> None:
        """Abort what runs and shut down; idempotent."""
        ...

    def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        """Hand over a request and iterate its outputs until each of its n samples has finished.

        Raises InvalidRequest or Overloaded before the first output, EngineUnavailable at any time.
        Closing the iterator early (``aclose``, cancellation) aborts the request.
        """
        ...

    async def stats(self) -> EngineStats:
        """Counters and gauges of the latest step; raises EngineUnavailable when there is no engine."""
        ...

    async def inspect(self, steps: int = 0, detail: Detail = PLAIN) -> Inspection:
        """What the engine knows of its machine, with its last ``steps`` steps, and what ``detail`` asks for.

        Raises EngineUnavailable.
        """
        ...

    def configure(self, limits: SchedulerConfig) -> None:
        """Other limits from the next step and request on, also for an engine that is started again.

        Policy, tenants and speculation must be what they were. What was accepted keeps what it was promised.
        """
        ...

    def health(self) -> Health:
        """Immediate, never blocks."""
        ...
