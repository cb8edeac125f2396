"""Times of arrivals at random, in seconds from the start."""

import random
from collections.abc import Iterator


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Requests that know nothing of each other, ``rate`` per second."""
    return gamma(rate, 1.0, seed)


def gamma(rate: float, cv: float, seed: int) -> Iterator[float]:
    """``rate`` per second, the gaps gamma-distributed with a coefficient of variation ``cv``.

    1 is Poisson, more comes in bursts, 0 is a clock.
    """
    rng, at = random.Random(seed + 1), 0.0
    while True:
        if cv == 0:
            at += 1 / rate
        elif cv == 1:
            at += rng.expovariate(rate)
        else:
            at += rng.gammavariate(1 / cv**2, cv**2 / rate)
        yield at
