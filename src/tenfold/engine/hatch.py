"""A child process for an engine. Imports little: a program may start one before it knows its own settings."""

import socket
import subprocess
import sys


class Child:
    """``python -m tenfold.engine.child``, which waits for its settings on the other end of ``connection``.

    It ends when the connection does, so one that is never used needs no care.
    """

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tenfold.engine.child", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C is for us alone
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it lives."""
        return self._process.poll()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def wait(self) -> int:
        """Its exit code, when it has ended; blocks."""
        return self._process.wait()
