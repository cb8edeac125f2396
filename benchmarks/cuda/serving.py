"""The engine under pressure on a GPU: requests of all sorts over few KV blocks; every one ends, and as it should."""

import math

import numpy as np
import torch

from benchmarks.cuda.timing import Limits, Row
from tenfold import LLM, SamplingParams
from tenfold.core.config import CudaConfig, SchedulerConfig
from tenfold.engine.llm import Completion

MODEL = "qwen3-0.6b"
_REQUESTS = 120
_ALONE = (0, 7, 11, 40, 41)  # that are computed again, with nobody beside them
_SORTS: tuple[dict[str, object], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.2, "n": 2},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.2, "repetition_penalty": 1.2},
    {"temperature": 0.0, "logit_bias": {17: 100.0}},
    {"temperature": 1.0, "logprobs": 0, "min_tokens": 8},
)


def check(device: torch.device) -> list[str]:
    """In both modes; batch-invariantly, requests give the same tokens alone."""
    wrong = []
    for invariant in (False, True):
        llm = LLM(
            MODEL, load_format="dummy", backend="cuda", max_context=2048, kv_tokens=2048,
            scheduler=SchedulerConfig(max_step_tokens=2048, max_running=64), cuda=CudaConfig(batch_invariant=invariant),
        )  # fmt: skip
        prompts, params = _requests()
        together = llm.generate(prompts, params, progress=False)
        llm._core.check()
        wrong += [f"{invariant=}, request {i}: {w}" for i, one in enumerate(together) if (w := _bad(one, params[i]))]
        if not llm.stats().preemptions_total:
            wrong.append(f"{invariant=}: no sequence lost its place, so nothing was tried of that")
        other = [
            i
            for i in _ALONE
            if _tokens(llm.generate([prompts[i]], [params[i]], progress=False)[0]) != _tokens(together[i])
        ]
        print(f"{invariant=}: {len(other)} of {len(_ALONE)} requests give other tokens alone", flush=True)
        if invariant and other:
            wrong.append(f"batch-invariant, but the requests {other} give other tokens alone")
    return wrong


def run(limits: Limits) -> list[Row]:
    """Nothing is timed."""
    return []


def _requests() -> tuple[list[list[int]], list[SamplingParams]]:
    random = np.random.default_rng(5)
    lengths = np.exp(random.uniform(np.log(3), np.log(1500), _REQUESTS)).astype(int)
    prompts = [random.integers(0, 100_000, length).tolist() for length in lengths]
    params = [
        SamplingParams(max_tokens=int(random.integers(60, 250)), seed=i, ignore_eos=True, **_SORTS[i % len(_SORTS)])  # type: ignore[arg-type]
        for i in range(_REQUESTS)
    ]
    return prompts, params


def _tokens(completion: Completion) -> list[tuple[int, ...]]:
    return [sample.tokens for sample in completion.samples]


def _bad(completion: Completion, params: SamplingParams) -> str | None:
    """What is not as it was asked for."""
    for sample in completion.samples:
        if sample.finish != "length" or len(sample.tokens) != params.max_tokens:
            return f"{len(sample.tokens)} tokens instead of {params.max_tokens}, finish {sample.finish}"
        if params.logit_bias and set(sample.tokens) != {17}:
            return f"a bias of 100 did not prevail: {sample.tokens[:8]}"
        if params.logprobs is not None:
            entries = sample.logprobs or ()
            if len(entries) != len(sample.tokens):
                return "logprobs are missing"
            if not all(math.isfinite(entry.sampled.logprob) and entry.sampled.logprob <= 1e-4 for entry in entries):
                return "a logprob is no logprob"
            if params.temperature == 0 and any(entry.top[0].token != entry.sampled.token for entry in entries):
                return "the largest is not the first"
    return None
