"""One HTTP request and its answer, straight on ASGI: a stream event must cost one ``send`` and nothing else."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import msgspec
from starlette.types import Message, Receive, Scope, Send

from tenfold.core.logs import told
from tenfold.observe.requests import RequestReport
from tenfold.server.errors import ApiError, Headers, HttpError

T = TypeVar("T")

JSON = b"application/json"
_LOGGED = 65_536  # bytes of a body that are logged, where bodies are
_prompts = logging.getLogger("tenfold.prompts")
_DRAIN_FACTOR = 8  # how much of an over-long body is read and dropped, so that its sender gets to see the answer


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""


class Exchange:
    """A request, its id, and the means to answer it once.

    ``status`` is 0 until the answer has begun, ``route`` the path's pattern once there is one, ``error_body`` how its
    errors are written, ``tenant`` whose API key it came with; an ``operator`` sees what is every tenant's. ``told``:
    headers that the answer has besides its own; ``report``: what is known of it once it has ended. ``log_body``: write
    the body to the log.
    ``body_limit`` is in bytes, ``body_timeout`` in seconds.
    """

    __slots__ = (
        "_body_limit",
        "_body_timeout",
        "_log_body",
        "_receive",
        "_send",
        "error_body",
        "headers",
        "operator",
        "report",
        "request_id",
        "route",
        "scope",
        "status",
        "tenant",
        "told",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        body_limit: int,
        body_timeout: float,
        log_body: bool = False,
    ) -> None:
        self.scope = scope
        self.request_id = request_id
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.status = 0
        self.route = "none"
        self.error_body: Callable[[ApiError], bytes] = ApiError.body
        self.tenant: str | None = None
        self.operator = False
        self.told: Headers = ()
        self.report: RequestReport | None = None
        self._log_body = log_body
        self._receive = receive
        self._send = send
        self._body_limit = body_limit
        self._body_timeout = body_timeout

    async def json_body(self) -> bytes:
        """The whole body. Raises HttpError: 413 too large, 415 not JSON, 408 too slow."""
        kind = self.headers.get(b"content-type", JSON).split(b";")[0].strip().lower()
        if kind != JSON and not kind.endswith(b"+json"):
            raise HttpError(
                415,
                f"the body's content-type is {kind.decode('latin-1')[:80]!r}; send application/json",
                code="unsupported_media_type",
            )
        declared = self.headers.get(b"content-length", b"")
        size = int(declared) if declared.isdigit() and len(declared) < 20 else None
        hopeless = size is not None and (size > _DRAIN_FACTOR * self._body_limit or b"expect" in self.headers)
        if size is not None and size > self._body_limit and hopeless:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._body_timeout):
                body = await self._read()
        except TimeoutError:
            raise HttpError(
                408,
                f"the body did not arrive within {self._body_timeout:g} seconds",
                code="request_timeout",
                headers=((b"connection", b"close"),),
            ) from None
        if self._log_body:
            text = body[:_LOGGED].decode(errors="replace")
            _prompts.info("body of %s", self.route, extra=told(request_id=self.request_id, body=text))
        return body

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        more = True
        while more and size <= _DRAIN_FACTOR * self._body_limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self._body_limit:
                chunks.append(chunk)
            else:
                chunks.clear()
            more = message.get("more_body", False)
        if size > self._body_limit:
            raise self._too_large()
        return b"".join(chunks)

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            f"the body is larger than this server's limit of {self._body_limit} bytes",
            code="request_too_large",
            headers=((b"connection", b"close"),),
        )

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work``; when the client leaves first, cancel it and raise ClientGone once it has ended."""
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            return task.result()
        finally:
            for one in (task, watch):
                if not one.done():
                    one.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send_json(self, value: Any, status: int = 200) -> None:
        """Answer with ``value`` (or ready JSON bytes)."""
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        await self.send_bytes(body, JSON, status)

    async def send_bytes(self, body: bytes, kind: bytes, status: int = 200, headers: Headers = ()) -> None:
        """Answer with a whole body of a content type."""
        length = str(len(body)).encode()
        await self._start(status, ((b"content-type", kind), (b"content-length", length), *headers))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start_events(self) -> None:
        """Begin a stream of server-sent events."""
        await self._start(
            200,
            (
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
            ),
        )

    async def send_event(self, event: bytes, *, last: bool = False) -> None:
        """Send bytes of the stream; ``last`` ends it."""
        await self._send({"type": "http.response.body", "body": event, "more_body": not last})

    async def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        assert self.status == 0, "one answer per request"
        self.status = status
        message: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, *self.told, (b"x-request-id", self.request_id.encode())],
        }
        await self._send(message)
