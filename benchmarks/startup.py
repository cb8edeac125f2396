"""Seconds from ``tenfold serve`` to its first streamed token. ``python -m benchmarks.startup [MODEL] [--runs N]``.

Starts the server as a user does, asks again and again until it answers, and stops it. Prints a line per run and
the median.
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

from tenfold.core.config import DEFAULT_MODEL

SERVE = "from tenfold.cli import main; main()"
PATIENCE = 60.0  # seconds


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def first_token(url: str) -> bool:
    """Whether a streamed completion gave a token; False while the server does not serve yet."""
    body = {"model": "default", "stream": True, "max_tokens": 4, "prompt": "Hello"}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return any(b'"text"' in line for line in answer)
    except (urllib.error.URLError, ConnectionError):
        return False


def run(model: str) -> float:
    """One start, in seconds. Raises SystemExit where the server ends or never serves."""
    port = free_port()
    began = time.perf_counter()
    command = [sys.executable, "-c", SERVE, "serve", model, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            while not first_token(f"http://127.0.0.1:{port}/v1/completions"):
                if server.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise SystemExit(f"no token within {PATIENCE:.0f} s; run `tenfold serve {model}` to see why")
                time.sleep(0.005)
            return time.perf_counter() - began
        finally:
            server.send_signal(signal.SIGINT)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    times = []
    for number in range(args.runs):
        times.append(run(args.model))
        print(f"run {number + 1}: {times[-1]:.2f} s", flush=True)
    print(f"median: {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
