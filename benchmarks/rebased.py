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

from benchmarks.hf_weights import hf_name, rope_base, sizes, write_safetensors
from tenfold.core.config import DEFAULT_MODEL
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.ops.base import Float32
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Weights

Float64 = NDArray[np.float64]
PARTS = ("attn_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down")


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
        hf_name("embed"): basis.reading(embed),
        hf_name("norm"): basis.norm(final),
    }
    if not tied(spec, rotate):
        head = embed if spec.tied_head else weights["head"].decode()
        tensors[hf_name("head")] = basis.reading(head, final)
    for layer in range(spec.layers):
        old = {name: weights[f"layers.{layer}.{name}"].decode() for name in PARTS}
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
        tensors |= {hf_name(f"layers.{layer}.{name}"): values for name, values in new.items()}
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def tied(spec: ModelSpec, rotate: bool) -> bool:
    """Whether the rebased model's head is its embedding."""
    return spec.tied_head and not rotate


def config_of(spec: ModelSpec, rotate: bool) -> dict[str, object]:
    """``config.json`` of the rebased model."""
    return sizes(spec) | {
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": rope_base(spec.rope.inv_freq, spec.head_dim),
        "tie_word_embeddings": tied(spec, rotate),
    }


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
    tensors = rebased(weights, arguments.seed, arguments.rotate)
    shapes = {name: values.shape for name, values in tensors.items()}
    write_safetensors(arguments.folder / "model.safetensors", shapes, tensors.__getitem__)


if __name__ == "__main__":
    main()
