"""The API's description, generated from the schemas in :mod:`tenfold.server.protocol`, and the page that shows it."""

import re
from importlib.resources import files
from typing import Any

import msgspec

from tenfold.cost.machine import Machine
from tenfold.observe.requests import RequestReport
from tenfold.server import protocol, route_protocol
from tenfold.server.anthropic import protocol as anthropic
from tenfold.server.config import ServerConfig
from tenfold.server.dashboard import protocol as dashboard
from tenfold.server.responses import protocol as responses

DOCS_PAGE = files("tenfold.server").joinpath("docs.html").read_bytes()

_JSON = "application/json"
_EVENTS = "text/event-stream"

# route, method, summary, request schema, response schema, schema of a stream's events
ROUTES: tuple[tuple[str, str, str, Any, Any, Any], ...] = (
    (
        "/v1/completions",
        "post",
        "Continue a prompt",
        protocol.CompletionBody,
        protocol.CompletionResponse,
        protocol.CompletionResponse,
    ),
    (
        "/v1/chat/completions",
        "post",
        "Answer a conversation",
        protocol.ChatBody,
        protocol.ChatResponse,
        protocol.ChatChunk,
    ),
    (
        "/v1/messages",
        "post",
        "Answer a conversation, as Anthropic's clients ask",
        anthropic.MessagesBody,
        anthropic.AnswerMessage,
        anthropic.MessageEvent,
    ),
    (
        "/v1/messages/count_tokens",
        "post",
        "The tokens of such a conversation",
        anthropic.CountBody,
        anthropic.CountResponse,
        None,
    ),
    (
        "/v1/responses",
        "post",
        "Answer a conversation, in items; nothing is stored",
        responses.ResponsesBody,
        responses.ResponseObject,
        responses.ResponseEvent,
    ),
    (
        "/v1/embeddings",
        "post",
        "A vector for each text",
        protocol.EmbeddingBody,
        protocol.EmbeddingResponse,
        None,
    ),
    ("/v1/models", "get", "The names the model is served under", None, route_protocol.ModelList, None),
    ("/v1/models/{model}", "get", "One of them", None, route_protocol.ModelCard, None),
    (
        "/tokenize",
        "post",
        "Text or messages to token ids",
        route_protocol.TokenizeBody,
        route_protocol.TokenizeResponse,
        None,
    ),
    (
        "/detokenize",
        "post",
        "Token ids to text",
        route_protocol.DetokenizeBody,
        route_protocol.DetokenizeResponse,
        None,
    ),
    ("/health", "get", "200 only when requests can be served", None, route_protocol.HealthResponse, None),
    ("/health/ready", "get", "The same, for a balancer's probe", None, route_protocol.HealthResponse, None),
    ("/health/live", "get", "200 unless a restart is all that helps", None, route_protocol.HealthResponse, None),
    ("/version", "get", "Tenfold's version, and what runs", None, route_protocol.VersionResponse, None),
    ("/debug/requests", "get", "Where the time of the last requests went", None, route_protocol.RequestReports, None),
    ("/debug/requests/{id}", "get", "Where the time of one of them went", None, RequestReport, None),
    ("/debug/steps", "get", "The engine's last steps; ?n= says how many", None, route_protocol.StepReports, None),
    (
        "/debug/dashboard",
        "get",
        "What the dashboard shows: what is new after ?steps= and ?requests=; ?pool=true tells of blocks",
        None,
        dashboard.DashboardReport,
        None,
    ),
    ("/debug/doctor", "get", "What the doctor says of the last minute", None, dashboard.DoctorReport, None),
    ("/debug/machine", "get", "What a simulation must know of the machine", None, Machine, None),
    ("/metrics", "get", "Prometheus metrics", None, None, None),
)

# schemas of errors that are not OpenAI's
_ERRORS: dict[str, Any] = {
    "/v1/messages": anthropic.MessageErrorResponse,
    "/v1/messages/count_tokens": anthropic.MessageErrorResponse,
}

_NAMES = re.compile(r"\{(\w+)\}")
_EXAMPLES: dict[str, Any] = {
    "/v1/completions": {"prompt": "The sky is", "max_tokens": 16, "temperature": 0},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "What is a token?"}], "stream": True},
    "/v1/messages": {"messages": [{"role": "user", "content": "What is a token?"}], "max_tokens": 64},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "What is a token?"}]},
    "/v1/responses": {"input": "What is a token?", "max_output_tokens": 64},
    "/v1/embeddings": {"input": ["The sky is blue", "Water is wet"], "encoding_format": "float"},
    "/tokenize": {"prompt": "The sky is"},
    "/detokenize": {"tokens": [1, 2, 3]},
}


def openapi(config: ServerConfig, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    kinds = {kind for route in ROUTES for kind in route[3:] if kind is not None} | {
        protocol.ErrorResponse,
        *_ERRORS.values(),
    }
    ordered = sorted(kinds, key=lambda kind: str(kind.__name__))
    _, schemas = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for path, method, *rest in ROUTES:
        paths.setdefault(path, {})[method] = _operation(path, *rest)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tenfold",
            "version": version,
            "description": f"OpenAI-compatible inference; serves {', '.join(config.names)}.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if config.keyed:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _operation(path: str, summary: str, request: Any, response: Any, event: Any) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if response is not None:
        content[_JSON] = {"schema": _ref(response)}
    if event is not None:
        content[_EVENTS] = {"schema": _event(event)}
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "responses": {
            "200": {"description": "success", "content": content or {"text/plain": {"schema": {"type": "string"}}}},
            "default": {
                "description": "error",
                "content": {_JSON: {"schema": _ref(_ERRORS.get(path, protocol.ErrorResponse))}},
            },
        },
    }
    for name in _NAMES.findall(path):
        parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        operation.setdefault("parameters", []).append(parameter)
    if request is not None:
        body = {"schema": _ref(request), "example": _EXAMPLES[path]}
        operation["requestBody"] = {"required": True, "content": {_JSON: body}}
    return operation


def _event(kind: Any) -> dict[str, Any]:
    """One server-sent event: ``data`` is JSON, but for OpenAI's last one; other APIs name each ``event``."""
    json = {"contentMediaType": _JSON, "contentSchema": _ref(kind)}
    data = {"type": "string", "anyOf": [{"const": "[DONE]"}, json]}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}


def _ref(kind: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
