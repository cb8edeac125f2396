"""Tenfold itself: the engine stepped in process, and ``tenfold serve``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tenfold
from benchmarks.shootout.peers.base import Model, Server, shootout_folder
from benchmarks.shootout.peers.worker import WorkerSession
from benchmarks.shootout.rows import KV_TOKENS

_SERVE = "from tenfold.cli import main; main()"


class Tenfold:
    """See :class:`~benchmarks.shootout.peers.base.Peer`."""

    name = "tenfold"
    label = "Tenfold"

    def __init__(self, kv: str) -> None:
        self._kv = kv
        self.flags = f"--kv {kv}, the GGUF as it is; offline rows step the engine in process, scheduler included"

    def missing(self) -> str | None:
        """Never: the shootout runs in its environment."""
        return None

    def install(self, pip_flags: Sequence[str]) -> None:
        """Nothing to do."""

    def prepare(self, model: Model) -> None:
        """Nothing to do."""

    def open(self, model: Model) -> WorkerSession:
        """See :class:`Peer`."""
        settings = {"model": str(model.gguf), "kv_tokens": KV_TOKENS, "kv_type": self._kv}
        log = shootout_folder() / "logs" / "tenfold.log"
        return WorkerSession(sys.executable, "tenfold_worker.py", settings, model.encode.vocab, log, _environment())

    def server(self, model: Model, users: int, kv_tokens: int, port: int) -> Server:
        """See :class:`Peer`."""
        kv = ("--kv", self._kv, "--kv-tokens", str(kv_tokens))
        options = ("--port", str(port), *kv, "--served-model-name", "default", "--speculation", "off")
        return Server(
            [sys.executable, "-c", _SERVE, "serve", str(model.gguf), *options],
            port,
            _environment(),
        )


def _environment() -> dict[str, str]:
    """A checkout that is not installed is found by the worker too."""
    source = str(Path(tenfold.__file__).parent.parent)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))}
