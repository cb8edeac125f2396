"""uvicorn, set up for one application on one socket that is already bound."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE = 75.0  # seconds; as nginx, so that a client's next request finds its connection open
_LAST_WORDS = 5.0  # seconds between the end of the grace period and cancelling what still answers


class Listener(uvicorn.Server):
    """Serves until told to stop, then lets the answers under way end for at most ``grace`` seconds."""

    def __init__(self, app: ASGIApp, *, grace: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(KEEP_ALIVE),
                timeout_graceful_shutdown=int(grace + _LAST_WORDS),
            )
        )
        self._stopping = asyncio.Event()

    async def stopping(self) -> None:
        """Wait until the server was told to stop."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Stop accepting, end what is under way, and return from ``serve``."""
        self.should_exit = True
        self._stopping.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve the sockets; SIGINT and SIGTERM stop, a second SIGINT stops without waiting."""
        with self.capture_signals():
            await self._serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """uvicorn raises the signals again at its end, which would end us before the engine is stopped."""
        loop = asyncio.get_running_loop()
        caught = (signal.SIGINT, signal.SIGTERM)
        try:
            for number in caught:
                loop.add_signal_handler(number, self._on_signal, number)
        except (ValueError, RuntimeError):  # not in the main thread: whoever runs us calls stop()
            yield
            return
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        self.handle_exit(number, None)
        self.stop()


def url_of(sock: socket.socket) -> str:
    """The address to reach a listening socket at, from this machine."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
