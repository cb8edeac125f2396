"""Starting a server, waiting for its first token, weighing it, stopping it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.shootout.peers.base import PeerError, Server, shootout_folder
from benchmarks.shootout.quiet import Watch


@dataclass(frozen=True, slots=True)
class Started:
    """Seconds from the start of the process to the first streamed token; ``memory`` in MB right after it.

    Memory is the proportional set size of all its processes: pages that they share count once. ``others`` is the
    machine's share that other processes took meanwhile.
    """

    seconds: float
    memory: float
    others: float


@contextlib.contextmanager
def running(server: Server, log: Path) -> Iterator[Started]:
    """The server, serving, until the block ends. Raises PeerError where it does not come up."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        watch, began = Watch(), time.perf_counter()
        process = subprocess.Popen(
            server.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **server.env},
            start_new_session=True,
        )
    try:
        while not _first_token(server):
            if process.poll() is not None:
                raise PeerError(f"the server ended with {process.returncode}; see {log}")
            if time.perf_counter() - began > server.patience:
                raise PeerError(f"the server gave no token within {server.patience:.0f} s; see {log}")
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        yield Started(seconds, _memory(process.pid), watch.share())
    finally:
        _stop(process)


def server_log(name: str) -> Path:
    """Where a peer's server writes."""
    return shootout_folder() / "logs" / f"{name}-server.log"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def completion_ids(server: Server, ids: Sequence[int], wanted: int) -> list[int]:
    """Greedy token ids from llama.cpp's own completion endpoint."""
    body = {"prompt": list(ids), "n_predict": wanted, "temperature": 0, "return_tokens": True, "cache_prompt": True}
    with _post(f"{server.url}/completion", body) as answer:
        tokens: list[int] = json.load(answer)["tokens"]
    return tokens


def _first_token(server: Server) -> bool:
    """Whether a streamed completion gave a token; False while the server does not serve yet."""
    body = {"model": server.model, "prompt": "Hello", "stream": True, "max_tokens": 2, "temperature": 0}
    try:
        with _post(f"{server.url}/v1/completions", body) as answer:
            return any(b'"text"' in line for line in answer)
    except (urllib.error.URLError, ConnectionError):
        return False


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=120)


def _memory(leader: int) -> float:
    """Megabytes of the process ``leader`` and all below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(folder.name))
    kilobytes, left = 0, [leader]
    while left:
        pid = left.pop()
        left += children.get(pid, ())
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kilobytes += int(line.split()[1])
    return kilobytes * 1024 / 1e6


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):  # children that outlived their leader
        os.killpg(process.pid, signal.SIGKILL)
