"""The engine in a thread of this process."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from queue import SimpleQueue

from tenfold.core.clock import Clock, WallClock
from tenfold.core.config import EngineConfig, SchedulerConfig
from tenfold.core.errors import EngineUnavailable
from tenfold.core.request import EngineInfo, EngineRequest, EngineStats, RequestOutput
from tenfold.engine.build import Engine, build_engine
from tenfold.engine.client import Health, State
from tenfold.engine.inspection import PLAIN, Detail, Inspection
from tenfold.engine.loop import Inbox, run_loop
from tenfold.engine.streams import Streams
from tenfold.engine.wire import Command, Configure, Report, Stop


class LocalEngine:
    """An :class:`~tenfold.engine.client.EngineClient` without a second process: for benchmarks and embedding."""

    def __init__(self, config: EngineConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or WallClock()
        self._inbox: Inbox = SimpleQueue()
        self._streams = Streams(self._send)
        self._thread: threading.Thread | None = None
        self._progress = self._clock.now()
        self._failure: str | None = None

    async def start(self) -> EngineInfo:
        """Load the model and start the thread."""
        loop = asyncio.get_running_loop()
        engine = await asyncio.to_thread(build_engine, self._config)
        self._thread = threading.Thread(target=self._run, args=(engine, loop), daemon=True)
        self._thread.start()
        return engine.info

    async def stop(self) -> None:
        """Abort what runs and end the thread."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._inbox.put(Stop())
            await asyncio.to_thread(thread.join)

    def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        """See :meth:`EngineClient.submit`."""
        return self._streams.submit(request)

    async def stats(self) -> EngineStats:
        """As of the latest report."""
        if self._streams.stats is None:
            raise EngineUnavailable("the engine has not reported yet; try again in a moment")
        return self._streams.stats

    async def inspect(self, steps: int = 0, detail: Detail = PLAIN) -> Inspection:
        """See :meth:`EngineClient.inspect`."""
        return await self._streams.inspect(steps, detail)

    def configure(self, limits: SchedulerConfig) -> None:
        """See :meth:`EngineClient.configure`."""
        self._config = replace(self._config, scheduler=limits)
        if self._thread is not None:
            self._send(Configure(limits))

    def health(self) -> Health:
        """``failed`` once the thread died, ``starting`` before it runs."""
        state: State = "ready" if self._thread is not None else "starting"
        if self._failure is not None:
            state = "failed"
        return Health(state=state, progress_age=self._clock.now() - self._progress, reason=self._failure)

    def _send(self, command: Command) -> None:
        if self._failure is not None:
            raise EngineUnavailable(f"the engine failed: {self._failure}")
        self._inbox.put(command)

    def _run(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        def report(message: Report) -> None:
            loop.call_soon_threadsafe(self._dispatch, message)

        try:
            run_loop(engine.core, self._inbox, report, self._clock)
        except Exception as error:
            loop.call_soon_threadsafe(self._die, repr(error))
            raise

    def _dispatch(self, message: Report) -> None:
        self._progress = self._clock.now()
        self._streams.dispatch(message)

    def _die(self, reason: str) -> None:
        self._failure = reason
        self._streams.fail_all(f"the engine failed: {reason}")
