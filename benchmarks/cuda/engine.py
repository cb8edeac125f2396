"""The whole engine over Llama-3-8B's shape: how much of a step of decode the device waits for the host."""

import gc
import statistics
import time

import numpy as np
import torch

from benchmarks.cuda.model import decode, scattered
from benchmarks.cuda.timing import Limits, Row, median_time
from tenfold import LLM, SamplingParams
from tenfold.core.config import SchedulerConfig, SpeculationConfig
from tenfold.core.request import EngineRequest
from tenfold.ops.choosing import Wanted
from tenfold.ops.cuda.attention_plan import Padding
from tenfold.ops.cuda.ops import CudaOps

MODEL = "llama-3-8b"
_PROMPT, _OUTPUT = 512, 160
_WARM = 24  # steps of decode that are not counted


def run(limits: Limits) -> list[Row]:
    """One and 64 requests at a time, greedy and drawn."""
    rows = []
    for users in (64, 1):
        scheduler = SchedulerConfig(max_step_tokens=8192, max_running=users, speculation=SpeculationConfig(mode="off"))
        llm = LLM(MODEL, load_format="dummy", backend="cuda", weights="bf16", max_context=2048, scheduler=scheduler)
        for words, params in (("greedy", {"temperature": 0.0}), ("top-p 0.9, top-k 50", {"top_p": 0.9, "top_k": 50})):
            try:
                rows.append(_served(llm, users, words, SamplingParams(max_tokens=_OUTPUT, ignore_eos=True, **params)))
            except Exception as reason:
                rows.append(Row("8B engine", f"{users} failed", 0.0, note=repr(reason)[:300]))
        del llm
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def _served(llm: LLM, users: int, words: str, params: SamplingParams) -> Row:
    """Seconds between steps of decode, and of those the device's own."""
    core = llm._core
    for user in range(users):
        prompt = tuple((user * 7919 + at * 31) % 100_000 for at in range(_PROMPT))
        core.submit(EngineRequest(id=f"{words} {user}", prompt_ids=prompt, params=params, arrival=time.monotonic()))
    ends: list[float] = []
    while not core.idle:
        outputs = core.step()
        if len({output.id for output in outputs}) == users:
            ends.append(time.perf_counter())
    steps = [after - before for before, after in zip(ends[_WARM:-2], ends[_WARM + 1 : -1], strict=True)]
    seconds = statistics.median(steps)
    alone = _alone(llm, users, params)
    gap = 100 * (1 - alone / seconds)
    note = f"{users / seconds:,.0f} tok/s; the device alone {1e6 * alone:,.0f} us: host's gap {gap:.1f} %"
    return Row(f"8B engine, {words}", f"{users} x {_PROMPT + _OUTPUT // 2}", 1e6 * seconds, note=note)


def _alone(llm: LLM, users: int, params: SamplingParams) -> float:
    """Seconds of a step of decode and its choice of tokens, again and again, with no host in between."""
    ops = llm._core._steps._executor._forward.__self__
    assert isinstance(ops, CudaOps) and ops._kv is not None
    context = _PROMPT + _OUTPUT // 2
    batch = decode(users, context, scattered(users, context))
    ops.forward(batch, ops._kv)
    filters = np.array([(params.temperature, params.top_k, params.top_p, params.min_p, 0.5)] * users)
    wanted = Wanted() if params.greedy else Wanted(filters)
    kv, graphs, here = ops._kv, ops._graphs, ops._here
    assert graphs is not None and here is not None
    key = next(key for key in graphs.captured if key[0] == Padding(users, users, decode=True))
    return median_time(lambda: ops.choose(graphs.run(key, lambda: ops._kept_pass(here, kv)), wanted), seconds=0.3)
