"""Giving memory back to the system, and not looking for garbage where none can be."""

import contextlib
import gc
import mmap
import sys
from collections.abc import Iterable, Iterator


def return_freed() -> None:
    """Let glibc return what was freed but is still the process's; elsewhere nothing happens."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def drop_pages(buffers: Iterable[object]) -> None:
    """Let the system take back the pages of mapped files that ``buffers`` are views of; they come again when read."""
    maps: dict[int, mmap.mmap] = {}
    for buffer in buffers:
        at = buffer
        while at is not None and not isinstance(at, mmap.mmap):
            at = at.obj if isinstance(at, memoryview) else getattr(at, "base", None)
        if isinstance(at, mmap.mmap):
            maps[id(at)] = at
    for mapped in maps.values():
        if hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Where a million objects are made that all stay, looking for garbage among them again and again takes long."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
