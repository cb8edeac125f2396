"""Starting a server, waiting for its first token, weighing it, filling its KV memory, stopping it."""

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.shootout.peers.base import PeerError, Server, shootout_folder
from benchmarks.shootout.quiet import Watch
from benchmarks.shootout.rows import Request

_FILL_PATIENCE = 1800.0  # seconds for all prompts of a fill


@dataclass(frozen=True, slots=True)
class Started:
    """Seconds from the start of process ``pid`` to the first streamed token; ``memory`` in MB right after it.

    ``others`` is the machine's share that other processes took meanwhile.
    """

    pid: int
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
        yield Started(process.pid, seconds, memory_of(process.pid), watch.share())
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


def answer_all(server: Server, requests: Sequence[Request]) -> tuple[int, int]:
    """Have all requests answered, all at the same time: their prompt and output tokens, as the server counts them.

    Raises PeerError where one is not.
    """

    def answer(request: Request) -> tuple[int, int]:
        body = {"model": server.model, "prompt": list(request.ids), "max_tokens": request.wanted, "temperature": 0}
        with _post(f"{server.url}/v1/completions", body, _FILL_PATIENCE) as response:
            usage = json.load(response)["usage"]
        return usage["prompt_tokens"], usage["completion_tokens"]

    try:
        with ThreadPoolExecutor(len(requests)) as pool:
            counts = list(pool.map(answer, requests))
    except OSError as error:
        raise PeerError(f"a prompt of a fill was not answered: {error}") from None
    return sum(prompt for prompt, _ in counts), sum(output for _, output in counts)


def _first_token(server: Server) -> bool:
    """Whether a streamed completion gave a token; False while the server does not serve yet."""
    body = {"model": server.model, "prompt": "Hello", "stream": True, "max_tokens": 2, "temperature": 0}
    try:
        with _post(f"{server.url}/v1/completions", body) as answer:
            return any(b'"text"' in line for line in answer)
    except (urllib.error.URLError, ConnectionError):
        return False


def _post(url: str, body: dict[str, Any], patience: float = 120) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=patience)


def memory_of(leader: int) -> float:
    """Megabytes of the process ``leader`` and all below it: their proportional set size, in which pages that they
    share count once."""
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
