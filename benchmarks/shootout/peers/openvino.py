"""OpenVINO GenAI: continuous batching in process, weights in 4 bits. Its package has no server."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.shootout.peers.base import Model, PeerError, Server, shootout_folder
from benchmarks.shootout.peers.environment import (
    drop_torch_companions,
    export_once,
    make_venv,
    pip_install,
    python_of,
    run_logged,
)
from benchmarks.shootout.peers.worker import WorkerSession

VERSION = "2026.4.1"
_PACKAGES = (
    "torch==2.13.0",
    f"openvino=={VERSION}",
    f"openvino-genai=={VERSION}.0",
    f"openvino-tokenizers=={VERSION}.0",
    "optimum-intel==2.2.0",
    "optimum==2.3.0",
    "nncf==3.4.0",
    "transformers==5.0.0",  # the newest that exports Gemma 3
)
_CONVERT = Path(__file__).parent.parent / "workers" / "openvino_convert.py"
_KV_TOKENS = 65_536
_STEP_TOKENS = 512


class OpenVino:
    """See :class:`~benchmarks.shootout.peers.base.Peer`. One of the two ways it computes in."""

    def __init__(self, precision: str) -> None:
        assert precision in ("bf16", "f32")
        self.name = f"openvino-{precision}"
        self.label = f"OpenVINO GenAI {VERSION}, {precision}"
        how = (
            "the default precision (bf16 where the processor has it)"
            if precision == "bf16"
            else "INFERENCE_PRECISION_HINT f32, DYNAMIC_QUANTIZATION_GROUP_SIZE 32 (8-bit activations)"
        )
        self.flags = (
            f"int4 asymmetric weights in groups of 32, embedding and head in 8 bits, from the bf16 weights; {how}; "
            f"{_STEP_TOKENS} tokens a step; continuous batching in process, serving rows too (no HTTP)"
        )
        self._properties = (
            {} if precision == "bf16" else {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"}
        )

    def missing(self) -> str | None:
        """See :class:`Peer`."""
        found = list(_home().glob("venv/lib/python3*/site-packages/openvino_genai"))
        return None if found and python_of(_home()).exists() else "not installed"

    def install(self, pip_flags: Sequence[str]) -> None:
        """See :class:`Peer`."""
        python = make_venv(_home())
        pip_install(python, [*pip_flags, *_PACKAGES], _home() / "install.log")
        drop_torch_companions(python, _home() / "install.log")

    def prepare(self, model: Model) -> None:
        """See :class:`Peer`."""
        if (model.openvino / "openvino_detokenizer.xml").is_file():
            return
        export_once(model)
        log = shootout_folder() / "logs" / "openvino-convert.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        fresh = model.openvino.with_name(f"{model.openvino.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            run_logged([str(python_of(_home())), str(_CONVERT), str(model.hf), str(fresh)], log, dict(os.environ))
        except PeerError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        shutil.rmtree(model.openvino, ignore_errors=True)
        fresh.replace(model.openvino)

    def open(self, model: Model) -> WorkerSession:
        """See :class:`Peer`."""
        settings = {
            "model": str(model.openvino),
            "kv_tokens": _KV_TOKENS,
            "step_tokens": _STEP_TOKENS,
            "properties": self._properties,
        }
        log = shootout_folder() / "logs" / f"{self.name}.log"
        return WorkerSession(str(python_of(_home())), "openvino_worker.py", settings, model.encode.vocab, log)

    def server(self, model: Model, users: int, kv_tokens: int, port: int) -> Server | None:
        """None: see the module."""
        return None


def _home() -> Path:
    return shootout_folder() / "openvino"
