"""Real weights on a GPU: the default model, in every form, beside the float32 reference; after ``tenfold pull``."""

import time

import numpy as np
import torch

from benchmarks.cuda.timing import Limits, Row
from benchmarks.golden import (
    TINY_MARGIN,
    flips_at,
    golden_steps,
    kl,
    perplexity,
    read_golden,
    text_windows,
    window_logits,
)
from tenfold import LLM, SamplingParams
from tenfold.core.config import WEIGHTS, CudaConfig, SchedulerConfig, SpeculationConfig
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import cached_models
from tenfold.ops.base import Batch, Float32
from tenfold.ops.cuda.ops import CudaOps, Residual
from tenfold.ops.reference import ReferenceOps

MODEL = "smollm2-135m"
_WINDOWS = 4  # of the perplexity text, whose logits are compared one by one
_WORST = {"auto": 0.002, "bf16": 0.002, "fp8": 0.05, "int4": 0.05}  # mean KL in nats beyond which something is wrong


class _OnTheHost(CudaOps):
    """The ops, with logits as arrays."""

    def logits(self, x: Residual, batch: Batch) -> Float32:  # type: ignore[override]
        return super().logits(x, batch).float().cpu().numpy()  # type: ignore[no-any-return]


def check(device: torch.device) -> list[str]:
    """Logits near the reference's in every form; the engine's text is the same with drafts and without."""
    found = {model.name: model for model in cached_models()}[MODEL]
    if not found.cached:
        print(f"{MODEL} is not here (tenfold pull {MODEL}): nothing is known of real weights", flush=True)
        return []
    checkpoint, golden, wrong = load_checkpoint(found.path), read_golden(MODEL), []
    tokenizer = checkpoint.tokenizer()
    windows = text_windows(golden, tokenizer.encode(golden.text, add_special=False), tokenizer.bos_id)
    reference = list(window_logits(ReferenceOps(checkpoint.weights), windows[:_WINDOWS]))
    for form in WEIGHTS["cuda"]:
        for kv_type in ("bf16", "fp8") if form == "auto" else ("bf16",):
            ops = _OnTheHost(checkpoint.weights, form=form, kv_type=kv_type, max_rows=4096, max_context=1024)
            pairs = zip(reference, window_logits(ops, windows[:_WINDOWS]), strict=True)
            apart = float(np.mean(np.concatenate([kl(wanted, got) for wanted, got in pairs])))
            clear = sum(
                flip.margin >= TINY_MARGIN
                for at, got in enumerate(golden_steps(ops, golden.cases))
                for flip in flips_at(at, got, golden.cases)
            )
            ratio = perplexity(ops, windows) / golden.ppl
            positions = sum(len(case.output_ids) for case in golden.cases)
            print(
                f"{MODEL}, weights {form}, KV {kv_type}: mean KL {apart:.5f}, perplexity ratio {ratio:.4f}, "
                f"{clear} of {positions} golden tokens differ",
                flush=True,
            )
            if not apart <= _WORST[form] + (0.02 if kv_type == "fp8" else 0):
                wrong.append(f"weights {form}, KV {kv_type}: a mean KL of {apart:.4f} nats to the reference")
    return wrong + _texts(str(found.path), golden.cases[0].prompt_ids)


def _texts(path: str, prompt: tuple[int, ...]) -> list[str]:
    """What is wrong with texts of the engine: with drafts on auto they are those without, batch-invariantly."""
    texts, turns = [], [list(prompt), list(prompt) * 3]
    for mode in ("off", "auto"):
        scheduler = SchedulerConfig(max_step_tokens=4096, max_running=64, speculation=SpeculationConfig(mode=mode))
        llm = LLM(path, backend="cuda", max_context=2048, scheduler=scheduler, cuda=CudaConfig(batch_invariant=True))
        began = time.monotonic()
        answers = llm.generate(turns * 8, SamplingParams(max_tokens=200, temperature=0.0), progress=False)
        tokens = [answer.samples[0].tokens for answer in answers]
        rate = sum(map(len, tokens)) / (time.monotonic() - began)
        print(f"drafts {mode}: {rate:,.0f} tok/s; {answers[0].text[:120]!r}", flush=True)
        texts.append(tokens)
    return [] if texts[0] == texts[1] else ["with drafts on auto, batch-invariant greedy texts are not those without"]


def run(limits: Limits) -> list[Row]:
    """Nothing is timed."""
    return []
