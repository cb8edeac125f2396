"""Main of the engine's child process: ``python -m tenfold.engine.child FD``.

FD is a connected stream socket. The first frame holds the settings; then come commands, and reports go back. When the
parent goes away, so does the child.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue

import msgspec

from tenfold.core.clock import WallClock
from tenfold.core.config import EngineConfig
from tenfold.core.errors import TenfoldError
from tenfold.core.logs import set_up
from tenfold.core.memory import return_freed
from tenfold.engine.build import build_engine
from tenfold.engine.core import EngineCore
from tenfold.engine.loop import Inbox, obey, run_loop
from tenfold.engine.wire import Command, Ready, Report, Stop, Unframer, failure, frame


def main(fd: int) -> int:
    """Serve the socket until told to stop; the exit code is 0 then, 2 where the engine could not start."""
    for number in (signal.SIGINT, signal.SIGHUP):  # the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=fd)
    encoder = msgspec.msgpack.Encoder()

    sending = threading.Lock()

    def report(message: Report) -> None:
        with sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader notices, and ends us
            connection.sendall(frame(encoder.encode(message)))

    inbox: Inbox = SimpleQueue()
    built: Future[EngineCore] = Future()
    payloads = _payloads(connection)
    first = next(payloads, None)
    if first is None:
        return 0
    config = msgspec.msgpack.decode(first, type=EngineConfig)
    set_up(config.log_level, config.log_format)
    threading.Thread(target=_read, args=(payloads, inbox, built, report), daemon=True).start()
    try:
        engine = build_engine(config, warm_up=True)
    except TenfoldError as error:
        report(failure(error))
        return 2
    gc.collect()
    return_freed()
    gc.freeze()  # the model and its vocabulary stay: no step waits for them to be looked through
    built.set_result(engine.core)
    report(Ready(engine.info))
    run_loop(engine.core, inbox, report, WallClock())
    return 0


def _payloads(connection: socket.socket) -> Iterator[bytes]:
    unframer = Unframer()
    while data := connection.recv(1 << 16):
        yield from unframer.feed(data)


def _read(
    payloads: Iterator[bytes], inbox: Inbox, built: "Future[EngineCore]", report: Callable[[Report], None]
) -> None:
    """Do what the parent says, while steps are computed; when it is gone, leave at once, whatever the loop is doing.

    So a request is refused, or another's blocks are free, within milliseconds, however long a step takes.
    """
    decoder = msgspec.msgpack.Decoder(Command)
    try:
        with contextlib.suppress(OSError):
            for payload in payloads:
                command = decoder.decode(payload)
                if isinstance(command, Stop):
                    inbox.put(command)
                    return
                obey(built.result(), command, report)  # nothing comes before we have said that we are ready
                inbox.put(None)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
