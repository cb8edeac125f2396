"""What HTTP adds to the engine: ``python -m benchmarks.http_overhead [MODEL] [--rounds N] [--streams N]``.

The same closed loads go by turns to an engine in this process, asked directly, and to ``tenfold serve``, asked for
streams through HTTP: ``--streams`` users at once for throughput, one user for the time to the first token. Both engines
are loaded all the time and idle while the other is asked; each round begins with the other one. Prints medians of the
rounds, the median of their ratios and of their differences, and the CPU time of the server's process beside its
engine's, which a busy machine does not change. Exit code 1 where HTTP takes more than 5 % of the throughput, or 3 ms of
one stream's TTFT at p95.
"""

import argparse
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.doctor import engine_of, free_port, serve, until_ready
from benchmarks.slo.harness import table
from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.http_target import HttpTarget
from tenfold.bench.load import Load, closed, run_load
from tenfold.bench.report import summary
from tenfold.bench.target import Target
from tenfold.core.config import DEFAULT_MODEL, EngineConfig, SchedulerConfig, SpeculationConfig
from tenfold.engine.local import LocalEngine
from tenfold.model.load import tokenizer_of

MOST_SLOWER = 0.05  # of the throughput
MOST_LATER = 3.0  # ms, of TTFT at p95
FIRST_TOKENS = 40  # requests of the one user, in a round


async def measure(target: Target, load: Load) -> dict[str, Any]:
    """Figures of a load, of which every request was answered."""
    report = summary(await run_load(target, load), "")
    assert not report["all"]["errors"], report["first_error"]
    return report


def loads(streams: int, each: int, seed: int) -> tuple[Load, Load]:
    """Many users, and one: chats with prompts of their own in every round, so that nothing is found in a cache."""
    one = closed("short", FIRST_TOKENS, 1, seed=1000 + seed)
    brief = tuple(replace(work, output_tokens=2) for work in one.work)
    return closed("chat", each * streams, streams, seed=seed), replace(one, work=brief)


async def rounds(told: argparse.Namespace, targets: dict[str, Target]) -> dict[str, list[list[dict[str, Any]]]]:
    """By target: of each round, the figures of both loads."""
    found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in targets}
    for seed in range(told.rounds):
        order = list(targets) if seed % 2 else list(targets)[::-1]
        for name in order:
            found[name].append([await measure(targets[name], load) for load in loads(told.streams, told.each, seed)])
        latest = ((name, *found[name][-1]) for name in targets)
        shown = (
            f"{name} {many['out_tok_s']} tok/s, TTFT p95 {one['all']['ttft_ms']['p95']} ms"
            for name, many, one in latest
        )
        print(f"round {seed + 1}: {'; '.join(shown)}", flush=True)
    return found


def busy(pid: int) -> float:
    """Seconds of CPU that a process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(told: argparse.Namespace, url: str, server: int) -> bool:
    """Measure and print; whether HTTP is within its bounds."""
    scheduler = SchedulerConfig(speculation=SpeculationConfig(mode="off"))
    config = EngineConfig(model=told.model, threads=told.threads, scheduler=scheduler)
    engine = EngineTarget(LocalEngine(config), partial(tokenizer_of, config.model, config.load_format))
    targets: dict[str, Target] = {"engine": engine, "HTTP": HttpTarget(url)}
    for target in targets.values():
        await target.start()
    pids = (server, engine_of(server))
    before = [busy(pid) for pid in pids]
    try:
        found = await rounds(told, targets)
        mine, its = (busy(pid) - was for pid, was in zip(pids, before, strict=True))
    finally:
        for target in targets.values():
            await target.stop()

    def values(name: str, load: int, *keys: str) -> list[float]:
        rows: Any = [row[load] for row in found[name]]
        for key in keys:
            rows = [row[key] for row in rows]
        return list(rows)

    rows = []
    for label, load, keys in (
        (f"output tok/s, {told.streams} streams", 0, ("out_tok_s",)),
        (f"TTFT p95, ms, {told.streams} streams", 0, ("all", "ttft_ms", "p95")),
        ("TTFT p50, ms, one stream", 1, ("all", "ttft_ms", "p50")),
        ("TTFT p95, ms, one stream", 1, ("all", "ttft_ms", "p95")),
    ):
        pairs = list(zip(values("engine", load, *keys), values("HTTP", load, *keys), strict=True))
        ratio = statistics.median(http / alone for alone, http in pairs)
        more = statistics.median(http - alone for alone, http in pairs)
        middle = [f"{statistics.median(pair[at] for pair in pairs):.1f}" for at in (0, 1)]
        rows.append((label, *middle, f"{ratio:.3f}", f"{more:+.1f}"))
    print("\n" + table(("medians of rounds", "engine", "HTTP", "ratio", "difference"), rows))
    print(f"CPU seconds of the server's process, to those of its engine's: {mine:.2f} / {its:.2f} = {mine / its:.3f}")
    throughput, later = float(rows[0][3]), float(rows[3][4])
    return throughput >= 1 - MOST_SLOWER and later <= MOST_LATER


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--each", type=int, default=4, help="requests of a user in a round")
    parser.add_argument("--threads", type=int, default=1, help="of each engine: leave a core to the client")
    told = parser.parse_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server: subprocess.Popen[bytes] = serve(told.model, "--port", str(port), "--threads", str(told.threads))
    try:
        until_ready(url, server)
        return 0 if uvloop.run(run(told, url, server.pid)) else 1
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    sys.exit(main())
