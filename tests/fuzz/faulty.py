"""A target with every kind of fault, in a module that a process of its own imports at once."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random


def faulty(folder: Path) -> Callable[[Random], None]:
    """Counts its inputs; raises, hangs, takes all memory, and dies."""
    count = iter(range(100))

    def target(_: Random) -> None:
        match next(count):
            case 2:
                raise KeyError("x")
            case 3:
                while True:
                    pass
            case 4:
                bytearray(1 << 40)
            case 5:
                os.kill(os.getpid(), signal.SIGKILL)

    return target


def no_target(folder: Path) -> Callable[[Random], None]:
    """One that cannot be made."""
    raise OSError("no seeds")
