"""A bounds-checked GGUF reader over a memory map.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Every
count, length, dimension and offset is compared with what the file holds before it is used, so a damaged or
hostile file is a :class:`CorruptModel`, never a crash or a giant allocation.
"""

import hashlib
import math
import mmap
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import sub
from pathlib import Path
from typing import Any, NoReturn

from tenfold.core.errors import CorruptModel, ModelError, UnsupportedModel
from tenfold.model.encodings import Encoding, encoding_of, make_tensor, supported_names, type_name
from tenfold.ops.tensors import Tensor

_MAX_KEY = 65535
_MAX_DIMS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
# GGUF value type -> struct format
_SCALARS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StringArray:
    """An array of strings left as bytes until wanted, in the file or in memory (:meth:`kept`): string i has those
    between ``ends[i]`` + 8 and ``ends[i + 1]`` of the file, which were checked already. ``source`` has the file's bytes
    from ``begin`` on.
    """

    source: mmap.mmap | bytes = field(repr=False)
    where: str
    ends: "array[int]" = field(repr=False)
    begin: int = 0

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        """String ``index`` (0 ≤ index < len). Raises :class:`CorruptModel` where it is not UTF-8."""
        try:
            return self.source[self.ends[index] + 8 - self.begin : self.ends[index + 1] - self.begin].decode()
        except UnicodeDecodeError as error:
            raise CorruptModel(f"{self.where}: entry {index} is not valid UTF-8 ({error.reason})") from None

    def kept(self) -> "StringArray":
        """The same in memory, whatever becomes of the file. Raises :class:`CorruptModel` where one is not UTF-8."""
        whole = self._whole()
        self._check(whole)
        return StringArray(whole, self.where, self.ends, self.ends[0])

    def digest(self) -> bytes:
        """16 bytes that other strings do not have."""
        return hashlib.blake2b(self._whole(), digest_size=16).digest()

    def _whole(self) -> bytes:
        return bytes(self.source[self.ends[0] - self.begin : self.ends[-1] - self.begin])

    def _check(self, whole: bytes) -> None:
        # Bytes of lengths below 128 are valid text, too: all is looked through at once.
        text = whole
        if max(map(sub, self.ends[1:], self.ends), default=0) >= 8 + 128:
            blanked, first = bytearray(whole), self.ends[0]
            for begin, end in pairwise(self.ends):
                if end - begin >= 8 + 128:
                    blanked[begin - first : begin - first + 8] = bytes(8)
            text = bytes(blanked)
        try:
            text.decode()
        except UnicodeDecodeError:
            self.to_list()

    def to_list(self) -> list[str]:
        """All strings. Raises :class:`CorruptModel` where one is not UTF-8."""
        source, begin = self.source, self.begin
        try:
            return [source[start + 8 - begin : end - begin].decode() for start, end in pairwise(self.ends)]
        except UnicodeDecodeError:
            return [self[index] for index in range(len(self))]  # which one it is


Value = int | float | bool | str | memoryview | StringArray


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked GGUF file: its metadata, and its tensors as views of the mapped file.

    Arrays of numbers are views of the file, by type, arrays of strings are :class:`StringArray`.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    encoding: Encoding
    shape: tuple[int, ...]
    offset: int
    size: int


def open_gguf(path: Path, *, tensors: bool = True) -> GgufFile:
    """Map and check ``path``; without ``tensors``, no further than its metadata.

    Raises :class:`CorruptModel` for a damaged file, :class:`UnsupportedModel` for an encoding, version or
    byte order that is not read, :class:`ModelError` where the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < 24:
                raise CorruptModel(f"{path}: too short for a GGUF file; download or copy it again")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    return _Parser(path, mapped).parse(tensors)


class _Parser:
    """Walks the header once; ``at`` never passes the end of the file."""

    def __init__(self, path: Path, source: mmap.mmap) -> None:
        self._path = path
        self._source = source
        self._end = len(source)
        self._at = 0
        self._what = "header"

    def parse(self, tensors: bool) -> GgufFile:
        """The whole header, then views of the tensors."""
        version = self._version()
        tensor_count, value_count = self._scalar("<Q"), self._scalar("<Q")
        # The smallest tensor entry takes 32 bytes, the smallest metadata entry 13.
        if tensor_count > self._end // 32 or value_count > self._end // 13:
            self._corrupt(f"it claims {tensor_count} tensors and {value_count} metadata entries")
        metadata: dict[str, Value] = {}
        for index in range(value_count):
            self._what = f"metadata entry {index}"
            key = self._text(_MAX_KEY)
            self._what = f"metadata {key!r}"
            if key in metadata:
                self._corrupt("the key appears twice")
            metadata[key] = self._value()
        if not tensors:
            return GgufFile(self._path, version, metadata, {})
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            self._what = "general.alignment"
            self._corrupt(f"{alignment!r} is not a power of two up to 65536")
        infos = [self._tensor_info(index, alignment) for index in range(tensor_count)]
        return GgufFile(self._path, version, metadata, self._tensors(infos, alignment))

    def _corrupt(self, why: str) -> NoReturn:
        raise CorruptModel(
            f"{self._path}: damaged GGUF file, {self._what}: {why} (near byte {self._at} of {self._end}); "
            "download or copy it again"
        )

    def _version(self) -> int:
        if self._source[:4] != b"GGUF":
            raise CorruptModel(
                f"{self._path}: not a GGUF file (it starts with {self._source[:4]!r}); "
                "give a .gguf file or a Hugging Face model directory"
            )
        self._at = 4
        version: int = self._scalar("<I")
        if version and version & 0xFFFF == 0:
            raise UnsupportedModel(f"{self._path}: big-endian GGUF files are not read; convert it to little-endian")
        if version not in (2, 3):
            raise UnsupportedModel(f"{self._path}: GGUF version {version} is not read (2 and 3 are); convert it again")
        return version

    def _need(self, size: int) -> int:
        """Where the next ``size`` bytes start, stepping over them."""
        start = self._at
        if size > self._end - start:
            self._corrupt(f"it needs {size} bytes, {self._end - start} are left")
        self._at = start + size
        return start

    def _scalar(self, form: str) -> int:
        start = self._need(struct.calcsize(form))
        value: int = struct.unpack_from(form, self._source, start)[0]
        return value

    def _text(self, limit: int | None = None) -> str:
        length = self._scalar("<Q")
        if limit is not None and length > limit:
            self._corrupt(f"a name of {length} bytes")
        start = self._need(length)
        try:
            return self._source[start : start + length].decode()
        except UnicodeDecodeError:
            self._corrupt("text that is not valid UTF-8")

    def _value(self) -> Value:
        kind = self._scalar("<I")
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            self._corrupt(f"unknown value type {kind}")
        value = self._scalar(f"<{_SCALARS[kind]}")
        return bool(value) if kind == _BOOL else value

    def _array(self) -> Value:
        kind, count = self._scalar("<I"), self._scalar("<Q")
        if kind == _STRING:
            return self._strings(count)
        if kind not in _SCALARS:
            self._corrupt("nested arrays are not used by any model" if kind == _ARRAY else f"unknown type {kind}")
        form: Any = _SCALARS[kind]
        size = count * struct.calcsize(form)
        start = self._need(size)
        numbers: memoryview = memoryview(self._source)[start : start + size].cast(form)
        return numbers

    def _strings(self, count: int) -> StringArray:
        at = self._at
        ends = array("Q", (at,))
        source, last = self._source, self._end - 8
        if count > (self._end - at) // 8:
            self._corrupt(f"it claims {count} strings")
        length_at = struct.Struct("<Q").unpack_from
        for index in range(count):  # a tight loop: this runs a quarter of a million times
            if at > last:
                self._corrupt(f"string {index} of {count} begins past the end of the file")
            at += 8 + length_at(source, at)[0]
            if at > self._end:
                self._corrupt(f"string {index} of {count} passes the end of the file")
            ends.append(at)
        self._at = at
        return StringArray(source, f"{self._path}: {self._what}", ends)

    def _tensor_info(self, index: int, alignment: int) -> _TensorInfo:
        self._what = f"tensor {index}"
        name = self._text(_MAX_KEY)
        self._what = f"tensor {name!r}"
        dims = self._scalar("<I")
        if not 1 <= dims <= _MAX_DIMS:
            self._corrupt(f"{dims} dimensions (1 to {_MAX_DIMS} are possible)")
        shape = tuple(self._scalar("<Q") for _ in range(dims))[::-1]
        type_id, offset = self._scalar("<I"), self._scalar("<Q")
        encoding = encoding_of(type_id)
        if encoding is None:
            raise UnsupportedModel(
                f"{self._path}: tensor {name!r} is stored as {type_name(type_id)}; "
                f"readable are {supported_names()}; get the model in one of these"
            )
        if min(shape) < 1 or shape[-1] % encoding.values:
            self._corrupt(f"shape {list(shape)} is impossible for {encoding.name}")
        if offset % alignment:
            self._corrupt(f"offset {offset} is not a multiple of the alignment {alignment}")
        return _TensorInfo(name, encoding, shape, offset, math.prod(shape) // encoding.values * encoding.bytes)

    def _tensors(self, infos: list[_TensorInfo], alignment: int) -> dict[str, Tensor]:
        import numpy as np

        base = -(-self._at // alignment) * alignment
        whole = np.frombuffer(self._source, np.uint8)
        tensors: dict[str, Tensor] = {}
        free = base  # the first byte no earlier tensor covers
        for info in sorted(infos, key=lambda entry: entry.offset):
            self._what = f"tensor {info.name!r}"
            start = base + info.offset
            if info.name in tensors:
                self._corrupt("the name appears twice")
            if start < free:
                self._corrupt("its data overlaps another tensor's")
            free = start + info.size
            if free > self._end:
                self._corrupt(f"its data ends at byte {free}: the file is cut off")
            tensors[info.name] = make_tensor(info.name, info.encoding.name, info.shape, whole[start:free])
        return tensors
