"""Serve a model: start the engine, answer HTTP while it loads, stop both in order.

Nothing heavy is imported at the top: the engine's child process is started first, and loads the model while this
process imports what HTTP needs.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenfold.core.config import EngineConfig
from tenfold.core.errors import ConfigError
from tenfold.core.logs import set_up
from tenfold.core.request import EngineInfo
from tenfold.engine.client import EngineClient
from tenfold.engine.hatch import Child
from tenfold.server.config import ServerConfig
from tenfold.server.signals import Signals

if TYPE_CHECKING:
    from tenfold.server.reload import Reread
    from tenfold.server.service import Service

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Ready:
    """What is known once requests can be served. ``chats``: whether the model has a chat template. ``admin``: the
    operators' address, if they have one of their own."""

    url: str
    info: EngineInfo
    chats: bool
    admin: str | None = None


@dataclass(frozen=True, slots=True)
class Sockets:
    """Bound ones: for the API, and for operators where they have one of their own."""

    public: socket.socket
    admin: socket.socket | None = None


def bind(host: str, port: int, options: str = "--") -> socket.socket:
    """A bound socket, before anything slow is done. Raises ConfigError where the address cannot be had.

    ``options`` is how those that name the address begin.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host!r}: {error.strerror or error}; check {options}host") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is in use: choose another with {options}port, or stop the program that has it"
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} needs more rights: choose one from 1024 up with {options}port") from None
        raise ConfigError(
            f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}; check {options}host and "
            f"{options}port"
        ) from None
    sock.setblocking(False)
    return sock


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to be served, where, and whom to tell. ``reread`` gives the settings of a start now, for SIGHUP."""

    config: ServerConfig
    engine: EngineConfig
    sockets: Sockets
    on_ready: Callable[[Ready], None]
    reread: "Reread | None" = None


def run(setup: Setup, child: Child | None = None) -> None:
    """Serve bound sockets until SIGINT or SIGTERM, with the engine in ``child`` where one was started already.

    Raises ConfigError or ModelError where the server cannot start. The model must be on this machine: fetching it
    here would be done twice, by the engine's process and by this one.
    """
    import uvloop

    set_up(setup.engine.log_level, setup.engine.log_format)
    for talkative in ("asyncio", "uvicorn"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    if setup.config.log_prompts:
        logging.getLogger("tenfold.prompts").setLevel(logging.INFO)  # whatever else is written
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(setup, child))


async def _run(setup: Setup, child: Child | None) -> None:
    from tenfold.engine.process import EngineProcess

    with Signals() as signals:
        engine = EngineProcess(setup.engine, first=child)
        starting = asyncio.ensure_future(engine.start())
        while engine.pid is None and not starting.done():  # noqa: ASYNC110 (a few turns of the loop)
            await asyncio.sleep(0)  # until the child runs; the imports below then take place beside its own
        try:
            await _serve(setup, engine, starting, signals)
        finally:
            await engine.stop()
            await asyncio.gather(starting, return_exceptions=True)


async def _serve(setup: Setup, engine: EngineClient, starting: "asyncio.Future[EngineInfo]", signals: Signals) -> None:
    from tenfold.observe.spans import Spans
    from tenfold.server.doors import Doors
    from tenfold.server.listener import url_of
    from tenfold.server.reload import Reload
    from tenfold.server.service import Service
    from tenfold.server.texts import load_codec

    sockets = setup.sockets
    otlp = setup.config.otlp
    service = Service(setup.config, engine, tracer=Spans(otlp) if otlp is not None else None)
    doors = Doors(service, sockets)
    url = url_of(sockets.public, "https" if setup.config.tls else "http")
    admin = url_of(sockets.admin) if sockets.admin is not None else None
    serving = asyncio.ensure_future(doors.serve())
    stop = asyncio.ensure_future(signals.stop.wait())
    at_once = asyncio.ensure_future(signals.at_once.wait())
    loading = asyncio.gather(starting, asyncio.to_thread(load_codec, setup.engine.model, setup.engine.load_format))
    try:
        await asyncio.wait((loading, stop), return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and not stop.done():
            info, codec = loading.result()
            service.load(info, codec)
            signals.reloads(Reload(service, doors, setup.reread, setup.engine.scheduler))
            setup.on_ready(Ready(url, info, codec.template is not None, admin))
            await stop
            await _drain(service, at_once)
            # The engine ends what is left after the grace period: each client is told, none is cut off in silence.
            doors.stop()
            await engine.stop()
    finally:
        doors.stop(at_once=at_once.done())
        for task in (loading, stop, at_once):
            task.cancel()
        await asyncio.gather(serving, loading, stop, at_once, return_exceptions=True)
        await asyncio.to_thread(service.journal.close)


async def _drain(service: "Service", at_once: "asyncio.Future[Any]") -> None:
    """Finish what is under way, for at most the grace period. Meanwhile probes are answered, and new requests refused:
    a socket that is closed at once would look like a failure to those a balancer still sends.
    """
    service.traffic.close()
    grace = service.config.grace if service.engine.health().state == "ready" else 0.0  # else nothing can finish
    quiet = asyncio.ensure_future(service.traffic.quiet())
    await asyncio.wait((quiet, at_once), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    quiet.cancel()
