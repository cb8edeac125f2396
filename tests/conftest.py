"""Fixtures all tests share: the real models, fetched once into the user's cache."""

from pathlib import Path

import pytest


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
