"""Over real sockets: disconnects, broken senders, stopping."""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tenfold.core.errors import ConfigError
from tenfold.server.run import bind
from tests.server.conftest import in_time
from tests.server.fakes import FakeEngine

Live = Callable[..., Any]


async def release(engine: FakeEngine, count: int) -> None:
    assert engine.gate is not None
    for _ in range(count):
        engine.gate.release()


async def until_closed(engine: FakeEngine) -> None:
    while engine.open or not engine.aborted:
        engine.changed.clear()
        await asyncio.wait_for(engine.changed.wait(), 10)


def request_bytes(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize("prompt", ["x", ["x", "y"]])
def test_leaving_a_stream_aborts_its_requests(live: Live, prompt: Any) -> None:
    engine = FakeEngine(gate=asyncio.Semaphore(0))
    with live(engine) as server:
        with connect(server.url) as sock:
            sock.sendall(request_bytes({"prompt": prompt, "stream": True}))
            server.call(release(engine, 4))
            seen = b""
            while b"data:" not in seen:
                seen += sock.recv(4096)
        server.call(until_closed(engine))
        assert len(engine.aborted) == (1 if prompt == "x" else 2)
        assert httpx.get(server.url + "/health").status_code == 200


def test_leaving_while_a_whole_answer_is_made_aborts_too(live: Live) -> None:
    engine = FakeEngine(gate=asyncio.Semaphore(0))

    async def begun() -> None:
        await asyncio.wait_for(engine.changed.wait(), 10)
        assert engine.open == 1

    with live(engine) as server:
        with connect(server.url) as sock:
            sock.sendall(request_bytes({"prompt": "x"}))
            server.call(begun())
        server.call(until_closed(engine))
        counted = 'route="/v1/completions",status="499"'
        text = in_time(lambda: httpx.get(server.url + "/metrics").text, lambda text: counted in text)
    assert 'tenfold_request_success_total{finished_reason="abort"} 1.0' in text
    assert counted in text


def test_a_stopping_server_finishes_its_streams(live: Live) -> None:
    engine = FakeEngine(gate=asyncio.Semaphore(0))
    server = live(engine)
    with connect(server.url) as sock:
        with server:
            sock.sendall(request_bytes({"prompt": "x", "max_tokens": 3, "stream": True}))
            server.call(release(engine, 1))
            seen = b""
            while b"data:" not in seen:
                seen += sock.recv(4096)
            server.loop.call_soon_threadsafe(server.stop)
            server.call(release(engine, 2))
        while part := sock.recv(4096):
            seen += part
    assert seen.count(b"data: {") == 3
    assert b"data: [DONE]" in seen
    assert engine.aborted == []


def test_a_chunked_body_over_the_limit_is_cut_off(live: Live) -> None:
    def endless() -> Any:
        for _ in range(8):
            yield b"x" * 1024

    with live(FakeEngine(), body_limit=4096) as server:
        headers = {"content-type": "application/json"}
        response = httpx.post(server.url + "/v1/completions", content=endless(), headers=headers)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"
        with connect(server.url) as sock:
            size = 100 * 4096
            head = f"POST /tokenize HTTP/1.1\r\nHost: t\r\nContent-Length: {size}\r\n\r\n"
            sock.sendall(head.encode())  # and never the body
            assert sock.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come(live: Live) -> None:
    with live(FakeEngine(), body_timeout=0.01) as server, connect(server.url) as sock:
        sock.sendall(b"POST /tokenize HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n{")
        assert sock.recv(4096).startswith(b"HTTP/1.1 408")


def test_many_streams_at_once_do_not_mix(live: Live) -> None:
    async def run(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            bodies = [{"prompt": f"<{at}>", "echo": True, "max_tokens": 13, "stream": True} for at in range(16)]
            answers = await asyncio.gather(*(client.post("/v1/completions", json=body) for body in bodies))
        texts = []
        for answer in answers:
            parts = [json.loads(part[6:]) for part in answer.text.split("\n\n")[:-2]]
            texts.append("".join(part["choices"][0]["text"] for part in parts))
        return texts

    with live(FakeEngine()) as server:
        texts = asyncio.run(run(server.url))
    assert texts == [f"<{at}>Hello wörld!" for at in range(16)]


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* is in use: choose another with --port"):
            bind("127.0.0.1", port)


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match="--host"):
        bind("192.0.2.1", 0)
    with pytest.raises(ConfigError, match="cannot listen on"):
        bind("no such host.invalid", 0)
