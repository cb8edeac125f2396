"""Who answers a chat: a server, or the engine in this process."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import msgspec

from tenfold.core.clock import WallClock
from tenfold.core.config import EngineConfig
from tenfold.core.errors import EngineUnavailable, InvalidRequest, TenfoldError
from tenfold.core.request import EngineRequest
from tenfold.core.sampling import SamplingParams

Turn = dict[str, str]


class Speaker(Protocol):
    """Answers conversations, piece by piece."""

    async def start(self) -> str:
        """Make ready; gives the model's name. Raises TenfoldError."""
        ...

    def answer(self, turns: list[Turn]) -> AsyncGenerator[str]:
        """The pieces of the answer. Raises TenfoldError; closing it early ends the generation."""
        ...

    async def stop(self) -> None:
        """Let go."""
        ...


class EngineSpeaker:
    """The engine in a child process of this one. ``config.model`` must be on this machine."""

    def __init__(self, config: EngineConfig, params: SamplingParams) -> None:
        from tenfold.engine.process import EngineProcess

        self._config = config
        self._params = params
        self._engine = EngineProcess(config)
        self._requests = 0

    async def start(self) -> str:
        """Load the model."""
        import asyncio

        from tenfold.server.texts import load_codec

        info, self._codec = await asyncio.gather(
            self._engine.start(), asyncio.to_thread(load_codec, self._config.model, self._config.load_format)
        )
        return info.model

    async def answer(self, turns: list[Turn]) -> AsyncGenerator[str]:
        """See :class:`Speaker`."""
        ids = await self._codec.encode_chat(turns, add_generation_prompt=True)
        self._requests += 1
        request = EngineRequest(
            id=f"chat-{self._requests}", prompt_ids=ids, params=self._params, arrival=WallClock().now()
        )
        async for output in self._engine.submit(request):
            if output.finish in ("error", "abort"):
                raise EngineUnavailable(f"generation failed: {output.error or output.finish}")
            yield output.text

    async def stop(self) -> None:
        """Unload the model."""
        await self._engine.stop()


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Fault(msgspec.Struct):
    message: str = "no reason was given"


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    error: _Fault | None = None


class _Card(msgspec.Struct):
    id: str


class _Cards(msgspec.Struct):
    data: list[_Card]


class ServerSpeaker:
    """Any OpenAI-compatible server at ``url``."""

    def __init__(self, url: str, params: SamplingParams, *, model: str | None, api_key: str | None) -> None:
        import httpx

        self._url = url if "://" in url else f"http://{url}"
        self._params = params
        self._model = model
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        base = self._url.rstrip("/").removesuffix("/v1") + "/v1/"
        self._http_error = httpx.HTTPError
        self._client = httpx.AsyncClient(base_url=base, headers=headers, timeout=httpx.Timeout(600, connect=10))

    async def start(self) -> str:
        """Ask for the model's name, unless it was given."""
        try:
            answer = await self._client.get("models")
            self._check(answer.status_code, answer.content)
            cards = msgspec.json.decode(answer.content, type=_Cards).data
        except self._http_error as error:
            raise EngineUnavailable(
                f"no server answers at {self._url} ({error}); start one with `tenfold serve`"
            ) from None
        except msgspec.DecodeError:
            raise EngineUnavailable(f"what answers at {self._url} is no OpenAI-compatible server") from None
        if self._model is None:
            if not cards:
                raise EngineUnavailable(f"the server at {self._url} lists no model; name one with --model")
            self._model = cards[0].id
        return self._model

    async def answer(self, turns: list[Turn]) -> AsyncGenerator[str]:
        """See :class:`Speaker`."""
        params = self._params
        body = {"model": self._model, "messages": turns, "stream": True, "temperature": params.temperature}
        body |= {"top_p": params.top_p} if params.top_p != 1 else {}
        body |= {"top_k": params.top_k} if params.top_k else {}
        body |= {"min_p": params.min_p} if params.min_p else {}
        body |= {"max_tokens": params.max_tokens} if params.max_tokens else {}
        body |= {"seed": params.seed} if params.seed is not None else {}
        try:
            async with self._client.stream("POST", "chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    self._check(answer.status_code, await answer.aread())
                async with aclosing(answer.aiter_lines()) as lines:  # type: ignore[type-var]
                    async for line in lines:
                        if line.startswith("data:") and line[5:].strip() != "[DONE]":
                            yield _text(line[5:])
        except self._http_error as error:
            raise EngineUnavailable(f"the server's answer broke off: {error}") from None

    def _check(self, status: int, content: bytes) -> None:
        if status == 200:
            return
        try:
            fault = msgspec.json.decode(content, type=_Event).error
        except msgspec.DecodeError:
            fault = None
        message = fault.message if fault is not None else content[:200].decode(errors="replace")
        kind: type[TenfoldError] = InvalidRequest if status < 500 else EngineUnavailable
        raise kind(f"the server answered {status}: {message}")

    async def stop(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def _text(data: str) -> str:
    try:
        event = msgspec.json.decode(data, type=_Event)
    except msgspec.DecodeError:
        raise EngineUnavailable(f"the server sent something that is no stream event: {data[:100]!r}") from None
    if event.error is not None:
        raise EngineUnavailable(event.error.message)
    return "".join(choice.delta.content or "" for choice in event.choices)
