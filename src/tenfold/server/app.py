"""The ASGI application: one gateway in front of the routes."""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tenfold.core.errors import TenfoldError
from tenfold.core.logs import told
from tenfold.server import completions, routes
from tenfold.server.errors import api_error
from tenfold.server.exchange import JSON, ClientGone, Exchange
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

# path, method, handler, whether it is open without an API key
_TABLE: tuple[tuple[str, str, Handler, bool], ...] = (
    ("/v1/completions", "POST", completions.completions, False),
    ("/v1/chat/completions", "POST", completions.chat, False),
    ("/v1/models", "GET", routes.models, False),
    ("/v1/models/{model:path}", "GET", routes.model, False),
    ("/health", "GET", routes.health, True),
    ("/health/ready", "GET", routes.health, True),
    ("/health/live", "GET", routes.live, True),
    ("/tokenize", "POST", routes.tokenize, False),
    ("/detokenize", "POST", routes.detokenize, False),
    ("/version", "GET", routes.version, False),
    ("/openapi.json", "GET", routes.description, True),
    ("/docs", "GET", routes.docs, True),
    ("/", "GET", routes.root, True),
)
# What operators look at: beside the others, or at an address of their own.
_OPERATOR: tuple[tuple[str, str, Handler, bool], ...] = (
    ("/metrics", "GET", routes.metrics, False),
    ("/debug/requests", "GET", routes.requests, False),
    ("/debug/requests/{id}", "GET", routes.request, False),
    ("/debug/machine", "GET", routes.machine, False),
    ("/debug/steps", "GET", routes.steps, False),
)
_HEALTH = tuple(row for row in _TABLE if row[0].startswith("/health"))


def paths() -> frozenset[str]:
    """Of all routes, as patterns."""
    return frozenset(row[0] for row in (*_TABLE, *_OPERATOR))


class _Endpoint:
    """A handler as an ASGI application, for Starlette to route to."""

    def __init__(self, service: Service, path: str, handler: Handler, *, public: bool, admin: bool) -> None:
        self._service = service
        self._path = path
        self._handler = handler
        self._public = public
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["tenfold.exchange"]
        exchange.route = self._path
        exchange.scope = scope
        exchange.operator = self._admin
        if self._public or self._admin:
            await self._handler(self._service, exchange)
            return
        with self._service.traffic:
            self._service.access.admit(exchange)
            await self._handler(self._service, exchange)


class App:
    """Gives each request an id, routes it, turns every error into OpenAI's error object, and counts it.

    ``admin``: it is that of the operators' own address (``ServerConfig.admin``), whoever reaches it being one.
    """

    def __init__(self, service: Service, *, admin: bool = False) -> None:
        self._service = service
        if admin:
            rows = (*_OPERATOR, *_HEALTH)
        else:
            rows = _TABLE if service.config.admin is not None else (*_TABLE, *_OPERATOR)
        self._router = Router(
            [
                Route(path, _Endpoint(service, path, handler, public=public, admin=admin), methods=[method])
                for path, method, handler, public in rows
            ],
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
        await exchange.send_bytes(answer.body(), JSON, answer.status, answer.headers)


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
