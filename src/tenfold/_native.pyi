"""The C++ kernels (native/bindings.cpp). Bad arguments raise ValueError, never read or write out of bounds."""

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

def emulated_levels() -> list[str]:
    """Levels for tests only, over emulated hardware."""

def levels() -> list[str]:
    """Kernel levels this CPU and this build run, best first."""

def encodings() -> list[str]:
    """Tensor encodings that can be packed, by GGUF's names."""

def cpu_features() -> list[str]:
    """Instruction sets that matter to kernels, of this CPU and system, by the names of /proc/cpuinfo."""

def read_rate(level: str, threads: int, bytes: int) -> float:
    """Bytes per second at which the threads read the same ``bytes`` bytes again and again."""

def mac_rates(level: str, threads: int) -> list[tuple[str, str, float]]:
    """(arithmetic, instructions, multiply-adds per second): the level's own f32 and int8, then what else there is."""

def interleave(nodes: list[int]) -> None:
    """Spread memory mapped from now on over these memory nodes, page by page; none: as the system likes."""

def mappings() -> int:
    """How often this process has mapped memory for weights, KV, activations or scratch."""

class Kv:
    """Paged KV memory of all layers."""

    @property
    def bytes(self) -> int: ...

class Model:
    """Packed weights, workspace and ops of one model. One call at a time (else RuntimeError)."""

    def __init__(
        self,
        *,
        layers: int,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        ffn: int,
        vocab: int,
        max_context: int,
        norm_eps: float,
        embed_scale: float,
        query_scale: float,
        logit_softcap: float,
        activation: str,
        qkv_bias: bool,
        qk_norm: bool,
        post_norms: bool,
        tied_head: bool,
        windows: list[int],
        inv_freq: list[float],
        inv_freq_local: list[float],
        level: str,
        threads: int,
        cpus: list[int] = ...,
        head_rows: int = 0,
        beside: Model | None = None,
        shared: bool = False,
    ) -> None:
        """``cpus`` has one per thread to pin the workers to, or none. ``head_rows`` 0: as many as ``vocab``. Threads
        may be those of a model ``beside``, and its embedding ``shared``: then ``vocab`` and ``hidden`` are its own."""

    def set_matrix(
        self, layer: int, name: str, kind: str, data: NDArray[np.uint8], rows: int, cols: int, form: str = ""
    ) -> None:
        """``form``: "" keeps every weight; ``bf16``, ``int8``, ``int4`` round (see native/linear/encode.hpp)."""
    def set_vector(self, layer: int, name: str, data: Float32) -> None: ...
    def check_complete(self) -> None: ...
    def new_kv(self, blocks: int, block_size: int, type: str) -> Kv: ...
    def upload(
        self, tokens: Int32, positions: Int32, starts: Int32, context: Int32, tables: Int32, rows: Int32
    ) -> None: ...
    def embed(self) -> None: ...
    def qkv(self, layer: int, kv: Kv) -> None: ...
    def attend(self, layer: int, kv: Kv) -> None: ...
    def attn_out(self, layer: int) -> None: ...
    def mlp(self, layer: int) -> None: ...
    def forward(self, kv: Kv) -> None:
        """Embed and all layers in one call."""
    def logits(self) -> Float32:
        """[R, vocab], a view of memory the next call reuses."""
    def record(self, on: bool) -> None:
        """While on, the wall time of the ops adds up; turning it on begins at zero."""
    def timings(self) -> dict[str, tuple[int, int]]:
        """By op: calls and nanoseconds."""
    def view(self, which: str) -> Float32:
        """A copy of the ``hidden``, ``query`` or ``attended`` rows."""
    def matrices(self, rows: int) -> list[tuple[int, str, str, str, int, int, int, int]]:
        """(layer or -1, name, format, arithmetic, outputs, inputs, packed bytes, rows per pass over the weights)."""
    def attend_items(self) -> list[tuple[int, list[int], int, int, int]]:
        """How the last batch's attention was cut for the threads: (window, rows, KV head, first key, key to end at)."""
    def attend_arithmetic(self, type: str) -> str:
        """What attention's multiply-adds over keys and values of ``type`` are: f32, bf16 or int8."""
    @property
    def level(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def weight_kinds(self) -> list[str]: ...

class Sampling:
    """Tokens from logits, on the threads of ``model``; one call at a time, and none beside the model's own."""

    def __init__(self, model: Model) -> None: ...
    def largest(self, logits: Float32) -> Int32: ...
    def draw(self, logits: Float32, rows: Int32, filters: Float64) -> Int32: ...
    def summarize(self, logits: Float32, rows: Int32, count: int) -> tuple[Float64, Int32]:
        """Flat: two doubles per row, ``count`` indices per row."""
    def largest_among(self, logits: Float32, rows: Int32, bits: Int32) -> Int32: ...
    def draw_among(self, logits: Float32, rows: Int32, bits: Int32, filters: Float64) -> Int32: ...

class Projection:
    """One packed matrix by itself: x @ W.T, for tests and benchmarks."""

    def __init__(
        self,
        kind: str,
        data: NDArray[np.uint8],
        cols: int,
        level: str = "",
        threads: int = 1,
        form: str = "",
        fine: bool = False,
        grouped: bool = False,
    ) -> None:
        """``fine``: kernels that make whole numbers of weights keep 16 bits of each. ``grouped``: they make none."""
    def apply(self, x: Float32) -> Float32: ...
    def row(self, index: int) -> Float32:
        """The exact values of one row of W."""
    @property
    def bytes(self) -> int: ...
