"""uvicorn, set up for one application on one socket that is already bound."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Generator
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from tenfold.server.connection import BoundedProtocol, Bounds

KEEP_ALIVE = 75.0  # seconds; as nginx, so that a client's next request finds its connection open
_LAST_WORDS = 5  # seconds between the end of the grace period and cancelling what still answers


class Listener(uvicorn.Server):
    """Serves until told to stop, then lets the answers under way end for a few seconds.

    ``bounds`` gives those of a new connection. ``tls``: speaks HTTPS.
    """

    def __init__(self, app: ASGIApp, bounds: Callable[[], Bounds], *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(BoundedProtocol, bounds),  # type: ignore[arg-type]  # called as the class would be
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(KEEP_ALIVE),
                timeout_graceful_shutdown=_LAST_WORDS,
            )
        )
        self.config.load()
        self.config.ssl = tls  # ours, not one that uvicorn makes: its certificate can be replaced while it serves

    def stop(self, *, at_once: bool = False) -> None:
        """Stop accepting, let what is under way end (or not, ``at_once``), and return from ``serve``."""
        self.should_exit = True
        self.force_exit = self.force_exit or at_once

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are for whoever runs us: uvicorn would raise them anew, before the engine is stopped."""
        yield


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """The address to reach a listening socket at, from this machine."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
