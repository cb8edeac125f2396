"""A server on a GPU as a user runs it, drafts on auto, loaded by ``tenfold bench``; beside it the engine in process."""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cuda.timing import Limits, Row

MODEL = "llama-3-8b"
_PATIENCE = 180.0  # seconds until the server is ready
_LOADS = (("chat", 64, 256), ("mixed", 16, 64), ("mixed", 1, 6))  # workload, users at a time, requests
_TENFOLD = (sys.executable, "-m", "tenfold.cli")
_SERVED = ("--load-format", "dummy", "--backend", "cuda", "--max-context", "4096")


def run(limits: Limits) -> list[Row]:
    """The same loads by HTTP and, after it, by the engine in the same process as the bench."""
    with _serving() as url:
        rows = [_row("HTTP", load, _bench(load, "--url", url, "--model", MODEL)) for load in _LOADS]
    rows.append(_row("in process", _LOADS[0], _bench(_LOADS[0], "--model", MODEL, *_SERVED)))
    return rows


@contextlib.contextmanager
def _serving() -> Iterator[str]:
    """The address of a server that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen((*_TENFOLD, "serve", MODEL, "--port", str(port), *_SERVED), stdout=log, stderr=log)
        try:
            url, began = f"http://127.0.0.1:{port}", time.monotonic()
            while not _ready(url):
                if server.poll() is not None or time.monotonic() - began > _PATIENCE:
                    log.seek(0)
                    raise RuntimeError(f"the server is not ready: {log.read().decode(errors='replace')[-4000:]}")
                time.sleep(0.2)
            print(f"ready {time.monotonic() - began:.0f} s after its start", flush=True)
            yield url
            server.terminate()
            code = server.wait(timeout=30)
            if code:
                log.seek(0)
                raise RuntimeError(f"the server ended with {code}: {log.read().decode(errors='replace')[-4000:]}")
        finally:
            server.kill()
            server.wait()


def _ready(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _bench(load: tuple[str, int, int], *target: str) -> dict[str, Any]:
    """The report of ``tenfold bench``. Raises RuntimeError where requests failed."""
    workload, users, requests = load
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        command = (*_TENFOLD, "bench", *target, "--workload", workload, "-n", str(requests), "-c", str(users))
        ran = subprocess.run((*command, "--output", str(output)), capture_output=True, text=True, timeout=300)
        if ran.returncode:
            told = (ran.stderr + ran.stdout)[-4000:]
            raise RuntimeError(f"{' '.join(command[1:])} ended with {ran.returncode}: {told}")
        report: dict[str, Any] = json.loads(output.read_text())
        return report


def _row(where: str, load: tuple[str, int, int], report: dict[str, Any]) -> Row:
    """Microseconds of the row are those of a token of the median request."""
    workload, users, requests = load
    every = report["all"]
    note = (
        f"{requests} requests: {report['out_tok_s']:,.0f} output tok/s; TTFT p50 {every['ttft_ms']['p50']:.0f}, "
        f"p95 {every['ttft_ms']['p95']:.0f} ms; TPOT p95 {every['tpot_ms']['p95']:.1f} ms"
    )
    wrong = every["errors"] + every["refused"] + every["short_out"]
    if wrong:
        raise RuntimeError(f"{where}, {workload}: {wrong} requests failed, were refused or ended early")
    return Row(f"8B {where}, {workload}", f"{users} users", 1e3 * every["tpot_ms"]["p50"], note=note)
