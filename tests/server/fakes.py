"""An engine and a tokenizer whose every output is known beforehand."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from tenfold.cache.map import CACHED, FIRST, FREE, SHARED, BlockMap, Holder
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import TenfoldError
from tenfold.core.request import (
    EngineInfo,
    EngineRequest,
    EngineStats,
    RequestOutput,
    SampleLogprobs,
    TokenLogprob,
)
from tenfold.cost.estimate import FIRST_GUESS
from tenfold.cost.machine import Machine
from tenfold.engine.client import Health
from tenfold.engine.inspection import PLAIN, Detail, Inspection, StepRecord
from tenfold.sched.live import LiveSequence

INFO = EngineInfo(
    model="fake-model",
    architecture="fake",
    backend="fake (1 thread)",
    max_context=256,
    vocab_size=256,
    blocks=64,
    block_size=16,
    max_waiting=4096,
    embedding_size=4,
)
MACHINE = Machine(
    model=INFO.model,
    backend=INFO.backend,
    cpu="a CPU",
    max_context=INFO.max_context,
    blocks=INFO.blocks,
    block_size=INFO.block_size,
    windows=(0,),
    fit=FIRST_GUESS,
)
ANSWER = "Hello wörld!"  # its UTF-8 bytes are the tokens generated, over and over


class ByteTokenizer:
    """Every byte is a token; byte 2 stands for begin-of-text."""

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [2] * add_special + list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return bytes(token for token in ids if token != 2 or not skip_special).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


class PlainTemplate:
    """Writes ``role:content`` lines; knows no tools."""

    source = "role:content"

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        assert all(message["role"] != "tool" for message in messages)
        lines = "".join(f"{message['role']}:{message['content']}\n" for message in messages)
        return lines + ("assistant:" if add_generation_prompt else "")


def live_sequence(tenant: str) -> LiveSequence:
    """One in decode, called ``of-TENANT``."""
    return LiveSequence(
        id=f"of-{tenant}",
        tenant=tenant,
        slo_class="standard",
        phase="decode",
        age=1.5,
        seconds={"queue": 0.5, "prefill": 0.25, "decode": 0.75},
        prompt_tokens=40,
        cached_tokens=16,
        computed=44,
        output_tokens=5,
        machine_seconds=0.5,
        preemptions=0,
    )


def block_map(tenants: Sequence[str]) -> BlockMap:
    """One block is shared, each has two of its own; 64 in all."""
    runs = [(SHARED, 1), *((FIRST + at, 2) for at in range(len(tenants))), (CACHED, 3)]
    runs.append((FREE, 64 - sum(length for _, length in runs)))
    codes = bytes(code for code, length in runs for _ in range(length))
    return BlockMap(codes, [Holder(f"of-{tenant}", 3, 1) for tenant in tenants])


@dataclass
class FakeEngine:
    """An EngineClient that answers every request with ``ANSWER`` over and over, or with what it ``says``, once.

    ``refuse`` is raised at once, ``fail_at`` = k raises ``failure`` before output k. With ``gate``, each output
    waits for ``gate.release()``. ``burst`` tokens come per output.
    """

    state: Any = "ready"
    says: str | None = None
    refuse: TenfoldError | None = None
    fail_at: int | None = None
    failure: TenfoldError | Exception | None = None
    gate: asyncio.Semaphore | None = None
    burst: int = 1
    stats_error: TenfoldError | None = None
    limits: SchedulerConfig = field(default_factory=SchedulerConfig)
    tenants: tuple[str, ...] = ("", "t")  # each has a sequence that runs
    requests: list[EngineRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    open: int = 0
    stopped: int = 0
    looks: int = 0  # into it
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> EngineInfo:
        return INFO

    async def stop(self) -> None:
        self.stopped += 1

    async def stats(self) -> EngineStats:
        if self.stats_error is not None:
            raise self.stats_error
        return EngineStats(
            steps_total=5,
            running=self.open,
            blocks=64,
            blocks_free=60,
            blocks_held=4,
            finished_total={"stop": 2},
            draft_tokens_total={"lookup": 9},
            accepted_tokens_total={"lookup": 7},
            draft_seconds_total=0.25,
        )

    async def inspect(self, steps: int = 0, detail: Detail = PLAIN) -> Inspection:
        if self.stats_error is not None:
            raise self.stats_error
        self.looks += 1
        step = StepRecord(1.0, 0.02, 0.019, 0.021, 3, 64, 4, 300.0, 2048.0, 4, 2, 9)
        return Inspection(
            now=2.0,
            calibrated=True,
            machine=MACHINE,
            limits=self.limits,
            steps=[step] * min(steps, max(0, 2 - detail.after)),
            made=2,
            live=[live_sequence(tenant) for tenant in self.tenants] if detail.live else [],
            pool=block_map(self.tenants) if detail.pool else None,
        )

    def configure(self, limits: SchedulerConfig) -> None:
        self.limits = limits

    def health(self) -> Health:
        return Health(state=self.state, progress_age=0.25, restarts=1, reason="because" if self.refuse else None)

    async def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        if self.refuse is not None:
            raise self.refuse
        self.requests.append(request)
        self.open += 1
        self.changed.set()
        done = False
        try:
            for at, output in enumerate(script(request, self.burst, self.says)):
                if self.gate is not None:
                    await self.gate.acquire()
                else:
                    await asyncio.sleep(0)  # others get their turn, as between steps
                if at == self.fail_at:
                    assert self.failure is not None
                    raise self.failure
                yield output
            done = True
        finally:
            self.open -= 1
            if not done:
                self.aborted.append(request.id)
            self.changed.set()


def script(request: EngineRequest, burst: int = 1, says: str | None = None) -> list[RequestOutput]:
    """All outputs of a request, the samples taking turns."""
    if request.pooling is not None:
        return [RequestOutput(id=request.id, embedding=vector_of(request.prompt_ids), finish="stop")]
    limit = request.params.max_tokens or (24 if says is None else 1 << 20)
    data = (ANSWER.encode() * (limit // len(ANSWER) + 1))[:limit] if says is None else says.encode()[:limit]
    outputs: list[RequestOutput] = []
    shown = ""
    for start in range(0, len(data), burst):
        tokens = tuple(data[start : start + burst])
        text = data[: start + len(tokens)].decode(errors="ignore")
        new, shown = text[len(shown) :], text
        finish, stop = (
            (None, None) if start + len(tokens) < len(data) else (("length" if len(data) == limit else "stop"), None)
        )
        for stop_text in request.params.stop:
            if stop_text in shown:
                finish, stop, new = "stop", stop_text, new[: len(new) - len(stop_text)]
        step = RequestOutput(
            id=request.id,
            text=new,
            tokens=tokens,
            logprobs=logprobs(tokens, request.params.logprobs),
            finish=finish,
            stop=stop,
            cached_tokens=len(request.prompt_ids) // 16 * 16,
        )
        outputs.extend(msgspec.structs.replace(step, index=index) for index in range(request.params.n))
        if finish == "stop":
            break
    return outputs


def vector_of(ids: Sequence[int]) -> bytes:
    """A text's embedding: four numbers."""
    wide = np.array([len(ids), sum(ids), ids[0], ids[-1]], np.float64)
    return (wide / np.linalg.norm(wide)).astype("<f4").tobytes()


def logprobs(tokens: Sequence[int], count: int | None) -> tuple[SampleLogprobs, ...] | None:
    """Each token at -0.5, and after it the following ids at -1.5, -2.5, …, the last of them impossible."""
    if count is None:
        return None
    entries = []
    for token in tokens:
        top = [TokenLogprob(token, -0.5, shown(token))]
        top += [TokenLogprob(token + k, -0.5 - k, shown(token + k)) for k in range(1, count)]
        if count > 1:
            top[-1] = TokenLogprob(token + count - 1, float("-inf"), shown(token + count - 1))
        entries.append(SampleLogprobs(top[0], tuple(top[:count])))
    return tuple(entries)


def shown(token: int) -> str:
    """A byte's text, as the engine shows it."""
    return bytes([token % 256]).decode(errors="replace")
