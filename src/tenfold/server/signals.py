"""What the system tells a server: to stop, to stop at once, to read its files again."""

import asyncio
import signal
from collections.abc import Callable

_STOP = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """SIGINT and SIGTERM: the first asks to stop, a second one to stop at once. SIGHUP: to read files again.

    Enter it in a running loop. A SIGHUP that comes before :meth:`reloads` is kept until then, also one that was
    blocked so far.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self._reload: Callable[[], None] | None = None
        self._asked = False  # to read again, before there was anything to read

    def __enter__(self) -> "Signals":
        loop = asyncio.get_running_loop()
        for number in _STOP:
            loop.add_signal_handler(number, self._arrived)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        return self

    def __exit__(self, *_: object) -> None:
        for number in (*_STOP, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def reloads(self, reload: Callable[[], None]) -> None:
        """Call this at a SIGHUP from now on; now, too, if one came before."""
        self._reload = reload
        if self._asked:
            self._hung_up()

    def _arrived(self) -> None:
        (self.at_once if self.stop.is_set() else self.stop).set()

    def _hung_up(self) -> None:
        self._asked = self._reload is None
        if self._reload is not None:
            self._reload()
