"""A trace made to fit a machine: a piece of it, faster, thinner, smaller."""

import random
from collections.abc import Sequence
from dataclasses import replace

from tenfold.traffic.row import Row


def piece(rows: Sequence[Row], start: float, seconds: float) -> list[Row]:
    """What comes within ``seconds`` from ``start`` on, with times from there."""
    return [replace(row, at=row.at - start) for row in rows if start <= row.at < start + seconds]


def faster(rows: Sequence[Row], speed: float) -> list[Row]:
    """All rows, in a ``speed``-th of the time."""
    return [replace(row, at=row.at / speed) for row in rows]


def thinned(rows: Sequence[Row], rate: float, seed: int) -> list[Row]:
    """So many of the rows, at random, that ``rate`` come per second; all of them where that is no more."""
    seconds = rows[-1].at - rows[0].at if rows else 0.0
    count = min(len(rows), max(1, round(rate * seconds)))
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), count))]


def scaled(rows: Sequence[Row], scale: float, longest: int | None = None) -> list[Row]:
    """Prompts and answers ``scale`` times as long, prompts of ``longest`` tokens at most, never less than one."""
    return [
        replace(
            row,
            prompt=max(1, min(longest or round(row.prompt * scale), round(row.prompt * scale))),
            outputs=max(1, round(row.outputs * scale)),
            block_tokens=round(row.block_tokens * scale),
        )
        for row in rows
    ]
