"""What a load can be put on."""

from typing import Protocol

from tenfold.bench.record import Record
from tenfold.bench.workload import Work
from tenfold.engine.inspection import StepRecord


class Target(Protocol):
    """A system under test."""

    async def start(self) -> str:
        """Make it ready; gives a line that names it. Raises TenfoldError where it cannot be."""
        ...

    async def ask(self, work: Work) -> Record:
        """Run one request to its end. What goes wrong is in the record, never raised."""
        ...

    async def steps(self) -> list[StepRecord]:
        """The engine's last steps, where it tells; else none."""
        ...

    async def stop(self) -> None:
        """Let go of it."""
        ...
