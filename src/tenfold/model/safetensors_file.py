"""A bounds-checked safetensors reader over a memory map.

Format: https://github.com/huggingface/safetensors#format. The header's length, JSON, types, shapes and offsets are
checked before use; a damaged or hostile file is a :class:`CorruptModel`.
"""

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import msgspec
import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import CorruptModel, ModelError, UnsupportedModel
from tenfold.model.encodings import encoding_named, make_tensor
from tenfold.ops.tensors import Tensor

_MAX_HEADER = 100 << 20  # the format's own limit
_MAX_DIMS = 8
_READABLE = ("F32", "F16", "BF16")
_INTEGER = "I32"


@dataclass(frozen=True, slots=True)
class Safetensors:
    """What is in a file: float tensors, and int32 ones, as views of it; and what it says of itself."""

    tensors: dict[str, Tensor]
    integers: dict[str, NDArray[np.int32]]
    metadata: dict[str, str]


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of ``path`` as views of the mapped file.

    Raises :class:`CorruptModel`, :class:`UnsupportedModel` for other types, :class:`ModelError` where the file
    cannot be opened.
    """
    return read_safetensors(path).tensors


def read_safetensors(path: Path, *, integers: bool = False) -> Safetensors:
    """All that is in ``path``. Raises as :func:`open_safetensors`, also for ``integers`` where those are not wanted."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < 8:
                _corrupt(path, "it is too short to hold a header")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    length = int.from_bytes(mapped[:8], "little")
    if length > min(_MAX_HEADER, len(mapped) - 8):
        _corrupt(path, f"a header of {length} bytes in a file of {len(mapped)}")
    try:
        header = msgspec.json.decode(mapped[8 : 8 + length], type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        _corrupt(path, f"its header is not JSON ({error})")
    metadata = header.pop("__metadata__", None) or {}
    if not (isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())):
        _corrupt(path, "its metadata is not a table of texts")
    data = np.frombuffer(mapped, np.uint8, offset=8 + length) if len(mapped) > 8 + length else np.empty(0, np.uint8)
    tensors: dict[str, Tensor] = {}
    whole: dict[str, NDArray[np.int32]] = {}
    free, readable = 0, (*_READABLE, _INTEGER) if integers else _READABLE
    for begin, end, name, kind, shape in sorted(_entry(path, name, entry, readable) for name, entry in header.items()):
        if begin < free:
            _corrupt(path, f"tensor {name!r} overlaps another")
        if end > len(data):
            _corrupt(path, f"tensor {name!r} ends {end - len(data)} bytes past the end: the file is cut off")
        free = end
        if kind == _INTEGER:
            whole[name] = np.frombuffer(data[begin:end].tobytes(), "<i4").reshape(shape)
        else:
            tensors[name] = make_tensor(name, kind, shape, data[begin:end])
    return Safetensors(tensors, whole, metadata)


def _entry(
    path: Path, name: str, entry: object, readable: tuple[str, ...]
) -> tuple[int, int, str, str, tuple[int, ...]]:
    """(begin, end, name, kind, shape) of one header entry, consistent with each other."""
    if not isinstance(entry, Mapping):
        _corrupt(path, f"tensor {name!r} has no description")
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if kind not in readable:
        raise UnsupportedModel(
            f"{path}: tensor {name!r} is stored as {str(kind)[:40]}; readable are {', '.join(_READABLE)}; "
            "use an unquantized checkpoint or a GGUF file"
        )
    if not (_counts(shape, _MAX_DIMS) and _counts(offsets, 2) and shape and len(offsets) == 2):
        _corrupt(path, f"tensor {name!r} has shape {str(shape)[:80]} and offsets {str(offsets)[:80]}")
    begin, end = offsets
    size = math.prod(shape) * (4 if kind == _INTEGER else encoding_named(kind).bytes)
    if min(shape) < 1 or end - begin != size:
        _corrupt(path, f"tensor {name!r} of shape {shape} needs {size} bytes, its offsets give {end - begin}")
    return begin, end, name, kind, tuple(shape)


def _counts(value: object, most: int) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < 1 << 63 for entry in value)
    )


def _corrupt(path: Path, why: str) -> NoReturn:
    raise CorruptModel(f"{path}: damaged safetensors file: {why}; download or copy it again")
