"""An architecture is data: one record describes every supported model of the Llama family."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding over the two halves of a head ("NeoX" order).

    ``inv_freq`` holds head_dim / 2 angles per position, any scaling (linear, Llama 3) already in them:
    element i of a head's first half rotates with element i of its second by position x inv_freq[i].
    """

    inv_freq: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Sizes and switches of a decoder-only transformer, from GGUF metadata or ``config.json``.

    Norm weights are plain multipliers (Gemma's "1 +" is folded in on load) and Q and K rows are in the
    halves order of :class:`RopeSpec` (GGUF's interleaved Llama rows are put back on load), so neither
    appears here. ``windows[i]`` is layer i's sliding window in tokens, the query's own included: position p
    sees keys p - window + 1 … p; 0 is full attention. Layers with a window use ``rope_local`` where there
    is one.
    """

    architecture: str  # as the checkpoint names it: llama, mistral, qwen2, qwen3, gemma3
    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_context: int
    norm_eps: float
    rope: RopeSpec
    windows: tuple[int, ...]
    rope_local: RopeSpec | None = None
    activation: Activation = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False  # RMS norm of each head of Q and K, before rope
    post_norms: bool = False  # sandwich: norms after attention and after the MLP, before the residual add
    embed_scale: float = 1.0
    query_scale: float = 1.0  # multiplies q . k (usually head_dim ** -0.5)
    tied_head: bool = True  # logits use the embedding matrix
    logit_softcap: float = 0.0  # 0: off
    head_rows: int = 0  # of a head of its own that gives logits for fewer tokens than ``vocab``; 0: for all

    @property
    def outputs(self) -> int:
        """Logits per row."""
        return self.head_rows or self.vocab

    def rope_of(self, layer: int) -> RopeSpec:
        """The rotary embedding layer ``layer`` uses."""
        return self.rope_local if self.windows[layer] and self.rope_local is not None else self.rope
