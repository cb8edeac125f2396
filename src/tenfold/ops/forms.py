"""In which form the CPU backend keeps each weight matrix: the ``weights`` setting, tensor by tensor."""

from tenfold.core.config import WEIGHTS
from tenfold.core.errors import ConfigError
from tenfold.ops.tensors import Tensor

AS_STORED = ""
GROUP = 32  # inputs that share a scale; other column counts are not rounded to integers
_FLOATS = ("F32", "F16", "BF16")
_FOUR_BITS = ("Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K")  # kept in 4 bits as they are
_EIGHT_BITS = ("embed", "head", "v")  # what four bits would cost most in, for a few percent of the weights


def form_of(weights: str, name: str, tensor: Tensor) -> str:
    """The form of matrix ``name`` under ``weights``: ``bf16``, ``int8``, ``int4``, or "" for exactly as stored.

    ``int8`` and ``int4`` are bounds: what is stored in as few bits stays as it is, and so do matrices whose columns
    are not whole groups of 32. ``int4`` keeps the embedding, the head and the value projections at 8 bits.
    """
    if weights not in WEIGHTS["cpu"]:
        raise ConfigError(f"weights must be one of {', '.join(WEIGHTS['cpu'])}, got {weights!r}")
    if weights == "auto" or (tensor.kind in _FOUR_BITS and weights != "bf16"):
        return AS_STORED
    if weights == "bf16":
        return AS_STORED if tensor.kind == "BF16" else "bf16"
    if tensor.shape[-1] % GROUP:
        return AS_STORED
    if weights == "int4" and name not in _EIGHT_BITS:
        return "int4"
    return "int8" if tensor.kind in _FLOATS else AS_STORED
