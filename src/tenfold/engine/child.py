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
from collections.abc import Iterator
from queue import SimpleQueue

import msgspec

from tenfold.core.clock import WallClock
from tenfold.core.config import EngineConfig
from tenfold.core.errors import TenfoldError
from tenfold.engine.build import build_engine
from tenfold.engine.loop import run_loop
from tenfold.engine.wire import Command, Ready, Report, Stop, Unframer, failure, frame


def main(fd: int) -> int:
    """Serve the socket until told to stop; the exit code is 0 then, 2 where the engine could not start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    connection = socket.socket(fileno=fd)
    encoder = msgspec.msgpack.Encoder()

    def report(message: Report) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader notices, and ends us
            connection.sendall(frame(encoder.encode(message)))

    inbox: SimpleQueue[Command] = SimpleQueue()
    payloads = _payloads(connection)
    first = next(payloads, None)
    if first is None:
        return 0
    config = msgspec.msgpack.decode(first, type=EngineConfig)
    threading.Thread(target=_read, args=(payloads, inbox), daemon=True).start()
    try:
        engine = build_engine(config)
    except TenfoldError as error:
        report(failure(error))
        return 2
    gc.collect()
    gc.freeze()  # the model and its vocabulary stay: no step waits for them to be looked through
    report(Ready(engine.info))
    run_loop(engine.core, inbox, report, WallClock())
    return 0


def _payloads(connection: socket.socket) -> Iterator[bytes]:
    unframer = Unframer()
    while data := connection.recv(1 << 16):
        yield from unframer.feed(data)


def _read(payloads: Iterator[bytes], inbox: "SimpleQueue[Command]") -> None:
    """Fill the inbox; when the parent is gone, leave at once, whatever the loop is doing."""
    decoder = msgspec.msgpack.Decoder(Command)
    with contextlib.suppress(OSError):
        for payload in payloads:
            command = decoder.decode(payload)
            inbox.put(command)
            if isinstance(command, Stop):
                return
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
