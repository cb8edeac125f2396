"""Checked look-ups in what a model file says about itself: GGUF metadata or a JSON configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenfold.core.errors import CorruptModel, UnsupportedModel


@dataclass(frozen=True, slots=True)
class Fields:
    """Named values with a ``where`` for messages. Every getter raises :class:`CorruptModel` on a wrong value.

    A ``default`` of None makes a field required; a JSON null counts as absent.
    """

    where: str
    values: Mapping[str, Any]

    def has(self, key: str) -> bool:
        """Whether the field is there (and not null)."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31) -> int:
        """An integer from ``low`` to ``high``; a per-layer array counts when all its entries are equal."""
        value = self._get(key, default)
        if isinstance(value, memoryview | list):
            value = self._uniform(key, value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, value, f"an integer from {low} to {high} is needed")
        return value

    def number(self, key: str, default: float | None = None, *, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number from ``low`` to ``high``."""
        value = self._get(key, default)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not low <= value <= high:
            raise self.wrong(key, value, f"a number from {low:g} to {high:g} is needed")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false is needed")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, value, "a string is needed")
        return value

    def section(self, key: str) -> "Fields":
        """A nested JSON object; an absent one is empty."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object is needed")
        return Fields(f"{self.where}: {key}", value)

    def wrong(self, key: str, value: object, why: str) -> CorruptModel:
        """The error for a value that cannot be."""
        shown = value[:80].tolist() if isinstance(value, memoryview) else value
        return CorruptModel(f"{self.where}: {key} is {str(shown)[:80]!r}: {why}; the file is damaged or misconverted")

    def unsupported(self, what: str, supported: str) -> UnsupportedModel:
        """The error for a well-formed value we do not run."""
        return UnsupportedModel(f"{self.where}: {what} is not supported ({supported})")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise CorruptModel(f"{self.where}: {key} is missing; the file is damaged or misconverted")
        return value

    def _uniform(self, key: str, value: Any) -> Any:
        entries = value.tolist() if isinstance(value, memoryview) else value
        if not entries:
            raise self.wrong(key, value, "it is empty")
        if any(entry != entries[0] for entry in entries):
            raise self.unsupported(f"{key} that differs between layers", "all layers must be alike")
        return entries[0]
