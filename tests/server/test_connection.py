"""Bounds of a connection: heads that are too large or too slow, too many at a time."""

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx

from tests.server.fakes import FakeEngine
from tests.server.test_live import connect

Live = Callable[..., Any]


def answer_of(sock: socket.socket) -> tuple[int, dict[str, Any]]:
    seen = b""
    while part := sock.recv(65536):
        seen += part
    head, _, body = seen.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


def test_a_connection_without_a_head_is_closed(live: Live) -> None:
    with live(FakeEngine(), head_timeout=0.05) as server, connect(server.url) as sock:
        assert sock.recv(4096) == b""


def test_a_head_that_does_not_end(live: Live) -> None:
    with live(FakeEngine(), head_timeout=0.05) as server, connect(server.url) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: t\r\nX-Slow: ")
        status, error = answer_of(sock)
    assert (status, error["code"]) == (408, "request_timeout")


def test_the_next_head_of_a_connection_is_bounded_too(live: Live) -> None:
    with live(FakeEngine(), head_timeout=0.05) as server, connect(server.url) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: t\r\n\r\n")
        seen = b""
        while b"m-alias" not in seen:
            seen += sock.recv(4096)
        sock.sendall(b"GET /v1/mod")
        seen = b""
        while part := sock.recv(4096):
            seen += part
    assert b"HTTP/1.1 408" in seen


def test_a_large_head_in_one_piece_or_without_end(live: Live) -> None:
    with live(FakeEngine(), head_limit=1024) as server:
        for head in (
            b"X-Big: " + b"x" * 2000 + b"\r\n\r\n",
            b"X-Big: " + b"x" * 2000,  # and never the rest
            b"".join(b"X-%d: 1\r\n" % at for at in range(500)) + b"\r\n",
        ):
            with connect(server.url) as sock:
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: t\r\n" + head)
                status, error = answer_of(sock)
                assert (status, error["code"]) == (431, "headers_too_large")
                assert "1024" in error["message"]
        with connect(server.url) as sock:
            sock.sendall(b"GET /" + b"x" * 2000)
            assert answer_of(sock)[0] == 431
        big = {"prompt": "x" * 100, "user": "y" * 4000}  # a body is not a head
        assert httpx.post(server.url + "/v1/completions", json=big).status_code == 200


def test_what_is_no_http(live: Live) -> None:
    with live(FakeEngine()) as server, connect(server.url) as sock:
        sock.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        status, error = answer_of(sock)
    assert (status, error["code"]) == (400, "bad_request")


def test_only_so_many_connections(live: Live) -> None:
    with live(FakeEngine(), connections=1) as server, httpx.Client(base_url=server.url) as first:
        assert first.get("/health").status_code == 200  # and its connection stays
        with connect(server.url) as second:
            status, error = answer_of(second)
            assert (status, error["code"]) == (503, "busy")
        assert first.get("/health").status_code == 200


async def turn() -> None:
    """What was there for the loop to do has been done."""


def test_a_body_in_pieces_is_no_head(live: Live) -> None:
    body = b'{"prompt": "x", "max_tokens": 1, "user": "' + b"y" * 4000 + b'"}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with live(FakeEngine(), head_limit=1024) as server, connect(server.url) as sock:
        sock.sendall(head)
        assert b" 100 " in sock.recv(4096)
        sock.sendall(body[:2000])
        for _ in range(2):
            server.call(turn())
        sock.sendall(body[2000:])
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
