"""A worker process that keeps a model loaded, and is stopped (SIGSTOP) while it is not its turn."""

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.shootout.peers.base import Measured, PeerError, Records
from benchmarks.shootout.rows import Batch, Request, decode_rate

_WORKERS = Path(__file__).parent.parent / "workers"
LOAD_PATIENCE = 300.0
RUN_PATIENCE = 600.0


class WorkerSession:
    """See :class:`~benchmarks.shootout.peers.base.Session`. ``vocab`` bounds the random prompts."""

    def __init__(
        self,
        python: str,
        script: str,
        settings: Mapping[str, Any],
        vocab: int,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._vocab = vocab
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [python, str(_WORKERS / script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # a group of its own, to stop and continue as a whole
            )
        try:
            self.about: str = self._ask(settings, LOAD_PATIENCE)["ready"]
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def batch(self, row: Batch, seed: int) -> Measured:
        """See :class:`Session`."""
        records = self._run(row.requests(self._vocab, seed), row.sequences)
        times = [record["times"] for record in records]
        rate = row.prompt / (times[0][0] - records[0]["began"]) if row.prefill else decode_rate(times)
        return Measured({"tok/s": rate}, row.prompt_tokens, sum(map(len, times)))

    def greedy(self, prompts: Sequence[Sequence[int]], wanted: int) -> list[list[int]]:
        """See :class:`Session`."""
        records = self._run([Request(tuple(ids), wanted) for ids in prompts], 1)
        return [record["tokens"] for record in records]

    def serve(self, requests: Sequence[Request], users: int) -> Records:
        """See :class:`Session`."""
        return self._run(requests, users)

    def close(self) -> None:
        """See :class:`Session`."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _run(self, requests: Sequence[Request], users: int) -> Records:
        with self._awake():
            answer = self._ask({"requests": [asdict(request) for request in requests], "users": users}, RUN_PATIENCE)
        records: Records = answer["records"]
        return records

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _ask(self, message: Mapping[str, Any], patience: float) -> dict[str, Any]:
        timer = threading.Timer(patience, self._signal, (signal.SIGKILL,))
        timer.start()
        try:
            self._process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
            line = self._process.stdout.readline()  # type: ignore[union-attr]
        except OSError:
            line = ""
        finally:
            timer.cancel()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended without an answer"}
        if "error" in answer:
            raise PeerError(f"{answer['error']} (log: {self._log})")
        return answer

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
