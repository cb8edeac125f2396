"""What the system tells a server: to stop, to stop at once, to read its files again."""

import asyncio
import signal
from collections.abc import Callable

_STOP = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """SIGINT and SIGTERM: the first asks to stop, a second one to stop at once. SIGHUP calls ``reload``.

    Enter it in a running loop.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self.reload: Callable[[], None] | None = None

    def __enter__(self) -> "Signals":
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._arrived)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (*_STOP, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _arrived(self) -> None:
        (self.at_once if self.stop.is_set() else self.stop).set()

    def _hung_up(self) -> None:
        if self.reload is not None:  # while it starts there is nothing to read again
            self.reload()
