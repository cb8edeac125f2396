"""Inputs run in a process of their own, watched by another."""

import logging
import multiprocessing
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

_KILLED = 10  # times an input's patience, and a process that does not even hear an alarm is killed


Target = Callable[[Random], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """``make`` gives the target (a folder of its own, in memory if possible, comes with it); ``share`` of all inputs;
    ``patience``: seconds that an input may take."""

    make: Callable[[Path], Target]
    share: float
    patience: float = 5.0


class TooLongError(BaseException):
    """An input took longer than it may. No Exception: nobody handles it on the way."""


def _folder() -> Path:
    """One in memory where there is such a place: files are written a hundred thousand times."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))


def work(
    name: str, plan: Plan, seed: int, numbers: range, deadline: float, gigabytes: float, at: Any, crashes: Any
) -> None:
    """Run the inputs of these numbers; ``at`` tells of which one it is at, ``crashes`` takes (number, traceback)."""
    folder = _folder()
    limit = int(gigabytes * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.disable(logging.CRITICAL)  # what a request did wrong is not written for each of a million

    def too_long(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, too_long)
    try:
        target = plan.make(folder)
        for number in numbers:
            if time.monotonic() > deadline:
                break
            at.value = number
            signal.setitimer(signal.ITIMER_REAL, plan.patience)
            try:
                target(Random(f"{name} {seed} {number}"))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                crashes.put((number, traceback.format_exc()))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            at.value = numbers.stop
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def watch(
    name: str, plan: Plan, seed: int, numbers: range, seconds: float, gigabytes: float
) -> tuple[int, list[tuple[int, str]]]:
    """(inputs that were run, crashes), over as many processes as die on the way. Raises RuntimeError where one cannot
    begin."""
    context = multiprocessing.get_context("spawn")
    deadline = time.monotonic() + seconds
    found: list[tuple[int, str]] = []
    begin = numbers.start
    while begin < numbers.stop and time.monotonic() < deadline:
        at, crashes = context.Value("q", begin - 1), context.SimpleQueue()
        told = (name, plan, seed, range(begin, numbers.stop), deadline, gigabytes, at, crashes)
        process = context.Process(target=work, args=told)
        process.start()
        seen, since = at.value, time.monotonic() + 120  # that long it may take to begin
        while process.is_alive():
            process.join(0.2)
            while not crashes.empty():
                found.append(crashes.get())
            if at.value != seen:
                seen, since = at.value, time.monotonic()
            elif time.monotonic() - since > _KILLED * plan.patience:
                process.kill()
                process.join()
        while not crashes.empty():
            found.append(crashes.get())
        if process.exitcode == 0:
            return at.value - numbers.start + (at.value < numbers.stop), found
        if at.value < begin:
            raise RuntimeError(f"{name}: the process ended with code {process.exitcode} before its first input")
        found.append((at.value, f"the process ended with code {process.exitcode}"))
        begin = at.value + 1
    return begin - numbers.start, found
