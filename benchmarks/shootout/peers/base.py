"""What the shootout asks of a system, and what it gets back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.shootout.rows import Batch, Encode, Request
from tenfold.model.store import cache_folder

Records = list[dict[str, Any]]  # as workers/protocol.py answers


class PeerError(Exception):
    """A system could not be installed, started or measured; says what to look at."""


@dataclass(frozen=True, slots=True)
class Model:
    """A known model: its GGUF file and the folders with the same weights in other forms."""

    name: str
    gguf: Path
    encode: Encode
    golden: Path | None

    @property
    def hf(self) -> Path:
        """The weights decoded to bf16, as a Hugging Face directory."""
        return shootout_folder() / "weights" / f"{self.name}-bf16"

    @property
    def openvino(self) -> Path:
        """The same in OpenVINO's format, 4 bits in groups of 32."""
        return shootout_folder() / "weights" / f"{self.name}-openvino-int4"


@dataclass(frozen=True, slots=True)
class Measured:
    """A row's figures by metric (see ``report.METRICS``), and the work behind them, to compare between systems.

    ``others`` is the machine's share that others took, where it had to be looked at before the system ended.
    """

    values: Mapping[str, float]
    prompt_tokens: int
    output_tokens: int
    note: str = ""
    others: float | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """How to start an OpenAI-compatible server on ``port``."""

    argv: Sequence[str]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    model: str = "default"
    patience: float = 60.0  # seconds to its first token

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


class Session(Protocol):
    """A loaded model, measured without HTTP."""

    def batch(self, row: Batch, seed: int) -> Measured:
        """Run an offline row once."""
        ...

    def greedy(self, prompts: Sequence[Sequence[int]], wanted: int) -> list[list[int]]:
        """Greedy continuations, one prompt after the other's batch mates as the system likes."""
        ...

    def serve(self, requests: Sequence[Request], users: int) -> Records:
        """Run a serving row in process, for systems that have no server."""
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


class Peer(Protocol):
    """A system to measure. ``label`` names it with its version, ``flags`` say how it runs."""

    name: str
    label: str
    flags: str

    def missing(self) -> str | None:
        """Why it cannot run here, None where it can."""
        ...

    def install(self, pip_flags: Sequence[str]) -> None:
        """Bring it, with exact versions, into its own folder. Raises PeerError."""
        ...

    def prepare(self, model: Model) -> None:
        """Convert the model's weights, where this system reads no GGUF. Raises PeerError."""
        ...

    def open(self, model: Model) -> Session:
        """Load the model."""
        ...

    def server(self, model: Model, users: int, kv_tokens: int, port: int) -> Server | None:
        """A server for ``users`` at a time with KV memory for ``kv_tokens``; None where the system has none."""
        ...


def shootout_folder() -> Path:
    """Where peers and converted weights are kept."""
    return cache_folder() / "shootout"
