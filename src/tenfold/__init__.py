"""Tenfold: an LLM inference engine and server whose scheduler takes the service objective as an input."""

from importlib.metadata import version

__version__ = version("tenfold")
__all__ = ["LLM", "SamplingParams", "__version__"]


def __getattr__(name: str) -> object:
    if name == "LLM":
        from tenfold.engine.llm import LLM

        return LLM
    if name == "SamplingParams":
        from tenfold.core.sampling import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'tenfold' has no attribute {name!r}")
