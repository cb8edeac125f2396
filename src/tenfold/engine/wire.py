"""Messages between a client and its child process: MessagePack, each behind a 4-byte length."""

import struct
from collections.abc import Iterator

import msgspec

from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import (
    ConfigError,
    ContextOverflow,
    InvalidRequest,
    ModelError,
    Overloaded,
    TenfoldError,
)
from tenfold.core.request import EngineInfo, EngineRequest, EngineStats, RequestOutput
from tenfold.engine.inspection import PLAIN, Detail, Inspection

_HEADER = struct.Struct("<I")
MAX_FRAME = 1 << 30


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Queue a request."""

    request: EngineRequest


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End a request."""

    id: str


class Look(msgspec.Struct, frozen=True, tag=True):
    """Tell of the engine itself; ``steps``: with so many of its last steps. The answer bears the same id."""

    id: str
    steps: int = 0
    detail: Detail = PLAIN


class Configure(msgspec.Struct, frozen=True, tag=True):
    """Other limits from now on."""

    limits: SchedulerConfig


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Abort everything and leave the loop."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded; the loop runs."""

    info: EngineInfo


class Failure(msgspec.Struct, frozen=True, tag=True):
    """An error of the tree, about a request (``id``) or about the engine (no ``id``)."""

    kind: str
    message: str
    id: str | None = None
    param: str | None = None
    retry_after: float = 0.0


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """What a step gave; without any output it is a heartbeat of an idle loop. Without ``progress`` it tells nothing of
    the loop: it may be stuck."""

    outputs: list[RequestOutput]
    stats: EngineStats | None = None
    progress: bool = True


class Seen(msgspec.Struct, frozen=True, tag=True):
    """The answer to a :class:`Look`."""

    id: str
    inspection: Inspection


Command = Submit | Abort | Look | Configure | Stop
Report = Ready | Failure | Outputs | Seen


def failure(error: TenfoldError, request_id: str | None = None) -> Failure:
    """An error, ready to travel."""
    return Failure(
        kind=type(error).__name__,
        message=str(error),
        id=request_id,
        param=error.param if isinstance(error, InvalidRequest) else None,
        retry_after=error.retry_after if isinstance(error, Overloaded) else 0.0,
    )


def to_error(report: Failure) -> TenfoldError:
    """The error again, as its class where that matters to the receiver."""
    if report.kind == "Overloaded":
        return Overloaded(report.message, retry_after=report.retry_after)
    if report.kind == "ContextOverflow":
        return ContextOverflow(report.message, param=report.param)
    if report.kind == "InvalidRequest":
        return InvalidRequest(report.message, param=report.param)
    plain: list[type[TenfoldError]] = [ConfigError, ModelError, *ModelError.__subclasses__()]
    kind = next((kind for kind in plain if kind.__name__ == report.kind), TenfoldError)
    return kind(report.message)


def frame(payload: bytes) -> bytes:
    """The payload behind its length."""
    return _HEADER.pack(len(payload)) + payload


class Unframer:
    """Cuts a byte stream back into payloads."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that ``data`` completes."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._buffer)
            if size > MAX_FRAME:
                raise ValueError(f"a frame of {size} bytes: the stream is out of step")
            end = _HEADER.size + size
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield payload
