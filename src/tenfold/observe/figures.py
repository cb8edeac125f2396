"""Counters of a server as the dashboard takes them: small, and all since the start."""

from itertools import pairwise

import msgspec
from prometheus_client import Counter, Histogram


class Spread(msgspec.Struct, frozen=True):
    """Observations by size: ``counts[i]`` were at most ``bounds[i]`` seconds and above the bound before; the last count
    is of those above all bounds."""

    bounds: list[float]
    counts: list[int]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """``ended`` are choices by class, ``outcomes`` those with bounds by class and whether they were kept (``met``,
    ``ttft_missed``, ``tpot_missed``, ``both_missed``); ``answers`` are HTTP's to requests for tokens, by status; tokens
    are those that were sent."""

    ttft: Spread
    itl: Spread
    prompt_tokens: int
    output_tokens: int
    ended: dict[str, int]
    outcomes: dict[str, dict[str, int]]
    answers: dict[str, int]


def spread_of(histogram: Histogram) -> Spread:
    """Of a histogram without labels."""
    (family,) = histogram.collect()
    found = [(one.labels["le"], int(one.value)) for one in family.samples if one.name.endswith("_bucket")]
    counts = [count for _, count in found]
    return Spread([float(bound) for bound, _ in found[:-1]], [counts[0], *(b - a for a, b in pairwise(counts))])


def total_of(counter: Counter) -> int:
    """Of a counter without labels."""
    return sum(value for _, value in _samples(counter))


def answers_of(counter: Counter) -> dict[str, int]:
    """Of the counter of HTTP answers, those to requests for tokens: by status."""
    found: dict[str, int] = {}
    for labels, value in _samples(counter):
        if labels["method"] == "POST" and labels["route"].startswith("/v1/"):
            found[labels["status"]] = found.get(labels["status"], 0) + value
    return found


def table_of(counter: Counter, row: str, column: str) -> dict[str, dict[str, int]]:
    """A counter by two of its labels."""
    found: dict[str, dict[str, int]] = {}
    for labels, value in _samples(counter):
        line = found.setdefault(labels[row], {})
        line[labels[column]] = line.get(labels[column], 0) + value
    return found


def _samples(counter: Counter) -> list[tuple[dict[str, str], int]]:
    (family,) = counter.collect()
    return [(one.labels, int(one.value)) for one in family.samples if one.name.endswith("_total")]
