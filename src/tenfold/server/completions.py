"""POST /v1/completions and POST /v1/chat/completions, and what all routes that generate share."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from tenfold.core.errors import InvalidRequest
from tenfold.core.request import EngineRequest
from tenfold.core.sampling import SamplingParams
from tenfold.observe.timeline import RequestTimeline
from tenfold.server.chat_format import ChatFormat
from tenfold.server.conversation import Conversation, conversation_of
from tenfold.server.decode import decode
from tenfold.server.exchange import Exchange
from tenfold.server.formats import CompletionFormat, Format, Head
from tenfold.server.generation import Job, answer
from tenfold.server.objectives import Objective, objective_of
from tenfold.server.params import (
    MAX_CHOICES,
    check_context,
    check_ids,
    completion_params,
)
from tenfold.server.protocol import ChatBody, CompletionBody, SamplingBody
from tenfold.server.service import Loaded, Service, require_prompt

_completion_decoder = msgspec.json.Decoder(CompletionBody)
_chat_decoder = msgspec.json.Decoder(ChatBody)


async def completions(service: Service, exchange: Exchange) -> None:
    """Continue one prompt or several."""
    arrival = service.clock.now()
    body = decode(await exchange.json_body(), _completion_decoder)
    service.check_model(body.model)
    loaded = service.require()
    params = completion_params(body, loaded.info.vocab_size)
    prompts = prompts_of(body.prompt, "prompt")
    most = min(MAX_CHOICES, loaded.info.max_waiting)
    if len(prompts) * params.n > most:
        raise InvalidRequest(
            f"{len(prompts)} prompts times n={params.n} are more than the {most} choices a request may have",
            param="n" if len(prompts) == 1 else "prompt",
        )
    ids = []
    for param, prompt in prompts:
        ids.append(await _prompt_ids(prompt, param, body, loaded, params))
        await asyncio.sleep(0)  # others get their turn between the prompts of a large batch
    echo: list[str] = []
    if body.echo:
        for (_, prompt), tokens in zip(prompts, ids, strict=True):
            text = prompt if isinstance(prompt, str) else await loaded.codec.decode(tokens)
            echo.extend([text] * params.n)
    objective = objective_of(body, exchange.headers, exchange.tenant)
    head = _head(service, "cmpl-", objective)
    shape = CompletionFormat(head, len(ids) * params.n, echo=echo, reports_usage=_at_end(body))
    await _run(service, exchange, body, _requests(head.id, ids, params, arrival, objective), shape)


async def chat(service: Service, exchange: Exchange) -> None:
    """Answer a conversation."""
    arrival = service.clock.now()
    body = decode(await exchange.json_body(), _chat_decoder)

    def shape(head: Head, asked: Conversation) -> Format:
        token_bytes = service.require().codec.tokenizer.token_bytes
        n = asked.params.n
        return ChatFormat(head, n, token_bytes=token_bytes, reading=asked.reading, reports_usage=_at_end(body))

    await converse(service, exchange, body, arrival, "chatcmpl-", shape)


async def converse(
    service: Service,
    exchange: Exchange,
    body: ChatBody,
    arrival: float,
    prefix: str,
    shape: Callable[[Head, Conversation], Format],
) -> None:
    """Answer a conversation in the ``shape`` of some API, with ids that begin with ``prefix``."""
    service.check_model(body.model)
    asked = await conversation_of(body, service.require())
    objective = objective_of(body, exchange.headers, exchange.tenant)
    head = _head(service, prefix, objective)
    requests = _requests(head.id, [asked.ids], asked.params, arrival, objective)
    await _run(service, exchange, body, requests, shape(head, asked))


async def _run(
    service: Service, exchange: Exchange, body: SamplingBody, requests: tuple[EngineRequest, ...], shape: Format
) -> None:
    options = body.stream_options
    job = Job(
        requests=requests,
        n=requests[0].params.n,
        format=shape,
        events=shape if body.stream else None,
        usage_in_events=options is not None and bool(options.continuous_usage_stats),
        timeline=bool(body.timeline),
        price=service.config.price,
    )
    await serve(service, exchange, job)


async def serve(service: Service, exchange: Exchange, job: Job) -> None:
    """Have the engine answer a job, and keep the books of it."""
    requests = job.requests
    timeline = RequestTimeline(
        service.metrics,
        service.clock,
        requests[0].arrival,
        prompt_tokens=job.prompt_tokens,
        choices=job.choices,
        price=job.price,
    )
    try:
        await answer(job, service.engine, exchange, timeline)
    finally:
        name = requests[0].id if len(requests) == 1 else requests[0].id.removesuffix("-0")
        exchange.report = timeline.request_report(name, exchange.request_id)
        service.log.add(exchange.report, exchange.tenant)


def _at_end(body: SamplingBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def _head(service: Service, prefix: str, objective: Objective) -> Head:
    return Head(prefix + secrets.token_hex(12), int(time.time()), service.config.names[0], objective.warnings)


def _requests(
    name: str, ids: Sequence[tuple[int, ...]], params: SamplingParams, arrival: float, objective: Objective
) -> tuple[EngineRequest, ...]:
    return tuple(
        EngineRequest(
            id=name if len(ids) == 1 else f"{name}-{at}",
            prompt_ids=tokens,
            params=params,
            arrival=arrival,
            **objective.fields,
        )
        for at, tokens in enumerate(ids)
    )


async def _prompt_ids(
    prompt: str | Sequence[int], param: str, body: CompletionBody, loaded: Loaded, params: SamplingParams
) -> tuple[int, ...]:
    if isinstance(prompt, str):
        ids = await loaded.codec.encode(prompt, add_special=body.add_special_tokens is not False)
    else:
        check_ids(prompt, loaded.info.vocab_size, param)
        ids = tuple(prompt)
    check_context(len(require_prompt(ids, param)), params, loaded.info, param=param)
    return ids


def prompts_of(prompt: str | list[str | int | list[int]], name: str) -> list[tuple[str, str | list[int]]]:
    """What the field ``name`` holds, in OpenAI's four forms: a text, texts, token ids, lists of token ids. Each with
    what to call it: by its place where it is in a list."""
    if isinstance(prompt, str):
        return [(name, prompt)]
    if not prompt:
        raise InvalidRequest(f"{name} is an empty list: it must hold at least one text or token", param=name)
    texts = [item for item in prompt if isinstance(item, str)]
    ids = [item for item in prompt if isinstance(item, int)]
    lists = [item for item in prompt if isinstance(item, list)]
    if len(prompt) not in (len(texts), len(ids), len(lists)):
        raise InvalidRequest(
            f"{name} mixes kinds: send a text, a list of texts, a list of token ids or a list of such lists",
            param=name,
        )
    if ids:
        return [(name, ids)]
    several: list[str | list[int]] = [*texts, *lists]
    return [(f"{name}[{at}]", one) for at, one in enumerate(several)]
