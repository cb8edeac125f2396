"""A checkpoint with weights off every quantization grid: ``python -m benchmarks.rebased FOLDER [--rotate]``.

The models at hand are stored in 4 to 8 bits; rounding their decoded weights to 4 bits again would flatter the rounding.
This writes the same function in another basis, as a Hugging Face directory in bfloat16 (Llama family):

- in every case the MLP's inner units are permuted, and the values of each KV head are turned by a random rotation that
  the output projection undoes;
- the residual stream is permuted: each group of 32 weights then holds weights of 32 different stored groups, of the
  distribution they were trained to, outliers included, though each was rounded once before;
- or, with ``--rotate``, it is turned by a random rotation R: nothing is left of any grid. For that each norm's weights
  are first folded into the matrices after it (an RMS norm without weights commutes with R; QuaRot, Ashkboos et al.,
  2024). Rounding then no longer profits from small norm weights on channels with huge activations, so that what it
  costs here is more than in any basis a model was trained in. The head becomes a matrix of its own.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.config import DEFAULT_MODEL
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.ops.base import Float32
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Weights

Float64 = NDArray[np.float64]
NAMES = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True, slots=True)
class Basis:
    """Another basis of the residual stream: an orthogonal [hidden, hidden]; ``fold``: norms go into the matrices."""

    matrix: Float64
    fold: bool

    def norm(self, weight: Float32) -> Float32:
        """A norm's weights in this basis."""
        return np.ones_like(weight) if self.fold else (self.matrix @ weight).astype(np.float32)

    def reading(self, w: Float32, norm: Float32 | None = None) -> Float64:
        """``w`` [n, hidden], which reads the stream (after ``norm``), in this basis."""
        folded = w if norm is None or not self.fold else w.astype(np.float64) * norm
        return folded @ self.matrix.T

    def writing(self, w: Float32 | Float64) -> Float64:
        """``w`` [hidden, n], which writes to the stream, in this basis."""
        return self.matrix @ w


def rotation(rng: np.random.Generator, size: int) -> Float64:
    """A random orthogonal matrix."""
    return np.asarray(np.linalg.qr(rng.standard_normal((size, size)))[0])


def rebased(weights: Weights, seed: int, rotate: bool) -> dict[str, Float32]:
    """The tensors of a Llama model in a random basis, by their Hugging Face names."""
    spec = weights.spec
    rng = np.random.default_rng(seed)
    matrix = rotation(rng, spec.hidden) if rotate else np.eye(spec.hidden)[rng.permutation(spec.hidden)]
    basis = Basis(matrix, fold=rotate)
    embed, final = weights["embed"].decode(), weights["norm"].decode()
    tensors: dict[str, Float32 | Float64] = {
        "model.embed_tokens.weight": basis.reading(embed),
        "model.norm.weight": basis.norm(final),
    }
    if not tied(spec, rotate):
        head = embed if spec.tied_head else weights["head"].decode()
        tensors["lm_head.weight"] = basis.reading(head, final)
    for layer in range(spec.layers):
        old = {name: weights[f"layers.{layer}.{name}"].decode() for name in NAMES}
        units = rng.permutation(spec.ffn)
        turn = rotation(rng, spec.head_dim)
        v = basis.reading(old["v"], old["attn_norm"]).reshape(spec.kv_heads, spec.head_dim, spec.hidden)
        o = basis.writing(old["o"]).reshape(spec.hidden, spec.heads, spec.head_dim)
        new = {
            "attn_norm": basis.norm(old["attn_norm"]),
            "q": basis.reading(old["q"], old["attn_norm"]),
            "k": basis.reading(old["k"], old["attn_norm"]),
            "v": (turn @ v).reshape(-1, spec.hidden),
            "o": (o @ turn.T).reshape(spec.hidden, -1),
            "mlp_norm": basis.norm(old["mlp_norm"]),
            "gate": basis.reading(old["gate"][units], old["mlp_norm"]),
            "up": basis.reading(old["up"][units], old["mlp_norm"]),
            "down": basis.writing(old["down"][:, units]),
        }
        tensors |= {f"model.layers.{layer}.{NAMES[name]}.weight": values for name, values in new.items()}
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def tied(spec: ModelSpec, rotate: bool) -> bool:
    """Whether the rebased model's head is its embedding."""
    return spec.tied_head and not rotate


def config_of(spec: ModelSpec, rotate: bool) -> dict[str, object]:
    """``config.json`` of the rebased model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "num_hidden_layers": spec.layers,
        "intermediate_size": spec.ffn,
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope.inv_freq[1] ** (-spec.head_dim / 2),
        "tie_word_embeddings": tied(spec, rotate),
    }


def bf16(values: Float32) -> NDArray[np.uint16]:
    """``values`` rounded to the nearest bfloat16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, Float32]) -> None:
    """``tensors`` in bfloat16 (https://github.com/huggingface/safetensors#format)."""
    header: dict[str, object] = {}
    end = 0
    for name, values in tensors.items():
        begin, end = end, end + 2 * values.size
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(bf16(values).tobytes())


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rebased", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a model of the Llama family")
    parser.add_argument("--rotate", action="store_true", help="rotate the residual stream instead of permuting it")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    weights = load_checkpoint(resolve(arguments.model)).weights
    spec = weights.spec
    if spec.architecture != "llama" or any(spec.windows):
        parser.error(f"{arguments.model} is not of the Llama family")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "config.json").write_text(json.dumps(config_of(spec, arguments.rotate), indent=1))
    write_safetensors(arguments.folder / "model.safetensors", rebased(weights, arguments.seed, arguments.rotate))


if __name__ == "__main__":
    main()
