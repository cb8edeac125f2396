"""What is being answered, and whether more is let in."""

import asyncio

from tenfold.server.errors import HttpError

_TRY_AGAIN = b"1"  # seconds; another server behind the same balancer can answer at once


class Traffic:
    """The requests under way. Enter it for each: raises HttpError (503, with Retry-After) once it was closed."""

    def __init__(self) -> None:
        self._open = 0
        self._closed = False
        self._quiet = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether the server is stopping."""
        return self._closed

    def __enter__(self) -> None:
        if self._closed:
            raise HttpError(
                503,
                "this server is stopping; try again, and another one or its successor will answer",
                code="server_stopping",
                headers=((b"retry-after", _TRY_AGAIN), (b"connection", b"close")),
            )
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1
        if self._closed and not self._open:
            self._quiet.set()

    def close(self) -> None:
        """Let no more in; what is under way goes on."""
        self._closed = True
        if not self._open:
            self._quiet.set()

    async def quiet(self) -> None:
        """Until it is closed and nothing is under way."""
        await self._quiet.wait()
