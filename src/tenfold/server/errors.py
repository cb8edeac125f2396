"""From an exception to OpenAI's error object and its HTTP status."""

import math
from dataclasses import dataclass

import msgspec
from starlette.exceptions import HTTPException

from tenfold.core.errors import ContextOverflow, InvalidRequest, NotFound, Overloaded, TenfoldError
from tenfold.server.protocol import ErrorObject, ErrorResponse

Headers = tuple[tuple[bytes, bytes], ...]


class HttpError(TenfoldError):
    """An answer that only HTTP knows: a status with its error code and extra headers."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, headers: Headers = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers


class ModelNotFound(NotFound):
    """The request names a model that is not served."""


@dataclass(frozen=True, slots=True)
class ApiError:
    """A status, an error object, and the headers that go with them."""

    status: int
    error: ErrorObject
    headers: Headers = ()

    def body(self) -> bytes:
        """The JSON of the whole answer."""
        return msgspec.json.encode(ErrorResponse(self.error))


def api_error(error: BaseException) -> ApiError:
    """How a client is told of ``error``. What is not ours to explain becomes a bare 500."""
    message = str(error)
    if isinstance(error, HttpError):
        return ApiError(
            error.status,
            ErrorObject(message, _type(error.status), error.param, error.code),
            error.headers,
        )
    if isinstance(error, ContextOverflow):
        code = "context_length_exceeded"
        return ApiError(400, ErrorObject(message, "invalid_request_error", error.param, code))
    if isinstance(error, InvalidRequest):
        return ApiError(400, ErrorObject(message, "invalid_request_error", error.param, "invalid_value"))
    if isinstance(error, ModelNotFound):
        return ApiError(404, ErrorObject(message, "invalid_request_error", "model", "model_not_found"))
    if isinstance(error, Overloaded):
        seconds = str(max(1, math.ceil(error.retry_after))).encode()
        detail = ErrorObject(message, "rate_limit_error", None, "rate_limit_exceeded")
        return ApiError(429, detail, ((b"retry-after", seconds),))
    if isinstance(error, TenfoldError):
        if error.status == 503:
            detail = ErrorObject(message, "server_error", None, "engine_unavailable")
            return ApiError(503, detail, ((b"retry-after", b"1"),))
        return ApiError(error.status, ErrorObject(message, _type(error.status)))
    if isinstance(error, HTTPException):
        return _routing(error)
    return ApiError(500, ErrorObject("internal error; see the server's log", "server_error", None, "internal_error"))


def _routing(error: HTTPException) -> ApiError:
    headers: Headers = tuple((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items())
    messages: dict[int, tuple[str, str | None]] = {
        404: ("no such route; see /docs for those there are", "not_found"),
        405: ("this route does not take that method; see /docs", "method_not_allowed"),
    }
    message, code = messages.get(error.status_code, (str(error.detail), None))
    return ApiError(error.status_code, ErrorObject(message, _type(error.status_code), None, code), headers)


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    return "invalid_request_error" if status < 500 else "server_error"
