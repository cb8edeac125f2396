"""Drives a core from an inbox of commands: the same loop in a thread and in a child process."""

from collections.abc import Callable
from queue import Empty, SimpleQueue

from tenfold.core.clock import Clock
from tenfold.core.errors import TenfoldError
from tenfold.engine.core import EngineCore
from tenfold.engine.wire import Abort, Command, Configure, Look, Outputs, Report, Seen, Stop, Submit, failure

HEARTBEAT = 0.5  # seconds between reports of an idle loop, and between statistics of a busy one
QUIET = 1.0  # seconds without work before steps are made to be measured


# None wakes the loop: somebody else gave the core something to do.
Inbox = SimpleQueue[Command | None]


def run_loop(core: EngineCore, inbox: Inbox, report: Callable[[Report], None], clock: Clock) -> None:
    """Serve until a :class:`Stop`. Commands in the inbox are taken between steps.

    Reports only what happens in this loop: when it is stuck, so are the reports.
    """
    reported = busy = clock.now()
    report(Outputs([], core.stats()))
    while True:
        idle = core.idle
        calibrates = idle and core.calibrating and clock.now() - busy >= QUIET
        commands = _commands(inbox, wait=idle and not calibrates)
        if idle:
            core.laps.skip()
        for command in commands:
            if isinstance(command, Stop):
                report(Outputs(core.close(), core.stats()))
                return
            if command is not None:
                obey(core, command, report)
        core.laps.lap("commands")
        if calibrates and core.idle:
            core.calibrate()
            core.laps.skip()
        works = not core.idle
        outputs = core.step()
        now = clock.now()
        if works or not core.idle:
            busy = now
        if outputs or now - reported >= HEARTBEAT:
            stats = core.stats() if core.idle or now - reported >= HEARTBEAT else None
            if stats is not None:
                reported = now
            report(Outputs(outputs, stats))
            core.laps.lap("report")


def _commands(inbox: Inbox, *, wait: bool) -> list[Command | None]:
    """All commands that are there; with ``wait``, the first one is waited for, a heartbeat long."""
    commands: list[Command | None] = []
    try:
        if wait:
            commands.append(inbox.get(timeout=HEARTBEAT))
        while True:
            commands.append(inbox.get_nowait())
    except Empty:
        return commands


def obey(core: EngineCore, command: Submit | Abort | Look | Configure, report: Callable[[Report], None]) -> None:
    """Do it and report what came of it, at once: also from another thread than the loop's, while a step is computed."""
    if isinstance(command, Abort):
        if outputs := core.abort(command.id):
            report(Outputs(outputs, progress=False))
        return
    if isinstance(command, Configure):
        core.configure(command.limits)
        return
    try:
        if isinstance(command, Look):
            report(Seen(command.id, core.inspect(command.steps, command.detail)))
        else:
            core.submit(command.request)
    except TenfoldError as error:
        report(failure(error, command.id if isinstance(command, Look) else command.request.id))
