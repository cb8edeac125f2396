"""A second opinion on the forward pass: token by token, head by head, float64, no blocks and no batches."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.ops.tensors import Weights

Vector = NDArray[np.float64]


def dense_logits(weights: Weights, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Logits [len(tokens), vocab] of one sequence from position 0."""
    spec = weights.spec
    w = {name: tensor.decode().astype(np.float64) for name, tensor in weights.tensors.items()}
    keys: list[list[Vector]] = [[] for _ in range(spec.layers)]
    values: list[list[Vector]] = [[] for _ in range(spec.layers)]
    out = []
    for position, token in enumerate(tokens):
        x = w["embed"][token] * spec.embed_scale
        for layer in range(spec.layers):
            part = {name.split(".")[2]: t for name, t in w.items() if name.startswith(f"layers.{layer}.")}
            h = norm(x, part["attn_norm"], spec.norm_eps)
            q, k, v = (part[n] @ h + part.get(f"{n}_bias", 0.0) for n in "qkv")
            q, k, v = (y.reshape(-1, spec.head_dim) for y in (q, k, v))
            if spec.qk_norm:
                q = np.stack([norm(head, part["q_norm"], spec.norm_eps) for head in q])
                k = np.stack([norm(head, part["k_norm"], spec.norm_eps) for head in k])
            inv_freq = spec.rope_of(layer).inv_freq
            q = np.stack([turn(head, position, inv_freq) for head in q])
            keys[layer].append(np.stack([turn(head, position, inv_freq) for head in k]))
            values[layer].append(v)
            window = spec.windows[layer]
            oldest = max(0, position - window + 1) if window else 0
            heads = []
            for i, head in enumerate(q):
                shared = i // (spec.heads // spec.kv_heads)
                scores = [float(head @ key[shared]) * spec.query_scale for key in keys[layer][oldest:]]
                powers = [math.exp(score - max(scores)) for score in scores]
                seen = values[layer][oldest:]
                heads.append(sum(p / sum(powers) * value[shared] for p, value in zip(powers, seen, strict=True)))
            y = part["o"] @ np.concatenate(heads)
            x = x + (norm(y, part["attn_post_norm"], spec.norm_eps) if spec.post_norms else y)
            h = norm(x, part["mlp_norm"], spec.norm_eps)
            act = np.vectorize(silu if spec.activation == "silu" else gelu)
            y = part["down"] @ (act(part["gate"] @ h) * (part["up"] @ h))
            x = x + (norm(y, part["mlp_post_norm"], spec.norm_eps) if spec.post_norms else y)
        logits = w["embed" if spec.tied_head else "head"] @ norm(x, w["norm"], spec.norm_eps)
        cap = spec.logit_softcap
        out.append(np.tanh(logits / cap) * cap if cap else logits)
    return np.stack(out)


def norm(x: Vector, weight: Vector, eps: float) -> Vector:
    return np.asarray(x / math.sqrt(float(x @ x) / len(x) + eps) * weight)


def turn(head: Vector, position: int, inv_freq: Sequence[float]) -> Vector:
    """Each (i, i + half) pair as a complex number, times e^(i angle)."""
    half = len(head) // 2
    turned = [complex(head[i], head[i + half]) * np.exp(1j * position * f) for i, f in enumerate(inv_freq)]
    return np.array([z.real for z in turned] + [z.imag for z in turned])


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
