"""The application in this process, on the tests' engine: asked by ASGI, or by bytes on a connection."""

import asyncio
from typing import Any

import msgspec
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from tenfold.core.errors import EngineUnavailable
from tenfold.server.anthropic.protocol import MessageErrorResponse
from tenfold.server.app import application
from tenfold.server.connection import BoundedProtocol, Bounds
from tenfold.server.listener import Listener
from tenfold.server.protocol import ErrorResponse
from tests.server.conftest import make_service
from tests.server.fakes import FakeEngine
from tests.server.templates import HERMES, LLAMA3, MISTRAL, THINKING

BOUNDS = Bounds(head=4096, patience=5.0, connections=10)
_ERRORS = {"/v1/messages": MessageErrorResponse, "/v1/messages/count_tokens": MessageErrorResponse}


class Inside:
    """Applications with templates of several families over one engine."""

    def __init__(self) -> None:
        self._engine = FakeEngine(burst=4)
        templates = (HERMES, LLAMA3, MISTRAL, THINKING)
        self._apps = [application(make_service(self._engine, template=one, max_context=512)) for one in templates]

    def ask(self, path: str, body: bytes, *, says: str | None, template: int) -> None:
        """One request to its end. Raises AssertionError for an answer that must not be."""
        self._engine.says, self._engine.fail_at = says, None
        sent = self._run(template, path, body, leave_after=None)
        status, data = _whole(sent)
        assert 200 <= status < 500, f"{path}: {status} {data[:300]!r}"
        headers = dict(sent[0]["headers"])
        if headers[b"content-type"].startswith(b"text/event-stream"):
            assert data.endswith(b"\n\n"), f"{path}: a stream that ends in the midst of an event"
            return
        assert int(headers[b"content-length"]) == len(data), f"{path}: another length than is told"
        answer = msgspec.json.decode(data)
        if status >= 400:
            error = msgspec.convert(answer, _ERRORS.get(path, ErrorResponse)).error
            assert error.message, f"{path}: an error without a message"

    def leave(self, path: str, body: bytes, *, after: int, fails: int | None, says: str | None) -> None:
        """A request whose client leaves ``after`` so many messages, and whose engine ``fails`` before an output."""
        engine = self._engine
        engine.says, engine.fail_at, engine.failure = says, fails, EngineUnavailable("gone")
        self._run(after % 4, path, body, leave_after=after)

    def _run(self, template: int, path: str, body: bytes, *, leave_after: int | None) -> list[dict[str, Any]]:
        engine = self._engine
        engine.requests.clear()
        engine.aborted.clear()
        sent = asyncio.run(_ask(self._apps[template], path, body, leave_after))
        assert engine.open == 0, f"{path}: {engine.open} requests still run"
        assert len(engine.aborted) <= len(engine.requests), f"{path}: aborted twice"
        starts = sum(message["type"] == "http.response.start" for message in sent)
        assert starts == 1 or (leave_after is not None and starts == 0), f"{path}: answered {starts} times"
        return sent


async def _ask(app: ASGIApp, path: str, body: bytes, leave_after: int | None) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    left = asyncio.Event()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked and not left.is_set():
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if leave_after is not None and len(sent) >= leave_after:
            left.set()
            await asyncio.sleep(0)

    if leave_after == 0:
        left.set()
    head = {b"content-type": b"application/json", b"content-length": str(len(body)).encode(), b"x-tenant": b"t"}
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": list(head.items()), "scheme": "http", "client": ("c", 1), "server": ("s", 1),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


def _whole(sent: list[dict[str, Any]]) -> tuple[int, bytes]:
    bodies = [message for message in sent if message["type"] == "http.response.body"]
    assert sent[0]["type"] == "http.response.start", "a body before its head"
    assert bodies and not bodies[-1].get("more_body"), "an answer without an end"
    return sent[0]["status"], b"".join(message.get("body", b"") for message in bodies)


class _Wire(asyncio.Transport):
    """What a connection writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        assert not self.closed, "written after the connection was closed"
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Nothing: there is nobody to pause."""

    def resume_reading(self) -> None:
        """The same."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Nothing: it is not asked for."""


class Door:
    """Connections to the application as uvicorn and we keep them, without sockets."""

    def __init__(self) -> None:
        self._engine = FakeEngine(burst=4)
        self._config = Listener(application(make_service(self._engine)), lambda: BOUNDS).config

    def send(self, pieces: list[bytes]) -> None:
        """Bytes, then the end. Raises AssertionError for an answer that must not be."""
        self._engine.requests.clear()
        self._engine.aborted.clear()
        asyncio.run(self._send(pieces))
        assert self._engine.open == 0, "a request still runs"

    async def _send(self, pieces: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        raised: list[Any] = []
        loop.set_exception_handler(lambda _, context: raised.append(context))
        state, wire = ServerState(), _Wire()
        connection = BoundedProtocol(lambda: BOUNDS, self._config, state, {}, loop)
        connection.connection_made(wire)
        for piece in pieces:
            if wire.closed:
                break
            if piece:
                connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(200):
            if not state.tasks:
                break
            await asyncio.sleep(0)
        wire.closed = True
        connection.connection_lost(None)
        if state.tasks:
            await asyncio.wait(tuple(state.tasks), timeout=3)
        assert not state.tasks, "a request of a connection that is lost goes on"
        assert not raised, raised
        for answer in bytes(wire.written).split(b"HTTP/1.1 ")[1:]:
            assert answer[:1] in b"1234", answer[:300]
