"""Draining, probes, and files that are read again."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenfold.core.config import PROFILES, SchedulerConfig
from tenfold.core.errors import ConfigError
from tenfold.core.slo import parse_classes
from tenfold.server.app import application
from tenfold.server.doors import Doors
from tenfold.server.keyfile import KeyRecord, hash_of, line_of
from tenfold.server.reload import Fresh, Reload, live_limits
from tenfold.server.run import Sockets, bind
from tests.server.conftest import make_service
from tests.server.fakes import FakeEngine

Ask = Callable[..., httpx.Response]
STARTED = SchedulerConfig(max_waiting=9)


def test_a_closed_server_finishes_what_runs_and_takes_no_more() -> None:
    async def run() -> None:
        engine = FakeEngine(gate=asyncio.Semaphore(0))
        service = make_service(engine)
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = asyncio.ensure_future(client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}))
            await engine.changed.wait()
            assert (await client.get("/health/ready")).status_code == 200
            service.traffic.close()
            quiet = asyncio.ensure_future(service.traffic.quiet())
            refused = await client.post("/v1/completions", json={"prompt": "x"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["connection"] == "close"
            for path in ("/health", "/health/ready"):
                told = await client.get(path)
                assert (told.status_code, told.json()["status"]) == (503, "stopping")
            assert (await client.get("/health/live")).status_code == 200
            assert not quiet.done()
            for _ in range(2):
                assert engine.gate is not None
                engine.gate.release()
            assert (await first).status_code == 200
            await quiet
        assert len(engine.requests) == 1

    asyncio.run(run())


def test_a_server_that_does_nothing_is_quiet_at_once() -> None:
    async def run() -> None:
        service = make_service(FakeEngine())
        service.traffic.close()
        await service.traffic.quiet()

    asyncio.run(run())


@pytest.mark.parametrize("state", ["starting", "ready", "stuck", "restarting", "failed"])
def test_alive_unless_it_failed_for_good(ask: Ask, state: str) -> None:
    assert ask("GET", "/health/ready", engine=FakeEngine(state=state)).status_code == (200 if state == "ready" else 503)
    assert ask("GET", "/health/live", engine=FakeEngine(state=state)).status_code == (503 if state == "failed" else 200)


def reload_of(service: Any, reread: Any) -> Reload:
    with bind("127.0.0.1", 0) as sock:
        return Reload(service, Doors(service, Sockets(sock)), reread, STARTED)


def test_settings_that_are_read_again(caplog: pytest.LogCaptureFixture) -> None:
    service = make_service(FakeEngine(), grace=30.0)
    now = service.config
    fresh = replace(now, grace=5.0, body_limit=2048, price=3.0)
    reload_of(service, lambda: Fresh(fresh, STARTED, ("--price", "--profile")))()
    assert (service.config.grace, service.config.body_limit, service.config.price) == (5.0, 2048, None)
    assert "grace was 30.0 and is 5.0" in caplog.text
    assert "--price, --profile changed, too: that needs a restart" in caplog.text

    def broken() -> Any:
        raise ConfigError("settings.toml sets 'speed', which is no option")

    reload_of(service, broken)()
    assert service.config.grace == 5.0
    assert "the settings stay as before: settings.toml" in caplog.text


def test_new_limits_count_from_the_next_request(ask: Ask) -> None:
    async def run() -> list[int]:
        service = make_service(FakeEngine())
        transport = httpx.ASGITransport(application(service))
        statuses = []
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for limit in (4096, 1024):
                fresh = Fresh(replace(service.config, body_limit=limit), STARTED)
                reload_of(service, lambda fresh=fresh: fresh)()
                answer = await client.post("/v1/completions", json={"prompt": "x", "user": "y" * 2000})
                statuses.append(answer.status_code)
        return statuses

    assert asyncio.run(run()) == [200, 413]


def test_the_schedulers_limits_are_read_again(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(limits=STARTED)
    service = make_service(engine)
    classes = parse_classes(["interactive:ttft=2s"])
    wanted = replace(STARTED, max_waiting=3, max_running=100, max_step_tokens=128, classes=classes)
    rereads = iter([Fresh(service.config, wanted), Fresh(service.config, STARTED)])
    reload = reload_of(service, lambda: next(rereads))
    reload()
    assert engine.limits == replace(wanted, max_running=STARTED.max_running)
    assert service.require().info.max_waiting == 3
    for said in (
        "max_waiting was 9 and is 3",
        "SLO class was interactive:ttft=1000ms,tpot=100ms,weight=4,shed=yes,preempt=no and is interactive:ttft=2000ms",
        "--max-running (more than at the start) changed, too: that needs a restart",
    ):
        assert said in caplog.text
    assert "standard" not in caplog.text  # that class is what it was
    reload()
    assert engine.limits == STARTED


@pytest.mark.parametrize(
    ("changes", "live", "kept"),
    [
        ({"max_waiting_per_tenant": 2}, {"max_waiting_per_tenant": 2}, ()),
        (
            {"max_running": 8, "max_step_tokens": 1000},
            {"max_running": 8},
            ("--max-step-tokens (more than at the start)",),
        ),
        (
            {"classes": parse_classes(["batch:ttft=9s", "bulk:ttft=9s"])},
            {"classes": parse_classes(["batch:ttft=9s"])},
            ("--slo-class (other names)",),
        ),
        ({"policy": PROFILES["throughput"], "tenants": {"a": 2.0}}, {}, ()),  # options of these need a restart
    ],
)
def test_what_a_running_engine_can_take(changes: Any, live: Any, kept: tuple[str, ...]) -> None:
    assert live_limits(STARTED, STARTED, replace(STARTED, **changes)) == (replace(STARTED, **live), kept)


def test_what_cannot_be_together_is_refused() -> None:
    """Places of the file as it is now, with a step's tokens of before, which it wants more of than there can be."""
    small = replace(STARTED, max_running=8, max_step_tokens=16)
    started = replace(STARTED, max_running=64, max_step_tokens=64)
    with pytest.raises(ConfigError, match="max_step_tokens"):
        live_limits(small, started, replace(STARTED, max_running=64, max_step_tokens=65))


def test_keys_that_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text(line_of("one", KeyRecord(hash=hash_of(b"k"))))
    service = make_service(FakeEngine(), api_keys_file=file)
    file.write_text("broken")
    reload_of(service, None)()
    assert "the API keys stay as before" in caplog.text
    nothing = make_service(FakeEngine())
    reload_of(nothing, None)()
    assert "without files to read again" in caplog.text
