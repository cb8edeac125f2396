"""POST /v1/embeddings: texts go through the engine as prompts do, and come back as vectors."""

import asyncio
import base64
import math
import secrets
import struct
from collections.abc import Mapping, Sequence

import msgspec

from tenfold.core.errors import ContextOverflow, InvalidRequest
from tenfold.core.request import POOLED, EngineRequest, RequestOutput
from tenfold.observe.requests import ChoiceTimeline
from tenfold.server.completions import prompts_of, serve
from tenfold.server.decode import decode
from tenfold.server.exchange import Exchange
from tenfold.server.formats import NO_TIMELINES
from tenfold.server.generation import Job
from tenfold.server.objectives import objective_of
from tenfold.server.params import MAX_CHOICES, check_ids
from tenfold.server.protocol import Embedding, EmbeddingBody, EmbeddingResponse, Usage
from tenfold.server.service import Loaded, Service, require_prompt

_decoder = msgspec.json.Decoder(EmbeddingBody)


async def embeddings(service: Service, exchange: Exchange) -> None:
    """A vector for each text."""
    arrival = service.clock.now()
    body = decode(await exchange.json_body(), _decoder)
    service.check_model(body.model)
    loaded = service.require()
    size = loaded.info.embedding_size
    if not size:
        raise InvalidRequest(
            f"{loaded.info.model} gives no embeddings here: this backend ({loaded.info.backend}) does not hand out "
            "hidden states; --backend cpu does"
        )
    if body.dimensions is not None and not 1 <= body.dimensions <= size:
        raise InvalidRequest(f"dimensions must be from 1 to {size}, got {body.dimensions}", param="dimensions")
    texts = prompts_of(body.input, "input")
    most = min(MAX_CHOICES, loaded.info.max_waiting)
    if len(texts) > most:
        raise InvalidRequest(f"input has {len(texts)} texts; at most {most} are taken at once", param="input")
    ids = []
    for param, text in texts:
        ids.append(await _ids(text, param, body, loaded))
        await asyncio.sleep(0)  # others get their turn between the texts of a large batch
    objective = objective_of(body, exchange.headers, exchange.tenant)
    name = "embd-" + secrets.token_hex(12)
    requests = tuple(
        EngineRequest(
            id=name if len(ids) == 1 else f"{name}-{at}",
            prompt_ids=tokens,
            params=POOLED,
            arrival=arrival,
            pooling=body.pooling or "last",
            **objective.fields,
        )
        for at, tokens in enumerate(ids)
    )
    shape = _Vectors(service.config.names[0], body.dimensions, encoded=body.encoding_format == "base64")
    await serve(service, exchange, Job(requests, 1, shape, price=service.config.price))


async def _ids(text: str | Sequence[int], param: str, body: EmbeddingBody, loaded: Loaded) -> tuple[int, ...]:
    if isinstance(text, str):
        ids = await loaded.codec.encode(text, add_special=body.add_special_tokens is not False) if text else ()
    else:
        check_ids(text, loaded.info.vocab_size, param)
        ids = tuple(text)
    most = loaded.info.max_context - 1
    if len(require_prompt(ids, param)) > most:
        raise ContextOverflow(
            f"{param} has {len(ids)} tokens, and {loaded.info.model} takes at most {most} here; shorten it or "
            "cut it into several",
            param=param,
        )
    return ids


class _Vectors:
    """How vectors are written: all of their numbers, or the first ``dimensions``, made as long as 1 again."""

    def __init__(self, model: str, dimensions: int | None, *, encoded: bool) -> None:
        self._model = model
        self._dimensions = dimensions
        self._encoded = encoded

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """See :class:`tenfold.server.formats.WholeFormat`."""
        data = [Embedding(at, self._written(outputs[-1])) for at, outputs in enumerate(choices)]
        return msgspec.json.encode(EmbeddingResponse(data, self._model, usage))

    def _written(self, output: RequestOutput) -> list[float] | str:
        assert output.embedding is not None, "the engine pools what it was asked to pool"
        vector: Sequence[float] = struct.unpack(f"<{len(output.embedding) // 4}f", output.embedding)
        if self._dimensions is not None:
            cut = vector[: self._dimensions]
            length = math.hypot(*cut)
            vector = [number / length for number in cut] if length else cut
        if self._encoded:
            return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        return list(vector)
