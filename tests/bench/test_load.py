"""Loads on targets: a scripted one, an engine, a server."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.http_target import HttpTarget
from tenfold.bench.load import Load, at_random, closed, replayed, run_load
from tenfold.bench.phases import Phase, as_json, run_phases
from tenfold.bench.record import Record
from tenfold.bench.report import summary
from tenfold.bench.target import Target
from tenfold.bench.workload import Work
from tenfold.core.clock import VirtualClock
from tenfold.core.errors import ConfigError, EngineUnavailable, Overloaded
from tenfold.core.slo import Slo
from tenfold.engine.inspection import StepRecord
from tenfold.traffic.row import Row
from tests.server.conftest import LiveServer
from tests.server.fakes import INFO, ByteTokenizer, FakeEngine

WORK = Work("short", "hi", 5)


class ScriptedTarget:
    """Every request lets others run before it ends."""

    def __init__(self, error: str | None = None, turns: int = 1) -> None:
        self.error = error
        self.turns = turns
        self.asked: list[Work] = []
        self.now = self.most = 0

    async def start(self) -> str:
        return "scripted"

    async def ask(self, work: Work) -> Record:
        self.asked.append(work)
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        self.now -= 1
        return Record(work.kind, work.output_tokens, 0.0, error=self.error).end(VirtualClock(1.0))

    async def steps(self) -> list[StepRecord]:
        return []

    async def stop(self) -> None:
        pass


def test_a_closed_loop_keeps_to_its_users() -> None:
    target = ScriptedTarget()
    seen: list[Record] = []
    outcome = asyncio.run(run_load(target, closed("short", 10, 3), on_record=seen.append))
    assert len(outcome.records) == len(seen) == 10
    assert len(target.asked) == 12  # two of them to warm up
    assert target.most == 3


def test_an_open_loop_waits_for_nobody() -> None:
    target = ScriptedTarget(turns=100)
    outcome = asyncio.run(run_load(target, at_random("short", 10, 1e9)))
    assert len(outcome.records) == 10
    assert target.most == 10


def test_a_failed_warm_up() -> None:
    with pytest.raises(EngineUnavailable, match="503 down"):
        asyncio.run(run_load(ScriptedTarget("503 down"), closed("short", 1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: closed("short", 0),
        lambda: closed("short", 1, 0),
        lambda: at_random("short", 0, 1.0),
        lambda: at_random("short", 1, 0.0),
        lambda: at_random("short", 1, float("inf")),
        lambda: at_random("short", 1, 1.0, burstiness=-1.0),
        lambda: closed("huge"),
    ],
)
def test_loads_that_make_no_sense(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_a_trace_is_replayed_at_its_times_with_its_lengths() -> None:
    rows = [
        Row(0.0, 700, 4, "a", blocks=(5, 6), block_tokens=512),
        Row(0.01, 600, 5, "b", blocks=(5, 7), block_tokens=512),
        Row(0.02, 3, 6),
    ]
    load = replayed("trace.csv", rows)
    first, second, third = (one.prompt.split(" ") for one in load.work)
    assert [len(words) for words in (first, second, third)] == [700, 600, 3]
    assert first[:512] == second[:512]
    assert first[512:600] != second[512:600]
    assert replayed("trace.csv", rows) == load != replayed("trace.csv", rows, seed=8)
    target = ScriptedTarget()
    outcome = asyncio.run(run_load(target, load))
    assert [work.output_tokens for work in target.asked[2:]] == [4, 5, 6]
    assert [work.tenant for work in target.asked[2:]] == ["a", "b", ""]
    assert outcome.wall >= 0.02


@pytest.mark.parametrize("load", [closed("short", 200, 4), at_random("short", 200, 1e5)])
def test_a_target_that_is_gone_ends_the_load(load: Load) -> None:
    class Gone(ScriptedTarget):
        async def ask(self, work: Work) -> Record:
            record = await super().ask(work)
            if len(self.asked) > 20 and len(self.asked) != 40:  # one more is answered late
                record.error, record.unreached = "cannot connect: refused", True
            return record

    outcome = asyncio.run(run_load(Gone(), load))
    assert outcome.partial is not None
    assert "cannot connect" in outcome.partial
    assert 18 < len(outcome.records) < 200
    assert "partial" in summary(outcome, "gone")


def ask(target: Target, *works: Work) -> list[Record]:
    async def run() -> list[Record]:
        await target.start()
        try:
            return [await target.ask(work) for work in works]
        finally:
            await target.stop()

    return asyncio.run(run())


def test_a_server_as_target() -> None:
    engine = FakeEngine()
    with LiveServer(engine, api_keys=("k",)) as server:
        target = HttpTarget(server.url + "/v1", api_key="k")
        first, second = ask(target, WORK, Work("long", "x" * 30, 7))
    assert (first.error, first.output_tokens, first.prompt_tokens, len(first.gaps)) == (None, 5, 3, 4)
    assert (second.error, second.output_tokens, second.prompt_tokens) == (None, 7, 31)
    assert first.ttft is not None
    assert first.e2e is not None
    assert first.e2e >= first.ttft > 0
    params = engine.requests[0].params
    assert (params.temperature, params.ignore_eos, params.max_tokens) == (0.0, True, 5)


def test_tokens_that_come_together_count_all() -> None:
    with LiveServer(FakeEngine(burst=4)) as server:
        (record,) = ask(HttpTarget(server.url), Work("short", "hi", 8))
    assert (record.output_tokens, len(record.gaps)) == (8, 1)


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (FakeEngine(refuse=Overloaded("full", retry_after=1)), "429"),
        (FakeEngine(fail_at=2, failure=EngineUnavailable("the engine died")), "the engine died"),
    ],
)
def test_a_servers_errors_are_recorded(engine: FakeEngine, says: str) -> None:
    with LiveServer(engine) as server:
        (record,) = ask(HttpTarget(server.url), WORK)
    assert record.error is not None
    assert says in record.error


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "without [DONE]"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\ndata: {nope}\n", "bad answer"),
        (b"SSH-2.0-x\r\n\r\n", "bad answer"),
    ],
)
def test_answers_that_are_none(answer: bytes, says: str) -> None:
    async def run() -> Record:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if await reader.read(1):
                writer.write(answer)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            target = HttpTarget(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await target.start()
            record = await target.ask(WORK)
            await target.stop()
        return record

    record = asyncio.run(run())
    assert record.error is not None
    assert says in record.error


def test_a_kept_connection_that_the_server_drops_is_replaced() -> None:
    answer = b'data: {"choices": [{"index": 0}]}\n\ndata: [DONE]\n\n'
    ended: list[asyncio.Event] = []

    async def run() -> list[Record]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            end = asyncio.Event()
            ended.append(end)
            await reader.readuntil(b"}}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"}}")  # reads one more and closes instead of answering
            writer.close()
            await writer.wait_closed()
            end.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            target = HttpTarget(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await target.start()
            records = [await target.ask(WORK) for _ in range(3)]
            await target.stop()
            for end in ended:
                await end.wait()
        return records

    records = asyncio.run(run())
    assert [(record.error, record.output_tokens) for record in records] == [(None, 1)] * 3
    assert len(ended) == 3


def test_tenants_and_bounds_go_along() -> None:
    engine = FakeEngine()
    slo = Slo(ttft=30.0, tpot=2.5)
    with LiveServer(engine) as server:
        ask(HttpTarget(server.url, slo=slo), Work("short", "hi", 2, tenant="acme"), WORK)
        ask(EngineTarget(engine, ByteTokenizer, slo=slo), Work("short", "hi", 2, tenant="acme"))
        ask(HttpTarget(server.url, slo=slo), Work("short", "hi", 2, tenant="an Ärger\r\n%", bare=True))
    ask(EngineTarget(engine, ByteTokenizer, slo=slo), Work("short", "hi", 2, bare=True))
    named = [(request.tenant, request.ttft, request.tpot) for request in engine.requests]
    assert named[:2] == [("acme", 30.0, 2.5), ("", 30.0, 2.5)]
    assert named[2:] == [("acme", 30.0, 2.5), ("an%20%C3%84rger%0D%0A%25", None, None), ("", None, None)]


def test_nobody_there_and_bad_addresses() -> None:
    with pytest.raises(EngineUnavailable, match="tenfold serve"):
        ask(HttpTarget("127.0.0.1:1"))
    with pytest.raises(ConfigError, match="--url"):
        HttpTarget("ftp://x")


def engine_target(engine: FakeEngine) -> EngineTarget:
    load: Callable[[], Any] = ByteTokenizer
    return EngineTarget(engine, load)


def test_an_engine_as_target() -> None:
    (record,) = ask(engine_target(FakeEngine(burst=2)), WORK)
    assert (record.error, record.output_tokens, record.prompt_tokens, len(record.gaps)) == (None, 5, 3, 2)
    (refused,) = ask(engine_target(FakeEngine(refuse=Overloaded("full", retry_after=1))), WORK)
    assert refused.error == "429 full"


def test_phases_leave_out_what_does_not_fit() -> None:
    async def run(engine: FakeEngine) -> list[Phase]:
        target = engine_target(engine)
        await target.start()
        return await run_phases(target, 7, lambda phase: seen.append(phase.size))

    seen: list[int] = []
    engine = FakeEngine()
    phases = asyncio.run(run(engine))
    assert seen == [128, 1, 4, 16, 32]
    assert list(as_json(phases)) == ["prefill_tok_s", "decode_tok_s"]
    assert all(phase.rate > 0 for phase in phases)
    assert len({request.prompt_ids for request in engine.requests}) == len(engine.requests)
    assert all(max(request.prompt_ids) < INFO.vocab_size for request in engine.requests)
    with pytest.raises(EngineUnavailable, match="full"):
        asyncio.run(run(FakeEngine(refuse=Overloaded("full", retry_after=1))))
