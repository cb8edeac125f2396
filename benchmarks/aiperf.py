"""Do we measure what others measure? ``python -m benchmarks.aiperf --aiperf /path/to/aiperf``.

AIPerf (https://pypi.org/project/aiperf, in a virtual environment of its own) and ``tenfold bench`` put the same load on
one server at the same time, half of it each, for a machine's speed may double from one minute to the next: requests at
a steady rate, ours with prompts as long as AIPerf's, answers of one length, nothing cached. Prints figures over the
requests of all rounds that began while both were at it, and by how much they differ. Exit code 1 where that is more
than the tolerance.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.doctor import free_port, serve, until_ready
from benchmarks.slo.harness import table
from tenfold.bench.http_target import HttpTarget
from tenfold.bench.load import replayed, run_load
from tenfold.core.clock import WallClock
from tenfold.traffic.row import Row

PROMPT, OUTPUTS = 200, 64  # tokens; a prompt's are counted by AIPerf's own tokenizer
BEFORE = 45.0  # seconds in which AIPerf is up and has warmed up
# What we call it, and AIPerf.
FIGURES = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e": "request_latency"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: when it began, in seconds since 1970, its prompt's tokens, and milliseconds by our names."""

    began: float
    prompt: int
    times: dict[str, float]


def make_tokenizer(folder: Path) -> None:
    """One that AIPerf can cut its texts with, without a network: learned from this project's own pages."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    pages = [str(path) for path in (Path(__file__).parent.parent / "docs").glob("*.md")]
    made.train(pages, vocab_size=4000, special_tokens=["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def theirs(aiperf: str, url: str, rate: float, count: int) -> list[Asked]:
    """AIPerf's requests, in the order in which they began; the same ones each time."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer"
        tokenizer.mkdir()
        make_tokenizer(tokenizer)
        command = [
            *(aiperf, "profile", "--model", "default", "--url", url, "--endpoint-type", "completions", "--streaming"),
            *("--tokenizer", str(tokenizer), "--use-server-token-count", "--ui", "none", "--artifact-dir", folder),
            *("--request-rate", str(rate), "--request-rate-mode", "constant", "--request-count", str(count)),
            *("--synthetic-input-tokens-mean", str(PROMPT), "--synthetic-input-tokens-stddev", "0"),
            *("--output-tokens-mean", str(OUTPUTS), "--output-tokens-stddev", "0", "--random-seed", "1"),
            *("--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0", "--warmup-request-count", "2"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        found = sorted(Path(folder).rglob("profile_export.jsonl"))
        if done.returncode or not found:
            raise SystemExit(f"AIPerf failed: {(done.stderr or done.stdout)[-2000:]}")
        lines = [json.loads(line) for line in found[0].read_text().splitlines()]
    asked = []
    for line in lines:
        if line["metadata"]["benchmark_phase"] == "profiling":
            metrics = {name: figure["value"] for name, figure in line["metrics"].items()}
            times = {ours: metrics[name] for ours, name in FIGURES.items()}
            began = line["metadata"]["request_start_ns"] / 1e9
            asked.append(Asked(began, int(metrics["input_sequence_length"]), times))
    assert len(asked) == count, f"{len(asked)} of {count} requests were recorded"
    return sorted(asked, key=lambda one: one.began)


async def ours(url: str, rate: float, lengths: list[int], seed: int) -> list[Asked]:
    """Ours of such a load."""
    rows = [Row(at / rate, length, OUTPUTS) for at, length in enumerate(lengths)]
    target = HttpTarget(url)
    await target.start()
    since = time.time() - WallClock().now()
    try:
        outcome = await run_load(target, replayed("steady", rows, seed))
    finally:
        await target.stop()
    asked = []
    for record in outcome.records:
        assert record.error is None, record.error
        times = {name: getattr(record, name) * 1000 for name in FIGURES}
        asked.append(Asked(since + record.began, record.prompt_tokens, times))
    return asked


async def together(
    aiperf: str, url: str, rate: float, lengths: list[int], seed: int
) -> tuple[list[Asked], list[Asked]]:
    """The requests of either that began while both were at it."""
    before = round(BEFORE * rate)
    rows = [lengths[at % len(lengths)] for at in range(before + len(lengths))]
    each = await asyncio.gather(ours(url, rate, rows, seed), asyncio.to_thread(theirs, aiperf, url, rate, len(lengths)))
    first = max(min(one.began for one in asked) for asked in each)
    last = min(max(one.began for one in asked) for asked in each)
    mine, other = ([one for one in asked if first <= one.began <= last] for asked in each)
    return mine, other


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aiperf", required=True, help="its executable")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rate", type=float, default=1.25, help="of each")
    parser.add_argument("--requests", type=int, default=75, help="of AIPerf, in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of the server: leave cores to AIPerf, which needs some")
    parser.add_argument("--tolerance", type=float, default=0.05)
    told = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = serve(told.model, "--port", str(port), "--no-prefix-sharing", "--threads", str(told.threads))
    tools = ("tenfold bench", "AIPerf")
    found: tuple[list[Asked], list[Asked]] = ([], [])
    try:
        until_ready(url, server)
        lengths = [one.prompt for one in theirs(told.aiperf, url, 10 * told.rate, told.requests)]
        for seed in range(told.rounds):
            mine, other = asyncio.run(together(told.aiperf, url, told.rate, lengths, seed))
            found[0].extend(mine)
            found[1].extend(other)
            shown = [
                f"{tool} {np.median([one.times['ttft'] for one in asked]):.1f} of {len(asked)}"
                for tool, asked in zip(tools, (mine, other), strict=True)
            ]
            print(f"round {seed + 1}, TTFT p50, ms: {', '.join(shown)}", flush=True)
    finally:
        server.terminate()
        server.wait(30)
    rows, beyond = [], 0
    for name in FIGURES:
        for p in (50, 95):
            one, two = (float(np.percentile([each.times[name] for each in asked], p)) for asked in found)
            beyond += abs(one / two - 1) > told.tolerance
            rows.append((f"{name.upper()} p{p}, ms", f"{one:.1f}", f"{two:.1f}", f"{one / two:.3f}"))
    counts = f"{len(found[0])} and {len(found[1])} requests, prompts of {min(lengths)} to {max(lengths)} tokens"
    print(f"\n{counts}\n" + table(("at the same time", *tools, "ratio"), rows))
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
