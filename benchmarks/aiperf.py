"""Do we measure what others measure? ``python -m benchmarks.aiperf --aiperf /path/to/aiperf``.

AIPerf (https://pypi.org/project/aiperf, in a virtual environment of its own) and ``tenfold bench`` put the same load on
one server in turn, in either order: requests at a steady rate, ours with prompts as long as AIPerf's, answers of one
length, nothing cached. Prints figures over the requests of all rounds, and by how much they differ, beside by how much
each tool's own rounds do. Exit code 1 where the tools differ by more than the tolerance.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.doctor import free_port, serve, until_ready
from benchmarks.slo.harness import table
from tenfold.bench.http_target import HttpTarget
from tenfold.bench.load import replayed, run_load
from tenfold.bench.report import summary
from tenfold.traffic.row import Row

PROMPT, OUTPUTS = 200, 64  # tokens; a prompt's are counted by AIPerf's own tokenizer
WARM = 2
# What we call it, and AIPerf.
FIGURES = {"ttft_ms": "time_to_first_token", "tpot_ms": "inter_token_latency", "e2e_ms": "request_latency"}
Times = dict[str, list[float]]  # milliseconds of each request, by our names


def make_tokenizer(folder: Path) -> None:
    """One that AIPerf can cut its texts with, without a network: learned from this project's own pages."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    pages = [str(path) for path in (Path(__file__).parent.parent / "docs").glob("*.md")]
    made.train(pages, vocab_size=4000, special_tokens=["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def theirs(aiperf: str, url: str, rate: float, count: int, seed: int) -> tuple[Times, list[int]]:
    """AIPerf's times, and how long its prompts were, in the order in which they were sent."""
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
            *("--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0"),
            *("--warmup-request-count", str(WARM)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        found = sorted(Path(folder).rglob("profile_export.jsonl"))
        if done.returncode or not found:
            raise SystemExit(f"AIPerf failed: {(done.stderr or done.stdout)[-2000:]}")
        lines = [json.loads(line) for line in found[0].read_text().splitlines()]
    records = [line for line in lines if line["metadata"]["benchmark_phase"] == "profiling"]
    records.sort(key=lambda record: record["metadata"]["request_start_ns"])
    assert len(records) == count, f"{len(records)} of {count} requests were recorded"
    metrics = [{name: figure["value"] for name, figure in record["metrics"].items()} for record in records]
    lengths = [int(one["input_sequence_length"]) for one in metrics]
    return {ours: [one[name] for one in metrics] for ours, name in FIGURES.items()}, lengths


async def ours(url: str, rate: float, lengths: list[int], seed: int) -> Times:
    """Our times of the same load."""
    rows = [Row(at / rate, length, OUTPUTS) for at, length in enumerate(lengths)]
    target = HttpTarget(url)
    name = await target.start()
    try:
        report = summary(await run_load(target, replayed("steady", rows, seed)), name)
    finally:
        await target.stop()
    assert not report["all"]["errors"], report.get("first_error")
    return {name: [row[name] for row in report["requests"]] for name in FIGURES}


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aiperf", required=True, help="its executable")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rate", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1, help="of the server: leave cores to AIPerf, which needs some")
    parser.add_argument("--tolerance", type=float, default=0.05)
    told = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = serve(told.model, "--port", str(port), "--no-prefix-sharing", "--threads", str(told.threads))
    tools = ("tenfold bench", "AIPerf")
    rounds: dict[str, list[Times]] = {tool: [] for tool in tools}
    try:
        until_ready(url, server)
        _, lengths = theirs(told.aiperf, url, told.rate, 10, 0)  # the tool's first run
        for seed in range(told.rounds):
            if seed % 2:
                rounds["tenfold bench"].append(asyncio.run(ours(url, told.rate, lengths, seed)))
            times, lengths = theirs(told.aiperf, url, told.rate, told.requests, 1)  # the same prompts each time
            rounds["AIPerf"].append(times)
            if not seed % 2:
                rounds["tenfold bench"].append(asyncio.run(ours(url, told.rate, lengths, seed)))
            shown = [f"{tool} {np.median(rounds[tool][-1]['ttft_ms']):.1f}" for tool in tools]
            print(f"round {seed + 1}, TTFT p50, ms: {', '.join(shown)}", flush=True)
    finally:
        server.terminate()
        server.wait(30)
    rows, beyond = [], 0
    for name in FIGURES:
        for p in (50, 95):
            each = [np.percentile([one for times in rounds[tool] for one in times[name]], p) for tool in tools]
            spread = [_spread([float(np.percentile(times[name], p)) for times in rounds[tool]]) for tool in tools]
            beyond += abs(each[0] / each[1] - 1) > told.tolerance
            label = f"{name.removesuffix('_ms').upper()} p{p}, ms"
            rows.append((label, f"{each[0]:.1f}", f"{each[1]:.1f}", f"{each[0] / each[1]:.3f}", *spread))
    head = ("all requests", *tools, "ratio", *(f"{tool}'s rounds" for tool in tools))
    print(f"\nprompts of {min(lengths)} to {max(lengths)} tokens\n" + table(head, rows))
    return 1 if beyond else 0


def _spread(values: list[float]) -> str:
    """Least and greatest to their median."""
    middle = statistics.median(values)
    return f"{min(values) / middle:.2f} to {max(values) / middle:.2f}"


if __name__ == "__main__":
    sys.exit(main())
