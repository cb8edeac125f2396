"""Every architecture, loader and backend against transformers, on tiny random models at float32."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.decoder import forward
from tenfold.ops.base import Ops
from tenfold.ops.cpu import CpuOps
from tenfold.ops.reference import ReferenceOps
from tenfold.ops.tensors import Weights
from tests.helpers.architectures import ARCHITECTURES, PROMPT, oracle_logits, save
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.models import Slice, make_batch, rope

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-4  # of the largest logit
BLOCK = 16
BLOCKS = -(-len(PROMPT) // BLOCK)
BACKENDS: dict[str, Callable[[Weights], Ops]] = {
    "reference": ReferenceOps,
    "cpu": lambda weights: CpuOps(weights, threads=2),
}
IN_GGUF = [
    "llama",
    "llama, llama3 rope",
    "llama, linear rope",
    "llama, head size of its own",
    "qwen2",
    "qwen3",
    "gemma3, softcap",
]


@dataclass(frozen=True, slots=True)
class Saved:
    """A model on disk and what transformers says of PROMPT."""

    folder: Path
    logits: NDArray[np.float32]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Model by name, made on first use."""
    made: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in made:
            folder = tmp_path_factory.mktemp("model")
            save(ARCHITECTURES[name], folder)
            made[name] = Saved(folder, oracle_logits(folder, PROMPT))
        return made[name]

    return get


def whole(ops: Ops) -> NDArray[np.float32]:
    """Logits of PROMPT computed in one step."""
    n = len(PROMPT)
    kv = ops.new_kv(BLOCKS, BLOCK)
    return forward(ops, kv, make_batch([Slice(PROMPT, 0, range(BLOCKS), range(n))])).copy()


def in_steps(ops: Ops) -> NDArray[np.float32]:
    """Logits of PROMPT in uneven chunks, then token by token, over scattered blocks."""
    n = len(PROMPT)
    kv = ops.new_kv(2 * BLOCKS, BLOCK)
    table = [int(b) for b in np.random.default_rng(2).permutation(2 * BLOCKS)[:BLOCKS]]
    bounds = [0, 7, 8, 21, 30, *range(31, n + 1)]
    parts = [
        forward(ops, kv, make_batch([Slice(PROMPT[a:b], a, table[: -(-b // BLOCK)], range(b - a))])).copy()
        for a, b in pairwise(bounds)
    ]
    return np.concatenate(parts)


def agrees(backend: str, got: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Each logit for the reference; all together for ``cpu``, whose keys and values are bfloat16."""
    if backend == "reference":
        assert error(got, wanted) <= TOLERANCE
    else:
        assert np.isfinite(got).all()
        assert np.linalg.norm(got - wanted) <= 0.01 * np.linalg.norm(wanted)


def error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference over the largest logit."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("run", [whole, in_steps])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hugging_face_folder(
    name: str, backend: str, run: Callable[[Ops], NDArray[np.float32]], saved: Callable[[str], Saved]
) -> None:
    model = saved(name)
    weights = load_checkpoint(model.folder).weights
    agrees(backend, run(BACKENDS[backend](weights)), model.logits)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_file(name: str, backend: str, tmp_path: Path) -> None:
    architecture = replace(ARCHITECTURES[name], dtype="float32", shard="1GB", old_config=False)
    save(architecture, tmp_path / "folder")
    write_gguf(tmp_path / "folder", tmp_path / "tiny.gguf")
    weights = load_checkpoint(tmp_path / "tiny.gguf").weights
    expected = oracle_logits(tmp_path / "folder", PROMPT)
    agrees(backend, whole(BACKENDS[backend](weights)), expected)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mistral, window", {"windows": (0, 0, 0)}),
        ("mistral, window", {"windows": (8, 8, 8)}),
        ("qwen2, window from layer 1", {"windows": (7, 7, 7)}),
        ("gemma3", {"rope_local": None}),
        ("gemma3", {"windows": (8,) * 7}),
        ("gemma3", {"query_scale": 0.25}),
        ("gemma3", {"activation": "silu"}),
        ("gemma3, softcap", {"logit_softcap": 0.0}),
        ("llama, llama3 rope", {"rope": rope(16, 500.0)}),
        ("llama, linear rope", {"rope": rope(16)}),
    ],
)
def test_a_wrong_spec_would_show(name: str, wrong: dict[str, Any], saved: Callable[[str], Saved]) -> None:
    """The tolerance tells the features apart: with one of them wrong, the logits are far off."""
    model = saved(name)
    weights = load_checkpoint(model.folder).weights
    broken = Weights(replace(weights.spec, **wrong), weights.tensors)
    assert error(whole(ReferenceOps(broken)), model.logits) > 100 * TOLERANCE
