"""Naive serving, to compare with: transformers, bf16, static batches. ``python -m benchmarks.naive_baseline``.

All requests of the workload are there at time zero. They are taken in order, 16 at a time; a batch is padded to
its longest prompt and runs until its longest answer is done. Only tokens that were asked for count as output.
Prints one JSON line. Needs torch and transformers (the ``oracle`` extra) and the default model.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from benchmarks.hf_weights import hf_name, rope_base, sizes
from tenfold.bench.workload import make_workload
from tenfold.model.checkpoint import Checkpoint, load_checkpoint
from tenfold.model.store import resolve


@dataclass(frozen=True, slots=True)
class Job:
    """A tokenized prompt and how many tokens it asked for."""

    prompt_ids: tuple[int, ...]
    wanted: int


def as_transformers(checkpoint: Checkpoint) -> Any:
    """The Llama ``checkpoint``, decoded to bf16, as transformers' own model. Raises SystemExit for others."""
    spec = checkpoint.spec
    if spec.architecture != "llama":
        raise SystemExit(f"the baseline runs Llama models, {checkpoint.name} is {spec.architecture}")
    rope = {"rope_type": "default", "rope_theta": rope_base(spec.rope.inv_freq, spec.head_dim)}
    config = transformers.LlamaConfig(**sizes(spec), rope_parameters=rope)
    state = {
        hf_name(name): torch.tensor(tensor.decode()).to(torch.bfloat16)
        for name, tensor in checkpoint.weights.tensors.items()
    }
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    model.generation_config.eos_token_id = None
    return model.eval()


def serve_batch(model: Any, jobs: Sequence[Job]) -> int:
    """Run one static batch to its longest answer; the output tokens that were asked for."""
    longest_prompt = max(len(job.prompt_ids) for job in jobs)
    padded = [[0] * (longest_prompt - len(job.prompt_ids)) + list(job.prompt_ids) for job in jobs]
    mask = [[0] * (longest_prompt - len(job.prompt_ids)) + [1] * len(job.prompt_ids) for job in jobs]
    steps = max(job.wanted for job in jobs)
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            max_new_tokens=steps,
            do_sample=False,
            pad_token_id=0,
        )
    assert out.shape == (len(jobs), longest_prompt + steps)
    return sum(job.wanted for job in jobs)


def main() -> None:
    """Parse the command line, run, print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive_baseline", description=__doc__)
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("-n", "--requests", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="requests per static batch")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(resolve("smollm2-135m"))
    tokenizer = checkpoint.tokenizer()
    requests = make_workload(arguments.workload, arguments.requests, arguments.seed)
    jobs = [Job(tuple(tokenizer.encode(r.prompt, add_special=True)), r.output_tokens) for r in requests]
    model = as_transformers(checkpoint)
    serve_batch(model, [Job(job.prompt_ids[:16], 4) for job in jobs[:2]])  # warm up

    begin = time.perf_counter()
    useful = 0
    for first in range(0, len(jobs), arguments.batch):
        useful += serve_batch(model, jobs[first : first + arguments.batch])
        done = min(first + arguments.batch, len(jobs))
        print(f"{done} of {len(jobs)} requests, {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    wall = time.perf_counter() - begin
    report = {
        "system": f"transformers {transformers.__version__}, bf16, static batches of {arguments.batch}",
        "model": checkpoint.name,
        "workload": arguments.workload,
        "requests": len(jobs),
        "threads": torch.get_num_threads(),
        "wall_s": round(wall, 2),
        "out_tok_s": round(useful / wall, 1),
        "output_tokens": useful,
        "prompt_tokens": sum(len(job.prompt_ids) for job in jobs),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
