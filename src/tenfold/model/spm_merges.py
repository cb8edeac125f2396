"""Merge rules of a SentencePiece BPE vocabulary, kept in a file once they were found (``spm_rules``)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tenfold.core.files import write_whole

RULES = b"spm rules 2"  # another text whenever spm_rules finds other ones: part of the name of kept files


def derive_merges(pieces: list[str], scores: Sequence[float], kept: Path | None = None) -> list[tuple[str, str]]:
    """The rules (left, right), best first; ``scores`` has one number per piece.

    What was found is left in the file ``kept`` for the next time: its name has to say of which pieces and scores, and
    by which ``RULES``.
    """
    rules = _read(kept, len(pieces)) if kept is not None else None
    if rules is None:
        import numpy as np

        from tenfold.model.spm_rules import derive_rules

        found = derive_rules(pieces, np.asarray(scores))
        rules = memoryview(found.tobytes()).cast("i")
        if kept is not None:
            write_whole(kept, _digest(rules) + bytes(rules))
    half, at = len(rules) // 2, pieces.__getitem__
    return list(zip(map(at, rules[:half]), map(at, rules[half:]), strict=True))


def _digest(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _read(path: Path, pieces: int) -> memoryview | None:
    """The rules that were kept there, all left pieces' numbers and then all right ones'; None where nothing is, or
    something else."""
    try:
        kept = memoryview(path.read_bytes())
    except OSError:
        return None
    data = kept[16:]
    if len(data) % 8 or kept[:16] != _digest(data):
        return None
    rules = data.cast("i")
    return rules if not rules or 0 <= min(rules) <= max(rules) < pieces else None
