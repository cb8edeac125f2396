"""API keys in a file: who they let in, how far, and what happens when the file changes."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenfold.core.clock import VirtualClock
from tenfold.core.errors import ConfigError, Overloaded
from tenfold.server.allowance import Allowance
from tenfold.server.keyfile import KeyRecord, hash_of, line_of, new_key, read_keys
from tests.server.conftest import client_of
from tests.server.fakes import FakeEngine

PATH = "/v1/completions"
KEY = "tf-secret"
CLASSES = ("interactive", "standard", "batch")


def line(label: str = "laptop", key: str = KEY, **fields: Any) -> str:
    return line_of(label, KeyRecord(hash=hash_of(key.encode()), **fields)) + "\n"


def write(path: Path, text: str, at: int = 1) -> None:
    path.write_text(text)
    os.utime(path, (at, at))  # a date of its own, however fast the test is


def asked(file: Path, work: Callable[[httpx.AsyncClient, VirtualClock], Awaitable[None]], engine: FakeEngine) -> None:
    async def run() -> None:
        clock = VirtualClock()
        async with client_of(engine, clock=clock, api_keys_file=file) as client:
            client.headers["authorization"] = f"Bearer {KEY}"
            await work(client, clock)

    asyncio.run(run())


def test_a_line_is_what_is_read(tmp_path: Path) -> None:
    record = KeyRecord(
        hash=hash_of(b"k"), tenant="a.b", classes=("batch",), requests_per_minute=60, tokens_per_minute=1.5e6
    )
    write(tmp_path / "keys", line_of("x", record) + "\n" + line_of("a.b@c", KeyRecord(hash=hash_of(b"j"))) + "\n")
    assert read_keys(tmp_path / "keys", CLASSES) == {"x": record, "a.b@c": KeyRecord(hash=hash_of(b"j"))}
    assert new_key() != new_key()
    assert new_key().startswith("tf-")
    with pytest.raises(ConfigError, match="no label"):
        line_of("two words", record)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("laptop", "is no TOML"),
        ("laptop = 3", "laptop"),
        ('laptop = {tenant = "x"}', "hash"),
        ('laptop = {hash = "sha256:12"}', "hash"),
        (line().replace("}", ", rpm = 3}"), "rpm"),
        (line(requests_per_minute=60.0).replace("60", "0"), "requests_per_minute"),
        (line(tenant="x").replace('"x"', '"x y"'), "tenant"),
        (line(classes=("gold",)), "'gold', which there is not; there are batch, interactive, standard"),
        (line("one") + line("two"), "'one' and 'two' are the same key"),
        ('"two words" = {}', "no label"),
        ("".join(f"k{at} = 1\n" for at in range(5000)), "5000 keys"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path / "keys", text)
    with pytest.raises(ConfigError) as error:
        read_keys(tmp_path / "keys", CLASSES)
    assert says in str(error.value)
    assert "keys" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*--api-keys"):
        read_keys(tmp_path / "keys", CLASSES)


def test_only_its_keys_are_let_in_and_for_their_tenant(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def work(client: httpx.AsyncClient, clock: VirtualClock) -> None:
        assert (await client.post(PATH, json={"prompt": "x"})).status_code == 200
        for sent in ("Bearer other", f"Basic {KEY}", hash_of(KEY.encode()), f"Bearer {hash_of(KEY.encode())}", ""):
            headers = {"authorization": sent}
            assert (await client.post(PATH, json={"prompt": "x"}, headers=headers)).status_code == 401

    write(tmp_path / "keys", line(tenant="acme"))
    asked(tmp_path / "keys", work, engine)
    assert [request.tenant for request in engine.requests] == ["acme"]


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient, clock: VirtualClock) -> None:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/health")).status_code == 200

    write(tmp_path / "keys", "")
    asked(tmp_path / "keys", work, FakeEngine())


def test_a_changed_file_counts_within_a_second_and_a_bad_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"

    async def work(client: httpx.AsyncClient, clock: VirtualClock) -> None:
        async def status() -> int:
            clock.advance(1.5)
            return (await client.get("/v1/models")).status_code

        assert await status() == 200
        write(file, "not = toml = at all", at=2)
        assert await status() == 200
        assert "stay as they were" in caplog.text
        write(file, line("other", "another"), at=3)
        assert await status() == 401
        write(file, line(), at=4)
        assert await status() == 200
        file.unlink()
        assert await status() == 200

    write(file, line())
    asked(file, work, FakeEngine())


def test_requests_per_minute(tmp_path: Path) -> None:
    engine = FakeEngine()
    file = tmp_path / "keys"

    async def work(client: httpx.AsyncClient, clock: VirtualClock) -> None:
        first = await client.post(PATH, json={"prompt": "x"})
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] == "30s"
        assert "x-ratelimit-limit-tokens" not in first.headers
        assert (await client.post(PATH, json={"prompt": "x"})).status_code == 200
        refused = await client.post(PATH, json={"prompt": "x"})
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "30"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await client.get("/v1/models")).status_code == 200  # what only looks is not counted
        write(file, line("renamed", requests_per_minute=2.0), at=2)  # and reading the file again gives nothing back
        clock.advance(29.0)
        assert (await client.post(PATH, json={"prompt": "x"})).status_code == 429
        clock.advance(1.5)
        assert (await client.post(PATH, json={"prompt": "x"})).status_code == 200
        assert (await client.post(PATH, json={"prompt": "x"})).status_code == 429

    write(file, line(requests_per_minute=2.0))
    asked(file, work, engine)
    assert len(engine.requests) == 3


def test_tokens_per_minute_count_prompts_and_answers(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient, clock: VirtualClock) -> None:
        body = {"prompt": "x" * 39, "max_tokens": 40}  # with begin-of-text 80 tokens of 60 a minute
        first = await client.post(PATH, json=body)
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "60"
        refused = await client.post(PATH, json=body)
        assert refused.status_code == 429
        assert "tokens per minute" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "21"
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert refused.headers["x-ratelimit-reset-tokens"] == "1m20s"
        clock.advance(21.0)
        assert (await client.post(PATH, json={**body, "stream": True})).status_code == 200
        assert (await client.post(PATH, json=body)).status_code == 429

    write(tmp_path / "keys", line(tokens_per_minute=60.0))
    asked(tmp_path / "keys", work, FakeEngine())


def test_refused_requests_cost_no_tokens(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient, clock: VirtualClock) -> None:
        for _ in range(3):
            response = await client.post(PATH, json={"prompt": "x" * 99})
            assert (response.status_code, response.headers["retry-after"]) == (429, "7")

    write(tmp_path / "keys", line(tokens_per_minute=60.0))
    asked(tmp_path / "keys", work, FakeEngine(fail_at=0, failure=Overloaded("full", retry_after=7)))


def test_a_key_is_for_its_classes(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def work(client: httpx.AsyncClient, clock: VirtualClock) -> None:
        for more, status in (({}, 200), ({"slo_class": "batch"}, 200), ({"slo_class": "interactive"}, 403)):
            response = await client.post(PATH, json={"prompt": "x", **more})
            assert response.status_code == status
        assert response.json()["error"]["code"] == "slo_class_not_allowed"
        assert response.json()["error"]["param"] == "slo_class"

    write(tmp_path / "keys", line(classes=("standard", "batch")))
    asked(tmp_path / "keys", work, engine)
    assert [request.slo_class for request in engine.requests] == ["standard", "batch"]


def test_an_allowance_fills_evenly_and_no_further_than_a_minute() -> None:
    one = Allowance(60.0, now=0.0)
    one.take(90, now=0.0)
    assert (one.left(0.0), one.wait(0.0)) == (-30.0, 31.0)
    assert one.left(40.0) == 10.0
    assert one.left(1000.0) == 60.0
    one.take(-5, now=1000.0)
    assert one.left(1000.0) == 60.0
    headers = dict(one.headers(b"tokens", 1000.0))
    assert headers[b"x-ratelimit-reset-tokens"] == b"0ms"
    one.take(0.5, now=1000.0)
    assert dict(one.headers(b"tokens", 1000.0))[b"x-ratelimit-reset-tokens"] == b"500ms"
