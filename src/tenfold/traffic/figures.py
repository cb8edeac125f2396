"""Percentiles, as all reports take them."""

from collections.abc import Iterable

PERCENTILES = (50, 95, 99)


def percentile(values: Iterable[float], p: float) -> float | None:
    """The value at rank floor(p/100 x count), as load clients commonly take it; None of no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p / 100 * len(ordered)))] if ordered else None


def milliseconds(values: Iterable[float]) -> dict[str, float | None]:
    """Percentiles of seconds, in milliseconds: ``{"p50": …}``."""
    ordered = sorted(values)
    found = {f"p{p}": percentile(ordered, p) for p in PERCENTILES}
    return {name: None if value is None else round(value * 1000, 2) for name, value in found.items()}
