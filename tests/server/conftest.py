"""A server on a fake engine, called without sockets, and a real one on a free port."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import msgspec
import pytest

from tenfold.core.clock import Clock
from tenfold.model.chat import ChatTemplate
from tenfold.server.app import application
from tenfold.server.config import ServerConfig
from tenfold.server.doors import Doors
from tenfold.server.listener import url_of
from tenfold.server.run import Sockets, bind
from tenfold.server.service import Service
from tenfold.server.text import TextCodec
from tests.server.fakes import INFO, ByteTokenizer, FakeEngine, PlainTemplate

T = TypeVar("T")


def in_time(look: Callable[[], T], enough: Callable[[T], bool]) -> T:
    """What ``look`` sees once it is ``enough``, or after ten seconds: a server counts an answer when it is out, and the
    next request may come before that."""
    end = time.monotonic() + 10
    while not enough(seen := look()) and time.monotonic() < end:
        time.sleep(0.01)
    return seen


def make_service(
    engine: FakeEngine,
    *,
    loaded: bool = True,
    template: str | bool = True,
    tokenizer: ByteTokenizer | None = None,
    max_context: int | None = None,
    embedding_size: int = INFO.embedding_size,
    clock: Clock | None = None,
    **settings: Any,
) -> Service:
    """A service named ``m`` over ``engine``; ``template`` is the text of one, or whether there is a plain one."""
    service = Service(ServerConfig(**{"names": ("m", "m-alias"), **settings}), engine, clock=clock)
    if loaded:
        written = ChatTemplate(template) if isinstance(template, str) else PlainTemplate() if template else None
        info = msgspec.structs.replace(INFO, max_context=max_context or INFO.max_context, embedding_size=embedding_size)
        service.load(info, TextCodec(tokenizer or ByteTokenizer(), written))
    return service


@asynccontextmanager
async def client_of(engine: FakeEngine, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client straight into the application."""
    transport = httpx.ASGITransport(application(make_service(engine, **settings)), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def ask() -> Callable[..., httpx.Response]:
    """One request to a fresh server: ``ask(method, path, engine=…, settings=…, **httpx)``."""

    def call(
        method: str, path: str, *, engine: FakeEngine | None = None, settings: dict[str, Any] | None = None, **more: Any
    ) -> httpx.Response:
        async def run() -> httpx.Response:
            async with client_of(engine or FakeEngine(), **(settings or {})) as client:
                return await client.request(method, path, **more)

        return asyncio.run(run())

    return call


class LiveServer:
    """A real server in a thread of its own, with the engine in that thread's loop."""

    def __init__(self, engine: FakeEngine, **settings: Any) -> None:
        self._engine = engine
        self._settings = settings
        admin = bind("127.0.0.1", 0) if settings.get("admin") else None
        self._sockets = Sockets(bind("127.0.0.1", 0), admin)
        self.url = url_of(self._sockets.public, "https" if settings.get("tls") else "http")
        self.admin = url_of(admin) if admin else ""
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        service = make_service(self._engine, **self._settings)
        self.doors = Doors(service, self._sockets)
        self.loop = asyncio.get_running_loop()
        self._started.set()
        await self.doors.serve()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=10)

    def stop(self) -> None:
        """Begin to stop; call it in the server's loop."""
        self.doors.stop()

    def __enter__(self) -> "LiveServer":
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop)
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()


@pytest.fixture
def live() -> Callable[..., LiveServer]:
    """``with live(engine, **settings) as server:`` serves on a free port."""
    return LiveServer
