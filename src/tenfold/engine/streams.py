"""Which caller waits for which request: shared by both forms of the client."""

import asyncio
from collections.abc import AsyncIterator, Callable

from tenfold.core.errors import EngineUnavailable, InvalidRequest, TenfoldError
from tenfold.core.request import EngineRequest, EngineStats, RequestOutput
from tenfold.engine.inspection import PLAIN, Detail, Inspection
from tenfold.engine.wire import Abort, Command, Failure, Look, Outputs, Report, Seen, Submit, to_error

_Item = RequestOutput | TenfoldError


class Streams:
    """Routes the loop's reports to the requests' iterators. For one asyncio loop."""

    def __init__(self, send: Callable[[Command], None]) -> None:
        self._send = send
        self._queues: dict[str, asyncio.Queue[_Item]] = {}
        self._looks: dict[str, asyncio.Future[Inspection]] = {}
        self._looked = 0
        self.stats: EngineStats | None = None

    @property
    def open(self) -> int:
        """Requests somebody waits for."""
        return len(self._queues)

    async def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        """Send the request and iterate its outputs; leaving early aborts it."""
        if request.id in self._queues:
            raise InvalidRequest(f"request id {request.id!r} is in use; ids must be unique", param="id")
        queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._queues[request.id] = queue
        unfinished = request.params.n
        try:
            self._send(Submit(request))
            while unfinished:
                item = await queue.get()
                if isinstance(item, TenfoldError):
                    unfinished = 0
                    raise item
                if item.finish is not None:
                    unfinished -= 1
                yield item
        finally:
            del self._queues[request.id]
            if unfinished:
                self._send(Abort(request.id))

    async def inspect(self, steps: int, detail: Detail = PLAIN) -> Inspection:
        """Ask the loop what it knows."""
        self._looked += 1
        name = f"look {self._looked}"
        seen: asyncio.Future[Inspection] = asyncio.get_running_loop().create_future()
        self._looks[name] = seen
        try:
            self._send(Look(name, steps, detail))
            return await seen
        finally:
            del self._looks[name]

    def dispatch(self, report: Report) -> None:
        """Hand a report to those it concerns."""
        if isinstance(report, Seen):
            if (seen := self._looks.get(report.id)) is not None and not seen.done():
                seen.set_result(report.inspection)
        elif isinstance(report, Outputs):
            if report.stats is not None:
                self.stats = report.stats
            for output in report.outputs:
                if queue := self._queues.get(output.id):
                    queue.put_nowait(output)
        elif isinstance(report, Failure) and report.id is not None:
            if queue := self._queues.get(report.id):
                queue.put_nowait(to_error(report))
            elif (seen := self._looks.get(report.id)) is not None and not seen.done():
                seen.set_exception(to_error(report))

    def fail_all(self, message: str) -> None:
        """The engine is gone: every iterator raises EngineUnavailable at once."""
        for queue in self._queues.values():
            queue.put_nowait(EngineUnavailable(message))
        for seen in self._looks.values():
            if not seen.done():
                seen.set_exception(EngineUnavailable(message))
