"""A connection with bounds: on how many there are, and on how large and how slow a request's head may be.

uvicorn's httptools protocol has none of the three; bodies are bounded in :mod:`tenfold.server.exchange`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from tenfold.server.errors import HttpError, api_error


@dataclass(frozen=True, slots=True)
class Bounds:
    """``head``: bytes of a request's line and headers; ``patience``: seconds for them; ``connections`` at a time."""

    head: int
    patience: float
    connections: int


class _HeadTooLarge(Exception):
    pass


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A head that is too large is a 431, a late one a 408; one that never begins is cut."""

    def __init__(
        self,
        bounds: Callable[[], Bounds],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds()
        self._patience: asyncio.TimerHandle | None = None
        self._head = 0  # bytes that came since the last request's end
        self._in_body = False
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            limit = self._bounds.connections
            self._end(HttpError(503, f"this server has its {limit} connections; try again in a moment", code="busy"))
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._in_body:
            super().data_received(data)
            return
        self._head += len(data)
        self._wait_for_head()
        super().data_received(data)
        # The parser keeps an unfinished header to itself; a finished head was counted in on_headers_complete.
        if not self._in_body and self._head > self._bounds.head and not self.transport.is_closing():
            self._end(self._large())

    def on_headers_complete(self) -> None:
        """The parser has a whole head."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._bounds.head:
            self._too_large = True
            raise _HeadTooLarge  # the parser stops, and send_400_response is called
        self._stop_waiting()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The parser has a whole request."""
        self._in_body = False
        self._head = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn answers to what is no HTTP, as OpenAI's error object."""
        self._end(self._large() if self._too_large else HttpError(400, "this is no HTTP request", code="bad_request"))

    def _large(self) -> HttpError:
        return HttpError(
            431,
            f"the request's line and headers are larger than this server's limit of {self._bounds.head} bytes",
            code="headers_too_large",
        )

    def _wait_for_head(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(self._bounds.patience, self._lost_patience)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _lost_patience(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_head()  # the next request's head is late, but an answer is under way
        elif self._head:
            seconds = self._bounds.patience
            message = f"the request's headers did not arrive within {seconds:g} seconds"
            self._end(HttpError(408, message, code="request_timeout"))
        else:
            self.transport.close()

    def _end(self, error: HttpError) -> None:
        """Answer, and close."""
        self._stop_waiting()
        body = api_error(error).body()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        if error.status == 503:
            head += b"retry-after: 1\r\n"
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + body)
        self.transport.close()
