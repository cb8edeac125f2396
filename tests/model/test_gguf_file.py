"""The GGUF reader: reads what the gguf library writes, refuses everything damaged or hostile."""

import random
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

from tenfold.core.errors import CorruptModel, ModelError, UnsupportedModel
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.gguf_file import StringArray, open_gguf

from . import tiny

PADDING = bytes(64)
# What numpy can quantize to; the K kinds are covered by random bytes below.
WRITABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
K_KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def test_metadata_of_every_type_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -5)
    writer.add_float32("f32", 0.5)
    writer.add_uint64("u64", 1 << 60)
    writer.add_int64("i64", -(1 << 60))
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "é▁")
    writer.add_array("texts", ["a", "", "ß"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("floats", [0.5, -1.0])
    tiny.finish(writer, path)
    read = open_gguf(path).metadata
    assert read["u8"] == 200 and read["i8"] == -3 and read["u16"] == 60000 and read["i16"] == -30000
    assert read["u32"] == 4_000_000_000 and read["i32"] == -5 and read["u64"] == 1 << 60 and read["i64"] == -(1 << 60)
    assert read["f32"] == 0.5 and read["f64"] == 0.1 and read["yes"] is True and read["text"] == "é▁"
    strings = read["texts"]
    assert isinstance(strings, StringArray)
    assert strings.to_list() == ["a", "", "ß"] and [strings[i] for i in range(3)] == ["a", "", "ß"]
    assert np.array_equal(read["numbers"], [1, 2, 3]) and np.array_equal(read["floats"], [0.5, -1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 127, 128, 190, 300])  # 190: its own first byte would end a character
@pytest.mark.parametrize("wrong", [b"\xc3", b"\x80", b"\xff"])
def test_strings_are_checked_each_by_itself(tmp_path: Path, length: int, wrong: bytes) -> None:
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("texts", ["a", "é" * 100 + "b" * length, "b" * length, "ß"])
    tiny.finish(writer, path)
    strings = open_gguf(path, tensors=False).metadata["texts"]
    assert isinstance(strings, StringArray)
    kept = strings.kept()
    assert [*kept] == [*strings] and isinstance(kept.source, bytes)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"b" + struct.pack("<Q", length), wrong + struct.pack("<Q", length)))
    broken = open_gguf(path).metadata["texts"]
    assert isinstance(broken, StringArray)
    for read in (broken.kept, broken.to_list, lambda: broken[1]):
        with pytest.raises(CorruptModel, match="entry 1 is not valid UTF-8"):
            read()
    assert broken[2] == "b" * length


@pytest.mark.parametrize("length", [1 << 20, (1 << 63) - 1, (1 << 64) - 1])
def test_a_string_that_passes_the_end_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("texts", ["a", "bcd", "e"])
    tiny.finish(writer, path)
    stored = struct.pack("<Q", 3) + b"bcd"
    path.write_bytes(path.read_bytes().replace(stored, struct.pack("<Q", length) + b"bcd"))
    with pytest.raises(CorruptModel, match="string 1 of 3 passes the end"):
        open_gguf(path)


@pytest.mark.parametrize("kind", WRITABLE + K_KINDS)
def test_every_encoding_decodes_as_the_library_does(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    encoding = gguf.GGMLQuantizationType[kind]
    if kind in WRITABLE:
        stored = quantize(rng.normal(size=(4, 256)).astype(np.float32), encoding)
    else:
        _, size = gguf.GGML_QUANT_SIZES[encoding]
        stored = rng.integers(0, 60, size=(4, size), dtype=np.uint8)  # small bytes: finite half floats
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", stored, raw_dtype=encoding)
    tiny.finish(writer, path)
    tensor = open_gguf(path).tensors["w"]
    assert tensor.kind == kind and tensor.shape == (4, 256) and not tensor.data.flags.writeable
    assert np.array_equal(tensor.data.reshape(-1), stored.reshape(-1).view(np.uint8))
    assert np.array_equal(tensor.decode(), gguf.quants.dequantize(stored, encoding).reshape(4, 256))


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    return path


HUGE = struct.pack("<Q", 1 << 62)
HOSTILE = {
    "empty": b"",
    "not gguf": b"PK\3\4" + PADDING,
    "tensor count": tiny.header(tensors=1 << 60) + PADDING,
    "value count": tiny.header(values=1 << 60) + PADDING,
    "key length": tiny.header(values=1) + HUGE + PADDING,
    "long key": tiny.header(values=1) + tiny.text("k" * 70000) + PADDING,
    "text length": tiny.header(values=1) + tiny.entry("k", 8, HUGE) + PADDING,
    "text encoding": tiny.header(values=1) + tiny.entry("k", 8, tiny.text(b"\xff")) + PADDING,
    "value type": tiny.header(values=1) + tiny.entry("k", 99, b"") + PADDING,
    "array type": tiny.header(values=1) + tiny.entry("k", 9, struct.pack("<IQ", 99, 1)) + PADDING,
    "nested array": tiny.header(values=1) + tiny.entry("k", 9, struct.pack("<IQ", 9, 1)) + PADDING,
    "array length": tiny.header(values=1) + tiny.entry("k", 9, struct.pack("<IQ", 4, 1 << 61)) + PADDING,
    "string count": tiny.header(values=1) + tiny.entry("k", 9, struct.pack("<IQ", 8, 1 << 61)) + PADDING,
    "string length": tiny.header(values=1) + tiny.entry("k", 9, struct.pack("<IQ", 8, 1) + HUGE) + PADDING,
    "strings past the end": tiny.header(values=1) + tiny.entry("k", 9, struct.pack("<IQQ", 8, 2, 60)) + PADDING,
    "twice": tiny.header(values=2) + 2 * tiny.entry("k", 7, b"\1") + PADDING,
    "alignment": tiny.header(values=1) + tiny.entry("general.alignment", 4, struct.pack("<I", 3)) + PADDING,
    "no alignment": tiny.header(values=1) + tiny.entry("general.alignment", 4, struct.pack("<I", 0)) + PADDING,
    "dimensions": tiny.header(tensors=1) + tiny.tensor_info("t", (1,) * 5) + PADDING,
    "no dimensions": tiny.header(tensors=1) + tiny.tensor_info("t", ()) + PADDING,
    "zero size": tiny.header(tensors=1) + tiny.tensor_info("t", (0, 4)) + PADDING,
    "overflowing size": tiny.header(tensors=1) + tiny.tensor_info("t", (1 << 32, 1 << 32)) + PADDING,
    "half a block": tiny.header(tensors=1) + tiny.tensor_info("t", (33, 1), kind=2) + PADDING,
    "offset": tiny.header(tensors=1) + tiny.tensor_info("t", (4,), offset=1 << 60) + PADDING,
    "unaligned offset": tiny.header(tensors=1) + tiny.tensor_info("t", (1,), offset=4) + PADDING,
    "overlap": tiny.header(tensors=2) + tiny.tensor_info("a", (4,)) + tiny.tensor_info("b", (4,)) + PADDING,
    "same name": tiny.header(tensors=2)
    + tiny.tensor_info("a", (1,))
    + tiny.tensor_info("a", (1,), offset=32)
    + PADDING,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_without_large_allocations(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(CorruptModel) as caught:
            open_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (tiny.header(version=1) + PADDING, "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + PADDING, "big-endian"),
        (tiny.header(tensors=1) + tiny.tensor_info("t", (256,), kind=16) + PADDING, "IQ2_XXS"),
        (tiny.header(tensors=1) + tiny.tensor_info("t", (32,), kind=999) + PADDING, "type 999"),
    ],
)
def test_unread_kinds_are_named(tmp_path: Path, data: bytes, told: str) -> None:
    with pytest.raises(UnsupportedModel, match=told):
        open_gguf(write(tmp_path, data))


def test_version_2_is_read(tmp_path: Path) -> None:
    data = tiny.header(tensors=1, version=2) + tiny.tensor_info("t", (2, 3))
    data += bytes(-len(data) % 32) + np.arange(6, dtype=np.float32).tobytes()
    assert np.array_equal(open_gguf(write(tmp_path, data)).tensors["t"].decode(), [[0, 1], [2, 3], [4, 5]])


def load_all(path: Path) -> None:
    """All that a start does with a file."""
    checkpoint = load_checkpoint(path)
    checkpoint.tokenizer().encode("hello world", add_special=True)


def test_truncation_anywhere_is_an_error_for_users(tmp_path: Path) -> None:
    whole = tiny.write_byte_level(tmp_path / "m.gguf").read_bytes()
    load_all(tmp_path / "m.gguf")
    header = whole.rindex(b"output_norm") + 2000
    sizes = [*range(0, header, 41), *range(len(whole) - 200, len(whole), 7)]
    assert len(sizes) > 100
    for size in sizes:
        with pytest.raises(ModelError):
            load_all(write(tmp_path, whole[:size]))


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    whole = tiny.write_byte_level(tmp_path / "m.gguf").read_bytes()
    header = whole.rindex(b"blk.1") + 100
    rng = random.Random(11)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(header)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            load_all(write(tmp_path, bytes(data)))
        except ModelError as error:
            assert str(error)
            refused += 1
    assert refused > 50  # most flips land in names and numbers that matter; some in text that does not


def test_a_missing_file_and_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none.gguf", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(ModelError, match=str(path)):
            load_checkpoint(path)
