"""The engine as a child process: outputs, errors, aborts, and what happens when it dies or hangs."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
import uvloop

from tenfold.cache.map import FIRST
from tenfold.core.config import EngineConfig, SchedulerConfig
from tenfold.core.errors import ConfigError, ContextOverflow, EngineUnavailable, InvalidRequest, ModelError
from tenfold.core.request import EngineRequest, RequestOutput
from tenfold.core.sampling import SamplingParams
from tenfold.engine.client import EngineClient
from tenfold.engine.hatch import Child
from tenfold.engine.inspection import Detail
from tenfold.engine.local import LocalEngine
from tenfold.engine.process import EngineProcess

PROMPT = (504, 3575, 282, 4649, 314)


def config(path: Path, **options: object) -> EngineConfig:
    return EngineConfig(model=str(path), **{"kv_tokens": 8192, **options})  # type: ignore[arg-type]


def request(name: str, **params: object) -> EngineRequest:
    settings = SamplingParams(**{"temperature": 0, "max_tokens": 8, "ignore_eos": True, **params})  # type: ignore[arg-type]
    return EngineRequest(id=name, prompt_ids=PROMPT, params=settings, arrival=0.0)


async def collect(stream: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in stream]


async def settled(engine: EngineClient) -> None:
    """Wait until the loop reports that nothing runs."""
    while (await engine.stats()).running or (await engine.stats()).blocks_held:
        await asyncio.sleep(0.01)


def test_a_child_that_was_started_ahead_is_used(smollm2_path: Path) -> None:
    async def scenario() -> None:
        ahead = Child()
        engine = EngineProcess(config(smollm2_path), first=ahead)
        await engine.start()
        assert engine.pid == ahead.pid
        outputs = await collect(engine.submit(request("r")))
        assert outputs[-1].finish == "length"
        await engine.stop()
        assert ahead.returncode == 0

    asyncio.run(scenario())


def test_a_child_that_died_before_it_was_needed_is_an_error(smollm2_path: Path) -> None:
    async def scenario() -> None:
        ahead = Child()
        ahead.kill()
        ahead.wait()
        engine = EngineProcess(config(smollm2_path), first=ahead)
        with pytest.raises(EngineUnavailable, match="-9 before the model was loaded"):
            await asyncio.wait_for(engine.start(), 20)
        await engine.stop()

    asyncio.run(scenario())


def test_a_child_nobody_uses_leaves() -> None:
    child = Child()
    child.connection.close()
    assert child.wait() == 0


@pytest.mark.parametrize("kind", [EngineProcess, LocalEngine])
def test_both_clients_serve(smollm2_path: Path, kind: type[EngineProcess] | type[LocalEngine]) -> None:
    async def scenario() -> None:
        engine = kind(config(smollm2_path))
        assert engine.health().state == "starting"
        info = await engine.start()
        assert (info.vocab_size, info.architecture) == (49152, "llama")
        assert engine.health().state == "ready"
        results = await asyncio.gather(*(collect(engine.submit(request(f"r{i}"))) for i in range(4)))
        tokens = {tuple(t for o in outputs for t in o.tokens) for outputs in results}
        assert len(tokens) == 1
        assert len(tokens.pop()) == 8
        assert all(outputs[-1].finish == "length" for outputs in results)
        again = await collect(engine.submit(request("r0")))  # an id is free once its request has ended
        assert [o.tokens for o in again] == [o.tokens for o in results[0]]
        samples = await collect(engine.submit(request("n", n=3, temperature=1.0, seed=1)))
        assert sorted(o.index for o in samples if o.finish) == [0, 1, 2]
        with pytest.raises(ContextOverflow, match="max_tokens"):
            await collect(engine.submit(request("long", max_tokens=9000)))
        await engine.stop()

    asyncio.run(scenario())


def test_leaving_early_aborts(smollm2_path: Path) -> None:
    async def scenario() -> None:
        engine = EngineProcess(config(smollm2_path))
        await engine.start()
        stream = engine.submit(request("a", max_tokens=2000))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        task = asyncio.create_task(collect(engine.submit(request("b", max_tokens=2000))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await collect(engine.submit(request("c")))
        await settled(engine)
        finished = (await engine.stats()).finished_total
        assert finished["abort"] >= 1
        assert finished["length"] == 1
        await engine.stop()

    asyncio.run(scenario())


def test_death_fails_requests_at_once_and_heals(smollm2_path: Path) -> None:
    async def scenario() -> None:
        engine = EngineProcess(config(smollm2_path))
        await engine.start()
        stream = engine.submit(request("a", max_tokens=2000))
        await anext(stream)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match="restarting"):
            async for _ in stream:
                pass
        assert engine.health().state == "restarting"
        assert "code -9" in (engine.health().reason or "")
        with pytest.raises(EngineUnavailable):
            await collect(engine.submit(request("b")))
        with pytest.raises(EngineUnavailable):
            await engine.stats()
        while engine.health().state != "ready":
            await asyncio.sleep(0.02)
        assert engine.health().restarts == 1
        assert len(await collect(engine.submit(request("c")))) == 8
        await engine.stop()
        with pytest.raises(EngineUnavailable):
            await collect(engine.submit(request("d")))

    asyncio.run(scenario())


def test_requests_in_the_moment_of_death_are_refused(smollm2_path: Path) -> None:
    async def scenario() -> None:
        engine = EngineProcess(config(smollm2_path))
        await engine.start()
        running = asyncio.ensure_future(collect(engine.submit(request("r", max_tokens=1000))))
        await asyncio.sleep(0)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 (it dies at once)
        late = []
        for number in range(50):  # one in each turn of the loop: some find the broken socket before anybody is told
            late.append(asyncio.ensure_future(collect(engine.submit(request(f"late {number}")))))
            await asyncio.sleep(0)
        ends = await asyncio.gather(running, *late, return_exceptions=True)
        assert {type(end) for end in ends} == {EngineUnavailable}
        await engine.stop()

    uvloop.run(scenario())  # what a server runs on


def test_alive_but_stuck_is_unhealthy(smollm2_path: Path) -> None:
    async def scenario() -> None:
        engine = EngineProcess(config(smollm2_path), stuck_after=1.0)
        await engine.start()
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        while engine.health().state == "ready":
            await asyncio.sleep(0.02)
        assert engine.health().state == "stuck"
        assert engine.health().progress_age > 1.0
        os.kill(engine.pid, signal.SIGCONT)
        while engine.health().state != "ready":
            await asyncio.sleep(0.02)
        await engine.stop()

    asyncio.run(scenario())


def test_stuck_for_long_is_ended_and_replaced(smollm2_path: Path) -> None:
    async def scenario() -> None:
        engine = EngineProcess(config(smollm2_path), stuck_after=0.7)
        await engine.start()
        stream = engine.submit(request("a", max_tokens=2000))
        await anext(stream)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        while engine.health().state == "ready":
            await asyncio.sleep(0.02)
        with pytest.raises(EngineUnavailable, match="no progress"):
            engine.submit(request("b"))
        with pytest.raises(EngineUnavailable):
            async for _ in stream:
                pass
        while engine.health().state != "ready":
            await asyncio.sleep(0.02)
        assert engine.health().restarts == 1
        assert len(await collect(engine.submit(request("c")))) == 8
        await engine.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_what_keeps_it_from_starting_is_raised(smollm2_path: Path, tmp_path: Path) -> None:
    async def start(settings: EngineConfig) -> None:
        engine = EngineProcess(settings)
        try:
            await engine.start()
        finally:
            assert engine.health().state == "failed"
            await engine.stop()

    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ModelError):
        asyncio.run(start(config(broken)))
    with pytest.raises(ConfigError, match="--max-context"):
        asyncio.run(start(config(smollm2_path, max_context=10**6)))
    with pytest.raises(ConfigError, match="backend"):
        asyncio.run(start(config(smollm2_path, backend="abacus")))


def test_full_queue_is_overloaded(smollm2_path: Path) -> None:
    async def scenario() -> None:
        limits = SchedulerConfig(max_running=1, max_waiting=2)
        engine = EngineProcess(config(smollm2_path, scheduler=limits))
        await engine.start()
        jobs = [collect(engine.submit(request(f"r{i}", max_tokens=60))) for i in range(12)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        refused = [r for r in results if isinstance(r, BaseException)]
        assert refused
        assert all(type(r).__name__ == "Overloaded" for r in refused)
        assert all(sum(len(o.tokens) for o in r) == 60 for r in results if isinstance(r, list))
        await engine.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [EngineProcess, LocalEngine])
def test_other_limits(smollm2_path: Path, kind: type[EngineProcess] | type[LocalEngine]) -> None:
    """Those named last count: in a running engine, in one that was still starting, and in the next child."""

    def limits(most: int) -> SchedulerConfig:
        return SchedulerConfig(max_waiting=most)

    async def most(engine: EngineClient) -> int:
        return (await engine.inspect()).limits.max_waiting

    async def scenario() -> None:
        engine = kind(config(smollm2_path, scheduler=limits(1)))
        starting = asyncio.create_task(engine.start())
        if isinstance(engine, EngineProcess):
            while engine.pid is None:
                await asyncio.sleep(0)
            engine.configure(limits(2))  # it was told the others already
        await starting
        if isinstance(engine, EngineProcess):
            assert await most(engine) == 2
        engine.configure(limits(3))
        assert await most(engine) == 3
        with pytest.raises(InvalidRequest, match="no more than 3 may wait"):
            await collect(engine.submit(request("r", n=4)))
        if isinstance(engine, EngineProcess):
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            while engine.health().state == "ready":
                await asyncio.sleep(0.01)
            engine.configure(limits(4))
            while engine.health().state != "ready":
                await asyncio.sleep(0.01)
            assert await most(engine) == 4
        await engine.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_stop_while_loading_leaves_nothing(smollm2_path: Path) -> None:
    async def scenario() -> None:
        engine = EngineProcess(config(smollm2_path))
        start = asyncio.create_task(engine.start())
        while engine.pid is None:
            await asyncio.sleep(0.01)
        await engine.stop()
        with pytest.raises(EngineUnavailable, match="stopped"):
            await start
        assert engine.health().state == "failed"
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def stopped(pid: int) -> bool:
    """Whether all threads of a process are, after SIGSTOP."""
    states = [(task / "stat").read_text().rpartition(") ")[2][0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) == {"T"}


def test_the_engine_can_be_looked_into(smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps and its machine travel; one that is stopped is told of, and nobody waits for it for ever."""

    async def scenario() -> None:
        engine = EngineProcess(config(smollm2_path))
        await engine.start()
        await collect(engine.submit(request("r", max_tokens=20)))
        seen = await engine.inspect(1000)
        steps = seen.steps
        assert sum(step.sampled - step.drafted + step.accepted for step in steps) == 20
        assert all(0 < step.computing <= step.seconds for step in seen.steps)
        assert seen.learned().blocks == seen.machine.blocks > 0
        assert (await engine.inspect()).steps == []
        new = await engine.inspect(1000, Detail(after=seen.made - 3, live=True, pool=True))
        assert (new.steps, new.live) == (steps[-3:], [])
        assert new.pool is not None
        assert sum(code < FIRST for code in new.pool.codes) == new.machine.blocks
        assert seen.pool is None
        outputs = engine.submit(request("s", max_tokens=200))
        await anext(outputs)
        busy = await engine.inspect(0, Detail(live=True, pool=True))
        assert [(one.id, one.phase) for one in busy.live] == [("s", "decode")]
        assert busy.pool is not None
        assert [one.id for one in busy.pool.holders] == ["s"]
        assert isinstance(outputs, AsyncGenerator)
        await outputs.aclose()
        monkeypatch.setattr("tenfold.engine.process.PATIENCE", 0.2)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        while not stopped(engine.pid):  # a thread that is running stops a moment later, and may answer first
            await asyncio.sleep(0.01)
        with pytest.raises(EngineUnavailable, match="not answered"):
            await engine.inspect(1000)
        os.kill(engine.pid, signal.SIGCONT)
        await engine.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))
