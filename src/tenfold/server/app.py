"""The ASGI application: one gateway in front of the routes."""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tenfold.core.errors import TenfoldError
from tenfold.core.logs import told
from tenfold.server import completions, embeddings, routes
from tenfold.server.anthropic import routes as anthropic
from tenfold.server.anthropic.format import error_body
from tenfold.server.dashboard import routes as dashboard
from tenfold.server.errors import ApiError, api_error
from tenfold.server.exchange import JSON, ClientGone, Exchange
from tenfold.server.responses import routes as responses
from tenfold.server.service import Service

Handler = Callable[[Service, Exchange], Awaitable[None]]

_log = logging.getLogger("tenfold.server")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
# What a page may read of an answer's headers.
_EXPOSED = (
    "x-request-id",
    "retry-after",
    *(f"x-ratelimit-{part}-{unit}" for part in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
)
_CLIENT_GONE = 499  # as nginx logs it; never sent


@dataclass(frozen=True, slots=True)
class _Row:
    """A route: ``public`` is open without an API key, ``errors`` writes its errors."""

    path: str
    method: str
    handler: Handler
    public: bool = False
    errors: Callable[[ApiError], bytes] = ApiError.body


_TABLE = (
    _Row("/v1/completions", "POST", completions.completions),
    _Row("/v1/chat/completions", "POST", completions.chat),
    _Row("/v1/messages", "POST", anthropic.messages, errors=error_body),
    _Row("/v1/messages/count_tokens", "POST", anthropic.count_tokens, errors=error_body),
    _Row("/v1/responses", "POST", responses.responses),
    _Row("/v1/embeddings", "POST", embeddings.embeddings),
    _Row("/v1/models", "GET", routes.models),
    _Row("/v1/models/{model:path}", "GET", routes.model),
    _Row("/health", "GET", routes.health, public=True),
    _Row("/health/ready", "GET", routes.health, public=True),
    _Row("/health/live", "GET", routes.live, public=True),
    _Row("/tokenize", "POST", routes.tokenize),
    _Row("/detokenize", "POST", routes.detokenize),
    _Row("/version", "GET", routes.version),
    _Row("/openapi.json", "GET", routes.description, public=True),
    _Row("/docs", "GET", routes.docs, public=True),
)
# What operators look at: beside the others, or at an address of their own.
_OPERATOR = (
    _Row("/metrics", "GET", routes.metrics),
    _Row("/debug/requests", "GET", routes.requests),
    _Row("/debug/requests/{id}", "GET", routes.request),
    _Row("/debug/machine", "GET", routes.machine),
    _Row("/debug/steps", "GET", routes.steps),
    _Row("/debug/dashboard", "GET", dashboard.data),
    _Row("/debug/doctor", "GET", dashboard.doctor),
    _Row("/", "GET", dashboard.page, public=True),  # shows nothing that it has not asked for
    _Row("/dashboard/{name}", "GET", dashboard.file, public=True),
)
_WITHOUT_OPERATORS = (_Row("/", "GET", routes.root, public=True),)
_HEALTH = tuple(row for row in _TABLE if row.path.startswith("/health"))


def paths() -> frozenset[str]:
    """Of all routes, as patterns."""
    return frozenset(row.path for row in (*_TABLE, *_OPERATOR))


class _Endpoint:
    """A handler as an ASGI application, for Starlette to route to."""

    def __init__(self, service: Service, row: _Row, *, admin: bool) -> None:
        self._service = service
        self._row = row
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["tenfold.exchange"]
        exchange.route = self._row.path
        exchange.error_body = self._row.errors
        exchange.scope = scope
        exchange.operator = self._admin
        if self._row.public or self._admin:
            await self._row.handler(self._service, exchange)
            return
        with self._service.traffic:
            self._service.access.admit(exchange)
            await self._row.handler(self._service, exchange)


class App:
    """Gives each request an id, routes it, turns every error into its route's kind of error object, and counts it.

    ``admin``: it is that of the operators' own address (``ServerConfig.admin``), whoever reaches it being one.
    """

    def __init__(self, service: Service, *, admin: bool = False) -> None:
        self._service = service
        if admin:
            rows = (*_OPERATOR, *_HEALTH)
        else:
            rows = (*_TABLE, *(_WITHOUT_OPERATORS if service.config.admin is not None else _OPERATOR))
        self._router = Router(
            [Route(row.path, _Endpoint(service, row, admin=admin), methods=[row.method]) for row in rows],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification; only HTTP is served."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']!r}")
        config, metrics = self._service.config, self._service.metrics
        exchange = Exchange(
            scope,
            receive,
            send,
            request_id=_request_id(scope["headers"]),
            body_limit=config.body_limit,
            body_timeout=config.body_timeout,
            log_body=config.log_prompts,
        )
        scope["app"] = self  # Starlette then raises its routing errors instead of answering them in plain text
        scope["tenfold.exchange"] = exchange
        metrics.http_began()
        began = self._service.clock.now()
        try:
            await self._router(scope, receive, send)
        except ClientGone:
            exchange.status = exchange.status or _CLIENT_GONE
        except Exception as error:
            await self._refuse(exchange, error)
        finally:
            exchange.status = exchange.status or _CLIENT_GONE
            metrics.http_ended(exchange.route, scope["method"], exchange.status)
            self._service.journal.ended(exchange, self._service.clock.now() - began)

    async def _refuse(self, exchange: Exchange, error: Exception) -> None:
        if not isinstance(error, TenfoldError | HTTPException):
            _log.error("a request failed", exc_info=error, extra=told(request_id=exchange.request_id))
        if exchange.status:
            raise error  # too late for an answer: the connection is closed
        answer = api_error(error)
        await exchange.send_bytes(exchange.error_body(answer), JSON, answer.status, answer.headers)


def application(service: Service) -> ASGIApp:
    """What the API's socket serves: the app, and what browsers need to ask it from other origins' pages."""
    app = App(service)
    if not service.config.cors_origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=service.config.cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
    )


def _request_id(headers: Any) -> str:
    """The client's x-request-id where it is fit for a log, or a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return "req-" + secrets.token_hex(12)
