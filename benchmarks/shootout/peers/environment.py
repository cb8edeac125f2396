"""A virtual environment per peer."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.shootout.peers.base import Model, PeerError
from benchmarks.shootout.weights import export
from tenfold.core.errors import TenfoldError


def python_of(home: Path) -> Path:
    """The interpreter of the peer at ``home``."""
    return home / "venv" / "bin" / "python"


def make_venv(home: Path) -> Path:
    """The peer's interpreter, made where it is not there yet."""
    python = python_of(home)
    home.mkdir(parents=True, exist_ok=True)
    if not python.is_file():
        run_logged([sys.executable, "-m", "venv", str(home / "venv")], home / "install.log")
    return python


def pip_install(python: Path, arguments: Sequence[str], log: Path) -> None:
    """``pip install`` into that interpreter's environment. Raises PeerError."""
    run_logged([str(python), "-m", "pip", "--disable-pip-version-check", "install", *arguments], log)


def run_logged(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a command, its output appended to ``log``. Raises PeerError with the end of it."""
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        try:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env, check=False).returncode
        except OSError as error:
            raise PeerError(f"cannot run {command[0]}: {error.strerror}") from None
    if code:
        raise PeerError(f"`{' '.join(command[:6])} ...` failed ({code}); see {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-600:]


def drop_torch_companions(python: Path, log: Path) -> None:
    """Remove what is made for another build of torch than ours and then breaks transformers; text needs none of it."""
    run_logged([str(python), "-m", "pip", "uninstall", "-y", "torchvision", "torchaudio", "torchcodec"], log)


def export_once(model: Model) -> None:
    """The model's weights as a Hugging Face directory, unless they are there. Raises PeerError."""
    if (model.hf / "tokenizer_config.json").is_file():
        return
    try:
        export(model.gguf, model.hf)
    except TenfoldError as error:
        raise PeerError(str(error)) from None
