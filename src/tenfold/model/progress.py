"""How long work on models tells how far it is: the command line draws bars, tests and libraries stay silent."""

from typing import Protocol


class Progress(Protocol):
    """Receives progress; every method returns at once."""

    def begin(self, what: str, total: int) -> None:
        """A stage begins: ``what`` for people, ``total`` in bytes."""
        ...

    def at(self, done: int) -> None:
        """``done`` bytes of the stage are complete; may go back when something is tried again."""
        ...

    def notice(self, text: str) -> None:
        """Something the user should read."""
        ...


class Silent:
    """Ignores everything."""

    def begin(self, what: str, total: int) -> None:
        """Ignored."""

    def at(self, done: int) -> None:
        """Ignored."""

    def notice(self, text: str) -> None:
        """Ignored."""
