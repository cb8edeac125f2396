"""Servers made ill on purpose, and healthy ones: does the doctor say what it is? ``python -m benchmarks.doctor``.

Each scenario starts ``tenfold serve`` with its options, lets it measure its steps, puts its load on it, looks at it
with ``tenfold doctor --url`` meanwhile, and compares the problems that are named with those that there are. Exit code 1
where some are others.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.slo.harness import table
from benchmarks.speculation.work import asks
from tenfold.bench.http_target import HttpTarget
from tenfold.bench.load import Load, at_random, closed, run_load
from tenfold.bench.workload import Work
from tenfold.model.store import cache_folder

CALIBRATION, BEFORE, LOOK = 60.0, 6.0, 12.0  # seconds: for it at most, of load before the look, and of the look


@dataclass(frozen=True, slots=True)
class Scenario:
    """``expected``: a problem that must be named; empty: there is none. ``told``: another finding that must be there.
    ``beside``: problems that may be named as well, because they are there, too."""

    name: str
    options: tuple[str, ...]
    load: Load
    expected: str = ""
    told: str = ""
    beside: tuple[str, ...] = ()
    temperature: float = 0.0


def prompts_only(count: int, rate: float) -> Load:
    """Long prompts whose answers are a few tokens: what bits the weights are in matters little."""
    made = at_random("long", count, rate)
    work = tuple(Work(one.kind, one.prompt, 4) for one in made.work)
    return Load("prompts", work, made.warm, made.seed, times=made.times)


def free_text(count: int, users: int) -> Load:
    """Chats about one thing and another: what is drafted is seldom right where tokens are drawn. (The likeliest ones
    repeat themselves, and answers before them.)"""
    made = closed("chat", count, users)
    asked = asks("chat", count)
    work = tuple(Work("chat", f"{ask.text}\n", 100) for ask in asked)
    return Load("free text", work, made.warm, made.seed, users=users)


SCENARIOS = (
    Scenario(
        "we quantized and latency barely improved (prompts, --weights int4)",
        ("--weights", "int4"),
        prompts_only(30, 1.0),
        told="binds-prompts",
        beside=("interference", "capacity"),
    ),
    Scenario(
        "throughput is great but it feels slow (--profile throughput)",
        ("--profile", "throughput", "--max-step-tokens", "4096"),
        at_random("mixed", 60, 2.0),
        expected="interference",
        beside=("capacity", "queueing"),
    ),
    Scenario(
        "speculation should always help (--speculation fixed --draft-tokens 8)",
        ("--speculation", "fixed", "--draft-tokens", "8"),
        free_text(160, 16),
        expected="speculation",
        beside=("interference", "capacity", "machine"),
        temperature=1.0,
    ),
    Scenario(
        "healthy: the same with --speculation auto",
        ("--speculation", "auto"),
        free_text(160, 16),
        told="healthy",
        beside=("machine",),
        temperature=1.0,
    ),
    Scenario("healthy: few chats", ("--slo", "ttft=1s,tpot=50ms"), at_random("chat", 40, 1.5), told="healthy"),
    Scenario(
        "healthy: many chats, within bounds", ("--slo", "ttft=2s,tpot=60ms"), closed("chat", 120, 12), told="healthy"
    ),
    Scenario("healthy: one user", (), closed("chat", 60, 1), told="binds-weights"),
    Scenario(
        "KV memory is short (--kv-tokens 4096)",
        ("--kv-tokens", "4096"),
        closed("mixed", 200, 16),
        expected="kv",
        beside=("interference", "capacity", "queueing"),
    ),
    Scenario("more than it can do", (), at_random("chat", 500, 20.0), expected="capacity", beside=("interference",)),
    Scenario("few places (--max-running 2)", ("--max-running", "2"), closed("short", 200, 10), expected="places"),
    Scenario(
        "the wrong ops", ("--backend", "reference"), closed("short", 4, 1), expected="kernels", beside=("machine",)
    ),
)


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def serve(*options: str, **environment: str) -> "subprocess.Popen[bytes]":
    """A server of its own."""
    command = [sys.executable, "-m", "tenfold.cli", "serve", "--speculation", "off", *options]
    variables = {**os.environ, **environment}
    return subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def without_step_times(folder: Path) -> str:
    """A cache folder, made in ``folder``, with all that is in the usual one but how long steps take: who starts with it
    measures the machine as it is now. (Kept times may be those of another hour, with other neighbours.)"""
    made, usual = folder / "cache", cache_folder()
    made.mkdir()
    for name in ("models", "tokenizers"):  # what is fetched or made now is kept
        (usual / name).mkdir(parents=True, exist_ok=True)
    for one in usual.iterdir():
        if one.name != "cost":
            (made / one.name).symlink_to(one)
    return str(made)


def until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait for the model to be loaded."""
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the server does not become ready")


def until_calibrated(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until it knows how long its steps take."""
    deadline = time.monotonic() + CALIBRATION
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{url}/debug/steps", timeout=10) as answer:
                if json.load(answer)["calibrated"]:
                    return
        except OSError:
            pass  # a slow engine does not answer in the midst of a step
        time.sleep(0.2)
    raise TimeoutError(f"the server does not calibrate itself within {CALIBRATION:g} s")


def engine_of(server: int) -> int:
    """The process id of a server's engine: of its children, the one that was started last; 0 while there is none."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return max(map(int, children), default=0)


async def examine(scenario: Scenario, model: str) -> dict[str, Any]:
    """The doctor's report."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = TemporaryDirectory()
    server = serve(model, "--port", str(port), *scenario.options, TENFOLD_CACHE=without_step_times(Path(folder.name)))
    try:
        await asyncio.to_thread(until_ready, url, server)
        await asyncio.to_thread(until_calibrated, url, server)
        target = HttpTarget(url, temperature=scenario.temperature)
        await target.start()
        loading = asyncio.ensure_future(run_load(target, scenario.load))
        await asyncio.sleep(BEFORE)
        look = [sys.executable, "-m", "tenfold.cli", "doctor", "--url", url, "--seconds", str(LOOK), "--json"]
        doctor = await asyncio.create_subprocess_exec(*look, stdout=subprocess.PIPE)
        out, _ = await doctor.communicate()
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        report: dict[str, Any] = json.loads(out)
        report["code"] = doctor.returncode
        return report
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        folder.cleanup()


def judge(scenario: Scenario, report: dict[str, Any]) -> str:
    """What is wrong with what was said; empty: nothing."""
    problems = [one["name"] for one in report["findings"] if one["level"] == "problem"]
    names = [one["name"] for one in report["findings"]]
    if scenario.expected and scenario.expected not in problems:
        return f"said {', '.join(problems) or 'nothing'}"
    if extra := set(problems) - {scenario.expected} - set(scenario.beside):
        return f"also said {', '.join(sorted(extra))}"
    if scenario.told and scenario.told not in names:
        return f"did not say {scenario.told}, but {names}"
    return "" if report["code"] == bool(problems) else f"exit code {report['code']}"


async def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", help="scenarios whose name has this in it")
    told = parser.parse_args()
    rows, wrong = [], 0
    for scenario in SCENARIOS:
        if told.only and told.only not in scenario.name:
            continue
        report = await examine(scenario, told.model)
        fault = judge(scenario, report)
        wrong += bool(fault)
        shown = next((one for one in report["findings"] if one["name"] in (scenario.expected, scenario.told)), None)
        print(f"{scenario.name}: {fault or 'right'}", *([f"  {shown['words']}"] if shown else []), sep="\n", flush=True)
        for advice in (shown or {}).get("advice", ()):
            print(f"  · {advice}", flush=True)
        rows.append((scenario.name, scenario.expected or scenario.told, fault or "right"))
    print("\n" + table(("scenario", "what it is", "the doctor"), rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
