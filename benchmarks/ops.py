"""Time of each op of the cpu backend on SmolLM2-135M's shapes, with synthetic weights (no model file needed).

    python benchmarks/ops.py [--threads N] [--level avx512|avx2|portable] [--layers N] [--kv bf16|int8]

Prints milliseconds per layer (per call for the head), weight bandwidth and arithmetic rate of the linears for
several numbers of rows, the whole step, and attention over long contexts. Best of several runs.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from tenfold.model.decoder import forward
from tenfold.model.encodings import encoding_named, make_tensor
from tenfold.model.layout import shapes
from tenfold.ops.base import Batch
from tenfold.ops.cpu import CpuOps
from tenfold.ops.spec import ModelSpec, RopeSpec
from tenfold.ops.tensors import Tensor, Weights
from tenfold.profile.steps import BLOCK, fill

MODEL_LAYERS = 30
LINEARS = {"qkv": ("q", "k", "v"), "attn_out": ("o",), "mlp": ("gate", "up", "down")}


def smollm2(layers: int) -> ModelSpec:
    """SmolLM2-135M, of ``layers`` layers."""
    return ModelSpec(
        architecture="llama",
        name="smollm2-135m shapes",
        layers=layers,
        hidden=576,
        heads=9,
        kv_heads=3,
        head_dim=64,
        ffn=1536,
        vocab=49152,
        max_context=8192,
        norm_eps=1e-5,
        rope=RopeSpec(tuple(float(100000.0 ** (-i / 64)) for i in range(0, 64, 2))),
        windows=(0,) * layers,
        query_scale=0.125,
    )


def synthetic(spec: ModelSpec) -> Weights:
    """Q4_1 linears and a Q8_0 embedding with random codes and one small scale."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes(spec).items():
        if len(shape) == 1:
            tensors[name] = make_tensor(name, "F32", shape, np.ones((1, shape[0]), np.float32).view(np.uint8))
            continue
        kind = "Q8_0" if name == "embed" else "Q4_1"
        encoding = encoding_named(kind)
        blocks = rng.integers(0, 256, (shape[0], shape[1] // encoding.values, encoding.bytes), np.uint8)
        blocks[:, :, :2] = np.array([0.0004 if kind == "Q8_0" else 0.01], np.float16).view(np.uint8)
        if kind == "Q4_1":
            blocks[:, :, 2:4] = np.array([-0.075], np.float16).view(np.uint8)
        tensors[name] = make_tensor(name, kind, shape, blocks)
    return Weights(spec, tensors)


def decode_batch(sequences: int, context: int, block: int = BLOCK) -> Batch:
    """One new token for each of ``sequences`` whose keys number ``context`` with it."""
    blocks = -(-context // block)
    count = np.arange(sequences, dtype=np.int32)
    return Batch(
        tokens=count + 5,
        positions=np.full(sequences, context - 1, np.int32),
        starts=np.arange(sequences + 1, dtype=np.int32),
        context=np.full(sequences, context, np.int32),
        tables=np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks),
        rows=count,
    )


def prefill_batch(tokens: int) -> Batch:
    """One prompt, whole."""
    blocks = -(-tokens // BLOCK)
    return Batch(
        tokens=np.arange(tokens, dtype=np.int32) % 4096,
        positions=np.arange(tokens, dtype=np.int32),
        starts=np.array([0, tokens], np.int32),
        context=np.array([tokens], np.int32),
        tables=np.arange(blocks, dtype=np.int32)[None],
        rows=np.array([tokens - 1], np.int32),
    )


def best_of(call: Callable[[], object], seconds: float = 0.15) -> float:
    """The shortest of many runs, in seconds."""
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds or best == float("inf"):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def time_ops(ops: CpuOps, batch: Batch) -> dict[str, float]:
    """Seconds of each op, averaged over the layers (so that weights come from where they do in a step)."""
    blocks = int(batch.tables.max()) + 1
    kv = ops.new_kv(blocks, BLOCK)
    fill(ops, kv, blocks)
    forward(ops, kv, batch)
    layers = ops.spec.layers
    totals: dict[str, float] = {}

    def sweep() -> None:
        spent = dict.fromkeys((*LINEARS, "attend"), 0.0)

        def timed(name: str, call: Callable[..., object], *arguments: object) -> object:
            start = time.perf_counter()
            result = call(*arguments)
            spent[name] += (time.perf_counter() - start) / layers
            return result

        x = ops.embed(batch)
        for layer in range(layers):
            q = timed("qkv", ops.qkv, layer, x, batch, kv)
            a = timed("attend", ops.attend, layer, q, batch, kv)
            timed("attn_out", ops.attn_out, layer, a, x)
            timed("mlp", ops.mlp, layer, x)
        spent["logits"] = -time.perf_counter()
        ops.logits(x, batch)
        spent["logits"] += time.perf_counter()
        for name, seconds in spent.items():
            totals[name] = min(totals.get(name, seconds), seconds)

    best_of(sweep, 0.5)
    return totals


def report(ops: CpuOps, weights: Weights, batch: Batch, label: str) -> None:
    """Print one batch's figures."""
    times = time_ops(ops, batch)
    rows = len(batch.tokens)
    print(f"\n{label}")
    for name, seconds in times.items():
        line = f"  {name:9} {seconds * 1e3:9.4f} ms"
        matrices = [f"layers.0.{m}" for m in LINEARS.get(name, ())] or (["embed"] if name == "logits" else [])
        if matrices:
            count = rows if name != "logits" else len(batch.rows)
            size = sum(weights[m].data.nbytes for m in matrices)
            work = 2 * count * sum(weights[m].shape[0] * weights[m].shape[1] for m in matrices)
            line += f"  {size / seconds / 1e9:7.1f} GB/s  {work / seconds / 1e9:8.1f} GOP/s"
        print(line)
    step = sum(seconds * (1 if name == "logits" else MODEL_LAYERS) for name, seconds in times.items())
    print(f"  step of {MODEL_LAYERS} layers {step * 1e3:.2f} ms, {rows / step:.0f} tok/s")


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--level", default=None)
    parser.add_argument("--layers", type=int, default=MODEL_LAYERS)
    parser.add_argument("--kv", default="bf16")
    options = parser.parse_args()
    weights = synthetic(smollm2(options.layers))
    start = time.perf_counter()
    ops = CpuOps(weights, threads=options.threads, level=options.level, kv_type=options.kv)
    packed = time.perf_counter() - start
    print(f"{ops.describe()}; packed {ops.model.weight_bytes / 2**20:.0f} MiB in {packed * 1e3:.0f} ms")
    for sequences in (1, 8, 16, 32, 64):
        report(ops, weights, decode_batch(sequences, 64), f"decode, {sequences} sequences x 64 tokens")
    report(ops, weights, decode_batch(16, 600), "decode, 16 sequences x 600 tokens")
    report(ops, weights, decode_batch(1, 4096), "decode, 1 sequence x 4096 tokens")
    report(ops, weights, prefill_batch(512), "prefill 512")


if __name__ == "__main__":
    main()
