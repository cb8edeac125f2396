"""Do we measure what others measure? ``python -m benchmarks.aiperf --aiperf /path/to/aiperf``.

AIPerf (https://pypi.org/project/aiperf, in a virtual environment of its own) and ``tenfold bench`` put the same load on
one server in turn: requests at a steady rate, prompts and answers of one length, nothing cached. Prints the figures of
both as medians of the rounds, and by how much they differ. Exit code 1 where that is more than the tolerance.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.doctor import free_port, serve, until_ready
from benchmarks.slo.harness import table
from tenfold.bench.http_target import HttpTarget
from tenfold.bench.load import replayed, run_load
from tenfold.bench.report import summary
from tenfold.traffic.row import Row

PROMPT, OUTPUTS = 200, 64  # tokens; a prompt's are counted by AIPerf's own tokenizer
# Ours, and AIPerf's: what they are called in the JSON of each.
FIGURES = (
    ("TTFT p50, ms", ("ttft_ms", "p50"), ("time_to_first_token", "p50")),
    ("TTFT p95, ms", ("ttft_ms", "p95"), ("time_to_first_token", "p95")),
    ("TPOT p50, ms (AIPerf: inter token latency)", ("tpot_ms", "p50"), ("inter_token_latency", "p50")),
    ("TPOT p95, ms", ("tpot_ms", "p95"), ("inter_token_latency", "p95")),
    ("E2E p50, ms (request latency)", ("e2e_ms", "p50"), ("request_latency", "p50")),
    ("E2E p95, ms", ("e2e_ms", "p95"), ("request_latency", "p95")),
)


def make_tokenizer(folder: Path) -> None:
    """One that AIPerf can cut its texts with, without a network: learned from this project's own pages."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    pages = [str(path) for path in (Path(__file__).parent.parent / "docs").glob("*.md")]
    made.train(pages, vocab_size=4000, special_tokens=["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def theirs(aiperf: str, url: str, rate: float, count: int, seed: int) -> dict[str, Any]:
    """AIPerf's figures."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer"
        tokenizer.mkdir()
        make_tokenizer(tokenizer)
        command = [
            *(aiperf, "profile", "--model", "default", "--url", url, "--endpoint-type", "completions", "--streaming"),
            *("--tokenizer", str(tokenizer), "--use-server-token-count", "--ui", "none", "--artifact-dir", folder),
            *("--request-rate", str(rate), "--request-rate-mode", "constant", "--request-count", str(count)),
            *("--synthetic-input-tokens-mean", str(PROMPT), "--synthetic-input-tokens-stddev", "0"),
            *("--output-tokens-mean", str(OUTPUTS), "--output-tokens-stddev", "0", "--random-seed", str(seed)),
            *("--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0", "--warmup-request-count", "2"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        found = sorted(Path(folder).rglob("profile_export_aiperf.json"))
        if done.returncode or not found:
            raise SystemExit(f"AIPerf failed: {(done.stderr or done.stdout)[-2000:]}")
        figures: dict[str, Any] = json.loads(found[0].read_text())
        return figures.get("records", figures)


async def ours(url: str, rate: float, count: int, prompt: int, seed: int) -> dict[str, Any]:
    """Our figures of the same load."""
    rows = [Row(at / rate, prompt, OUTPUTS) for at in range(count)]
    target = HttpTarget(url)
    name = await target.start()
    try:
        report = summary(await run_load(target, replayed("steady", rows, seed)), name)
    finally:
        await target.stop()
    return report


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aiperf", required=True, help="its executable")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rate", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the server: leave cores to AIPerf, which needs some")
    parser.add_argument("--tolerance", type=float, default=0.05)
    told = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = serve(told.model, "--port", str(port), "--no-prefix-sharing", "--threads", str(told.threads))
    pairs: dict[str, list[tuple[float, float]]] = {label: [] for label, *_ in FIGURES}
    try:
        until_ready(url, server)
        for seed in range(told.rounds):
            other = theirs(told.aiperf, url, told.rate, told.requests, seed)
            prompt = round(other["input_sequence_length"]["avg"])
            mine = asyncio.run(ours(url, told.rate, told.requests, prompt, seed))
            assert not mine["all"]["errors"], mine.get("first_error")
            for label, (key, p), (name, q) in FIGURES:
                pairs[label].append((mine["all"][key][p], other[name][q]))
            shown = "; ".join(
                f"{label.split(',')[0]} {pairs[label][-1][0]:.1f} {pairs[label][-1][1]:.1f}" for label in pairs
            )
            print(f"round {seed + 1}, {prompt} tokens in: {shown}", flush=True)
    finally:
        server.terminate()
        server.wait(30)
    rows, beyond = [], 0
    for label, values in pairs.items():
        mine, other = (statistics.median(value[at] for value in values) for at in (0, 1))
        ratio = statistics.median(one / two for one, two in values)
        beyond += abs(ratio - 1) > told.tolerance
        rows.append((label, f"{mine:.1f}", f"{other:.1f}", f"{ratio:.3f}"))
    print("\n" + table(("medians of rounds", "tenfold bench", "AIPerf", "ratio, median of rounds"), rows))
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
