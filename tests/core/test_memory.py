"""Pages of mapped files are given back; what they hold comes again."""

import gc
import mmap
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.memory import drop_pages, no_collection, return_freed


def resident(path: Path) -> int:
    """Kilobytes of a mapped file that this process has in memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def test_pages_are_dropped_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.arange(1 << 20, dtype=np.uint32)
    path.write_bytes(content.tobytes())
    with path.open("rb") as file:
        whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint32)
    part, view = whole[100:1000], memoryview(whole)[5:10]
    assert int(whole.sum(dtype=np.uint64)) == int(content.sum(dtype=np.uint64))
    assert resident(path) > 3000
    drop_pages([part, view, np.arange(3), None, "text"])
    assert resident(path) < 100
    assert (part == content[100:1000]).all()


def test_collection_goes_on_as_before() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="out"), no_collection():
        assert not gc.isenabled()
        raise ValueError("out")
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    return_freed()
