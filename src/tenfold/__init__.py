"""Tenfold: an LLM inference engine and server."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenfold.core.sampling import SamplingParams
    from tenfold.engine.llm import LLM

__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> object:
    """Import on first use: ``import tenfold`` alone costs nothing."""
    if name == "LLM":
        from tenfold.engine.llm import LLM

        return LLM
    if name == "SamplingParams":
        from tenfold.core.sampling import SamplingParams

        return SamplingParams
    if name == "__version__":
        from importlib.metadata import version

        return version("tenfold")
    raise AttributeError(f"module 'tenfold' has no attribute {name!r}")
