"""The small routes: models, health, metrics, tokens, version, and the API page."""

import asyncio

import msgspec

from tenfold.core.errors import EngineUnavailable, InvalidRequest, NotFound
from tenfold.engine.inspection import KEPT
from tenfold.observe.about import tenfold_version
from tenfold.observe.metrics import CONTENT_TYPE
from tenfold.observe.requests import EVERYONE, Everyone
from tenfold.server.conversation import prompt_of
from tenfold.server.decode import decode
from tenfold.server.exchange import Exchange
from tenfold.server.openapi import DOCS_PAGE, openapi
from tenfold.server.params import check_ids
from tenfold.server.query import whole
from tenfold.server.route_protocol import (
    DetokenizeBody,
    DetokenizeResponse,
    HealthResponse,
    ModelCard,
    ModelList,
    RequestReports,
    StepReports,
    TokenizeBody,
    TokenizeResponse,
    VersionResponse,
)
from tenfold.server.service import Service
from tenfold.server.tools.toolbox import toolbox_of

_tokenize_decoder = msgspec.json.Decoder(TokenizeBody)
_LATEST = 100  # requests of the list
_detokenize_decoder = msgspec.json.Decoder(DetokenizeBody)


async def models(service: Service, exchange: Exchange) -> None:
    """All names the model is served under."""
    await exchange.send_json(ModelList(data=[_card(service, name) for name in service.config.names]))


async def model(service: Service, exchange: Exchange) -> None:
    """One of them."""
    name = exchange.scope["path_params"]["model"]
    service.check_model(name)
    await exchange.send_json(_card(service, name))


def _card(service: Service, name: str) -> ModelCard:
    loaded = service.require()
    return ModelCard(id=name, created=loaded.since, root=loaded.info.model, max_model_len=loaded.info.max_context)


async def health(service: Service, exchange: Exchange) -> None:
    """200 only when requests can be served: the engine is ready, the model's texts are there, and nobody stops it."""
    answer = health_of(service)
    await exchange.send_json(answer, 200 if answer.status == "ready" else 503)


async def live(service: Service, exchange: Exchange) -> None:
    """200 also while it starts, stops, or starts its engine anew; not once the engine has failed for good."""
    answer = health_of(service)
    await exchange.send_json(answer, 503 if answer.status == "failed" else 200)


def health_of(service: Service) -> HealthResponse:
    """The engine's state, and the server's."""
    state = service.engine.health()
    status: str = state.state
    if service.traffic.closed:
        status = "stopping"
    elif status == "ready" and service.loaded is None:
        status = "starting"
    return HealthResponse(status, round(state.progress_age, 3), state.restarts, state.reason)


async def metrics(service: Service, exchange: Exchange) -> None:
    """Prometheus text; what the server saw is there even when the engine is not."""
    try:
        stats = await service.engine.stats()
    except EngineUnavailable:
        stats = None
    info = service.loaded.info if service.loaded else None
    text = service.metrics.render(service.engine.health(), stats, info, tenfold_version())
    await exchange.send_bytes(text, CONTENT_TYPE)


async def tokenize(service: Service, exchange: Exchange) -> None:
    """Token ids of a text or a conversation."""
    body = decode(await exchange.json_body(), _tokenize_decoder)
    service.check_model(body.model)
    loaded = service.require()
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("send either prompt or messages", param="prompt")
    if body.messages is not None:
        text = await prompt_of(
            loaded,
            body.messages,
            toolbox_of(body.tools, None, parallel=None),
            add_generation_prompt=body.add_generation_prompt is not False,
            variables={},
        )
        ids = await loaded.codec.encode(text, add_special=False)
    else:
        ids = await loaded.codec.encode(body.prompt or "", add_special=body.add_special_tokens is not False)
    await exchange.send_json(TokenizeResponse(list(ids), len(ids), loaded.info.max_context))


async def detokenize(service: Service, exchange: Exchange) -> None:
    """The text of token ids."""
    body = decode(await exchange.json_body(), _detokenize_decoder)
    service.check_model(body.model)
    loaded = service.require()
    check_ids(body.tokens, loaded.info.vocab_size, "tokens")
    await exchange.send_json(DetokenizeResponse(await loaded.codec.decode(body.tokens)))


async def requests(service: Service, exchange: Exchange) -> None:
    """Where the time of the requests went that finished last."""
    await exchange.send_json(RequestReports(data=service.log.latest(_LATEST, whose(exchange))))


async def request(service: Service, exchange: Exchange) -> None:
    """Where the time of one of them went."""
    name = exchange.scope["path_params"]["id"]
    report = service.log.find(name, whose(exchange))
    if report is None:
        raise NotFound(
            f"no request {name[:200]!r} is known: it must have finished, and be one of the last; its id is that of its "
            "answer or its x-request-id"
        )
    await exchange.send_json(report)


def whose(exchange: Exchange) -> str | Everyone | None:
    """Whose requests whoever asks may see: a tenant's; None where there are no keys, and all are of nobody."""
    return EVERYONE if exchange.operator else exchange.tenant


async def machine(service: Service, exchange: Exchange) -> None:
    """What a simulation must know of the model on this machine; `tenfold simulate --machine` takes it."""
    seen = await service.engine.inspect(KEPT)
    await exchange.send_json(await asyncio.to_thread(seen.learned))


async def steps(service: Service, exchange: Exchange) -> None:
    """The engine's last steps."""
    seen = await service.engine.inspect(whole(exchange, "n", 256, 1, KEPT))
    await exchange.send_json(StepReports(now=seen.now, calibrated=seen.calibrated, limits=seen.limits, data=seen.steps))


async def version(service: Service, exchange: Exchange) -> None:
    """Tenfold's version, and what runs."""
    loaded = service.loaded
    answer = VersionResponse(
        tenfold_version(), loaded.info.model if loaded else None, loaded.info.backend if loaded else None
    )
    await exchange.send_json(answer)


async def description(service: Service, exchange: Exchange) -> None:
    """The OpenAPI description of all routes."""
    document = openapi(service.config, tenfold_version())
    if service.config.admin is not None:  # these are not here, then
        document["paths"] = {
            path: what for path, what in document["paths"].items() if not path.startswith(("/debug/", "/metrics"))
        }
    await exchange.send_json(document)


async def docs(service: Service, exchange: Exchange) -> None:
    """The API page."""
    await exchange.send_bytes(DOCS_PAGE, b"text/html; charset=utf-8")


async def root(service: Service, exchange: Exchange) -> None:
    """To the API page."""
    await exchange.send_bytes(b"", b"text/plain", 307, ((b"location", b"/docs"),))
