"""Any OpenAI-compatible server as a target.

A client for one thing: stamping the arrival of stream events. It sits on httptools and a bare asyncio protocol:
a general HTTP client takes some three times the CPU per event, on a machine where the server needs that CPU.
"""

import asyncio
import contextlib
import errno
import ssl
from typing import cast
from urllib.parse import quote, urlsplit

import httptools
import msgspec

from tenfold.bench.record import Record
from tenfold.bench.workload import Work
from tenfold.core.clock import Clock, WallClock
from tenfold.core.errors import ConfigError, EngineUnavailable
from tenfold.core.slo import NO_SLO, Slo
from tenfold.engine.inspection import KEPT, StepRecord

_VISIBLE = "".join(chr(code) for code in range(33, 127) if chr(code) != "%")  # of a header's value
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # what this side has run out of


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Choice(msgspec.Struct):
    index: int = 0


class _Fault(msgspec.Struct):
    message: str = "no reason was given"


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Fault | None = None


class _Steps(msgspec.Struct):
    data: list[StepRecord]


_event_decoder = msgspec.json.Decoder(_Event)


class _Connection(asyncio.Protocol):
    """One keep-alive connection, answering one request at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._now = 0.0
        self._asked = 0
        self._heard = False
        self.closed = False

    @property
    def dropped(self) -> bool:
        """Whether the server closed a kept connection instead of answering: it never saw the latest request."""
        return self.closed and self._asked > 1 and not self._heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no asyncio class

    async def ask(self, request: bytes, record: Record) -> None:
        """Send a request and fill the record from its stream."""
        assert self._transport is not None
        self._record = record
        self._parser = httptools.HttpResponseParser(self)
        self._pending = b""
        self._refusal: bytearray | None = None
        self._chunks = 0
        self._complete = False
        self._asked += 1
        self._heard = False
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done

    def close(self) -> None:
        """Drop the connection; the server sees a client that left."""
        if self._transport is not None:
            self._transport.close()

    # asyncio's callbacks
    def data_received(self, data: bytes) -> None:
        self._now = self._clock.now()
        self._heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, msgspec.DecodeError) as error:
            self._finish(f"bad answer: {error.__context__ or error}")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._finish(f"the connection was lost{f': {error}' if error else ''}")

    # httptools' callbacks
    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._refusal = bytearray()

    def on_body(self, body: bytes) -> None:
        if self._refusal is not None:
            self._refusal += body
            return
        *lines, self._pending = (self._pending + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def on_message_complete(self) -> None:
        error = None
        if self._refusal is not None:
            error = f"{self._parser.get_status_code()} {self._refusal[:200].decode(errors='replace')}"
        elif not self._complete:
            error = "the stream ended without [DONE]"
        if not self._parser.should_keep_alive():
            self.closed = True
            self.close()
        self._finish(error)

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._complete = True
            return
        event = _event_decoder.decode(data)
        if event.error is not None:
            self._record.error = event.error.message[:200]
        if event.usage is not None:
            self._record.prompt_tokens = event.usage.prompt_tokens
            self._record.output_tokens = event.usage.completion_tokens
        if event.choices:
            self._chunks += 1
            self._record.output(self._now)

    def _finish(self, error: str | None) -> None:
        if self._done is None or self._done.done():
            return
        self._record.error = self._record.error or error
        self._record.output_tokens = self._record.output_tokens or self._chunks
        self._done.set_result(None)


class HttpTarget:
    """A server at ``url``, asked for streams of ``/v1/completions``. ``timeout`` is in seconds per request.

    ``slo`` goes along in the headers ``x-slo-ttft-ms`` and ``x-slo-tpot-ms``, or else a request's class in
    ``x-slo-class``; its tenant in ``x-tenant``.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "default",
        api_key: str | None = None,
        timeout: float = 600.0,
        slo: Slo = NO_SLO,
        clock: Clock | None = None,
        temperature: float = 0.0,
    ) -> None:
        self._temperature = temperature
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https"):
            raise ConfigError(f"--url must be like http://127.0.0.1:8000, got {url!r}")
        self._host = host
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._url = f"{parts.scheme}://{parts.netloc}"
        path = parts.path.rstrip("/").removesuffix("/v1")
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"POST {path}/v1/completions HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n{key}"
            "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
        ).encode("latin-1", errors="replace")
        self._terms = b"".join(
            b"x-slo-%b-ms: %g\r\n" % (name, 1000 * bound)
            for name, bound in ((b"ttft", slo.ttft), (b"tpot", slo.tpot))
            if bound is not None
        )
        self._model = model
        self._key = api_key
        self._timeout = timeout
        self._clock = clock or WallClock()
        self._idle: list[_Connection] = []

    async def start(self) -> str:
        """Connect once. Raises EngineUnavailable where nobody answers."""
        try:
            self._idle.append(await self._connect())
        except OSError as error:
            raise EngineUnavailable(
                f"no server answers at {self._url} ({error.strerror or error}); start one with `tenfold serve`"
            ) from None
        return f"server {self._url}"

    async def ask(self, work: Work) -> Record:
        """See :class:`~tenfold.bench.target.Target`."""
        record = Record(work.kind, work.output_tokens, self._clock.now(), tenant=work.tenant, slo_class=work.slo_class)
        connection = None
        try:
            async with asyncio.timeout(self._timeout) as limit:
                connection = await self._take()
                await connection.ask(self._request(work), record)
                if connection.dropped:  # as every client does; its time stays in the record
                    record.error = None
                    connection = await self._connect()
                    await connection.ask(self._request(work), record)
        except OSError as error:  # TimeoutError is one: ours, or the system's
            record.unreached = connection is None and error.errno not in _OURS
            record.error = f"cannot connect: {error.strerror or error}"
            if limit.expired():
                record.error = f"no end after {self._timeout:g} seconds"
        if connection is not None:
            if record.error is not None:
                connection.close()
            elif not connection.closed:
                self._idle.append(connection)
        return record.end(self._clock)

    async def steps(self) -> list[StepRecord]:
        """See :class:`~tenfold.bench.target.Target`: none of a server that has no ``/debug/steps``."""
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with contextlib.suppress(httpx.HTTPError, msgspec.DecodeError):
            async with httpx.AsyncClient(timeout=30.0) as client:
                answer = await client.get(f"{self._url}/debug/steps?n={KEPT}", headers=headers)
            if answer.status_code == 200:
                return msgspec.json.decode(answer.content, type=_Steps).data
        return []

    async def stop(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _request(self, work: Work) -> bytes:
        body = msgspec.json.encode(
            {
                "model": self._model,
                "prompt": work.prompt,
                "max_tokens": work.output_tokens,
                "temperature": self._temperature,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        tenant = f"x-tenant: {quote(work.tenant, safe=_VISIBLE)[:128]}\r\n".encode() if work.tenant else b""
        terms = b"" if work.bare or work.slo_class else self._terms
        if work.slo_class:
            terms += f"x-slo-class: {quote(work.slo_class, safe=_VISIBLE)[:64]}\r\n".encode()
        return b"%b%b%bContent-Length: %d\r\n\r\n%b" % (self._head, terms, tenant, len(body), body)

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return await self._connect()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._clock), self._host, self._port, ssl=self._ssl
        )
        return connection
