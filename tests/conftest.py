"""Fixtures all tests share: the real models, fetched once into the user's cache."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Of processes that have a core each, further threads of NumPy and torch would only wait for one another. They read this
# when they are first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# Without a GPU Triton's kernels run in its interpreter: that is decided when Triton is first imported, by any test.
if not Path("/proc/driver/nvidia/version").exists():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The default model's GGUF file."""
    from tenfold.model.store import resolve

    return Path(resolve("smollm2-135m"))


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """gemma-3-270m's GGUF file."""
    from tenfold.model.store import resolve

    return Path(resolve("gemma3-270m"))


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Many tests share a process, in an order of the day: one that leaves loggers changed makes others fail."""

    def told() -> dict[str, tuple[int, bool]]:
        known = logging.Logger.manager.loggerDict.items()
        ours = [one for name, one in known if name.split(".")[0] == "tenfold" and isinstance(one, logging.Logger)]
        return {one.name: (one.level, one.disabled) for one in (logging.root, *ours)}

    before, disabled = told(), logging.root.manager.disable
    yield
    after = told()
    changed = {name: (was, after[name]) for name, was in before.items() if after[name] != was}
    assert not changed and logging.root.manager.disable == disabled, f"loggers left changed: {changed}"
