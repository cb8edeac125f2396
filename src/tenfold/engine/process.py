"""The engine in a supervised child process, so that HTTP work and the loop do not share an interpreter lock."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from tenfold.core.clock import Clock, WallClock
from tenfold.core.config import EngineConfig, SchedulerConfig
from tenfold.core.errors import EngineUnavailable, TenfoldError
from tenfold.core.request import EngineInfo, EngineRequest, EngineStats, RequestOutput
from tenfold.engine.client import Health, State
from tenfold.engine.hatch import Child
from tenfold.engine.inspection import PLAIN, Detail, Inspection
from tenfold.engine.streams import Streams
from tenfold.engine.wire import (
    Abort,
    Command,
    Configure,
    Failure,
    Outputs,
    Ready,
    Report,
    Seen,
    Stop,
    Unframer,
    frame,
    to_error,
)

_log = logging.getLogger("tenfold.engine")

STUCK_AFTER = 30.0  # seconds without a step or heartbeat
END_STUCK = 2.0  # times that long, and a stuck child is ended, so that another can serve
STEADY_AFTER = 60.0  # a child that lived this long died by accident: the next one starts without delay
MAX_DELAY = 30.0  # seconds before a further start of what keeps dying
STOP_GRACE = 5.0
PATIENCE = 5.0  # for an answer about the engine itself


class EngineProcess:
    """An :class:`~tenfold.engine.client.EngineClient` that restarts its child when it dies.

    While there is no child, requests fail at once with EngineUnavailable; so do those in flight when it dies.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        first: Child | None = None,
        stuck_after: float = STUCK_AFTER,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        self._next = first  # a child that was started ahead
        self._stuck_after = stuck_after
        self._clock = clock or WallClock()
        self._encoder = msgspec.msgpack.Encoder()
        self._streams = Streams(self._send)
        self._child: Child | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._state: State = "starting"
        self._reason: str | None = None
        self._restarts = 0
        self._told = config.scheduler  # the limits that the child knows
        self._stopping = asyncio.Event()
        self._progress = self._clock.now()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> EngineInfo:
        """Start the child; returns when its model is loaded, raises what kept it from loading."""
        assert self._supervisor is None, "start() is called once"
        ready: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(ready))
        return await ready

    async def stop(self) -> None:
        """Tell the child to end, and end it if it does not."""
        self._stopping.set()
        self._state, self._reason = "failed", "stopped"
        child = self._child
        if child is not None and child.returncode is None:
            if self._writer is None:
                child.kill()  # still loading: it listens to nobody yet, and has nothing to finish
            else:
                self._send(Stop())
            await _end(child, STOP_GRACE)
        if self._supervisor is not None:
            await self._supervisor

    def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        """See :meth:`EngineClient.submit`."""
        if self.health().state == "stuck":
            raise EngineUnavailable(f"the engine has shown no progress for {self._age():.0f} s; try again later")
        return self._streams.submit(request)

    async def stats(self) -> EngineStats:
        """As of the latest report, at most a heartbeat old."""
        if self._streams.stats is None or self._state != "ready":
            raise EngineUnavailable(self._why())
        return self._streams.stats

    async def inspect(self, steps: int = 0, detail: Detail = PLAIN) -> Inspection:
        """See :meth:`EngineClient.inspect`."""
        try:
            return await asyncio.wait_for(self._streams.inspect(steps, detail), PATIENCE)
        except TimeoutError:
            raise EngineUnavailable(f"the engine has not answered within {PATIENCE:g} s; try again later") from None

    def configure(self, limits: SchedulerConfig) -> None:
        """See :meth:`EngineClient.configure`."""
        self._config = replace(self._config, scheduler=limits)
        self._tell_limits()

    def health(self) -> Health:
        """Ready only while the loop shows progress."""
        age = self._age()
        state: State = "stuck" if self._state == "ready" and age > self._stuck_after else self._state
        return Health(state=state, progress_age=age, restarts=self._restarts, reason=self._reason)

    def _age(self) -> float:
        return self._clock.now() - self._progress

    def _why(self) -> str:
        detail = f": {self._reason}" if self._reason else ""
        return f"the engine is {self._state}{detail}; try again later"

    def _tell_limits(self) -> None:
        """Where the child runs, and was started with others."""
        if self._writer is not None and self._told != self._config.scheduler:
            self._told = self._config.scheduler
            self._send(Configure(self._told))

    def _send(self, command: Command) -> None:
        # That a socket broke is seen here before its reader tells; uvloop raises then, where asyncio drops the bytes.
        broken = self._writer is not None and self._writer.is_closing()
        if self._writer is not None and not broken:
            self._writer.write(frame(self._encoder.encode(command)))
        elif not isinstance(command, Stop | Abort):
            raise EngineUnavailable("the engine's process has just ended; try again later" if broken else self._why())

    async def _supervise(self, ready: asyncio.Future[EngineInfo]) -> None:
        """Run one child after another until told to stop; the first one has to start."""
        attempts = 0
        while True:
            began = self._clock.now()
            try:
                await self._run_child(ready)
            except TenfoldError as error:
                self._reason = str(error)
                if not ready.done():
                    self._state = "failed"
                    ready.set_exception(error)
                    return
            if self._state == "failed":
                if not ready.done():
                    ready.set_exception(EngineUnavailable("the engine was stopped while it started"))
                return
            attempts = 1 if self._clock.now() - began >= STEADY_AFTER else attempts + 1
            self._restarts += 1
            self._state = "restarting"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(0.1 * 2 ** min(attempts - 1, 10), MAX_DELAY))
            if self._stopping.is_set():
                return

    async def _run_child(self, ready: asyncio.Future[EngineInfo]) -> None:
        """One child's life, from start to exit; raises what it failed with, if it said."""
        if self._stopping.is_set():
            return
        self._child, self._next = self._next or Child(), None
        self._told = self._config.scheduler
        with contextlib.suppress(OSError):  # a dead child shows when we read
            self._child.connection.sendall(frame(self._encoder.encode(self._config)))
        reader, writer = await asyncio.open_connection(sock=self._child.connection)
        decoder = msgspec.msgpack.Decoder(Report)
        unframer = Unframer()
        watchdog = asyncio.create_task(self._end_when_stuck(self._child))
        try:
            with contextlib.suppress(ConnectionError):  # also where we wrote to a child that was dead already
                while data := await reader.read(1 << 16):
                    for payload in unframer.feed(data):
                        self._handle(decoder.decode(payload), writer, ready)
        finally:
            watchdog.cancel()
            self._writer = None
            writer.close()
            await _end(self._child, 1.0)
            if self._state != "failed":
                self._state = "restarting"
                self._reason = f"the engine process ended with code {self._child.returncode}"
                if not self._stopping.is_set():
                    _log.error("%s; %d requests fail with it", self._reason, self._streams.open)
            self._streams.fail_all(self._why())
        if not ready.done() and self._state != "failed":
            raise EngineUnavailable(f"{self._reason} before the model was loaded; see its log above")

    async def _end_when_stuck(self, child: Child) -> None:
        """Kill a child that has been stuck for long: what waits for it gets an answer, and another takes its place."""
        patience = END_STUCK * self._stuck_after
        while (left := patience - self._age()) > 0 or self._state != "ready":  # noqa: ASYNC110 (nothing signals this)
            await asyncio.sleep(max(left, self._stuck_after / 10))
        _log.error("the engine has shown no progress for %.0f s and is ended", self._age())
        child.kill()

    def _handle(self, report: Report, writer: asyncio.StreamWriter, ready: asyncio.Future[EngineInfo]) -> None:
        if isinstance(report, Ready) or (isinstance(report, Outputs) and report.progress):
            self._progress = self._clock.now()
        if isinstance(report, Ready) and self._stopping.is_set():
            return
        if isinstance(report, Ready):
            if ready.done():
                _log.warning("the engine is ready again (restart %d)", self._restarts)
            self._writer, self._state, self._reason = writer, "ready", None
            self._tell_limits()
            if not ready.done():
                ready.set_result(report.info)
        elif isinstance(report, Failure) and report.id is None:
            raise to_error(report)
        elif isinstance(report, Outputs | Failure | Seen):
            self._streams.dispatch(report)


async def _end(child: Child, grace: float) -> None:
    """Wait for the child to end by itself, for ``grace`` seconds; then end it."""
    ended = asyncio.create_task(asyncio.to_thread(child.wait))
    try:
        await asyncio.wait((ended,), timeout=grace)
    finally:
        if not ended.done():
            child.kill()
    await ended
