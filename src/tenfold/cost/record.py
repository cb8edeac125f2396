"""A fit kept for the next start, one file per model, weights and machine."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tenfold.core.files import write_whole
from tenfold.cost.estimate import StepFit

_FORMAT = 3


class _Record(msgspec.Struct, frozen=True):
    format: int
    of: tuple[str, ...]
    fit: StepFit


class CostRecord:
    """Where the fit of one setting is kept: ``of`` says of what (model, weights, machine …), in words.

    A file that is damaged, or of another setting, is as good as none. Nothing here raises: a fit that cannot be kept
    is made again.
    """

    def __init__(self, folder: Path, of: Sequence[str]) -> None:
        self._of = tuple(of)
        name = hashlib.sha256("\0".join(self._of).encode()).hexdigest()[:24]
        self.path = folder / f"{name}.json"

    def load(self) -> StepFit | None:
        """What was kept last, if anything is there."""
        try:
            record = msgspec.json.decode(self.path.read_bytes(), type=_Record)
        except (OSError, msgspec.DecodeError):
            return None
        return record.fit if record.format == _FORMAT and record.of == self._of and record.fit.usable else None

    def save(self, fit: StepFit) -> bool:
        """Keep ``fit``; whether that was possible."""
        data = msgspec.json.encode(_Record(_FORMAT, self._of, fit))
        return write_whole(self.path, data)
