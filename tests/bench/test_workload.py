"""The workloads are fixed: figures are compared across systems and time by their seeds."""

import hashlib
from itertools import islice

import pytest

from tenfold.bench.workload import make_workload, warm_up
from tenfold.core.errors import ConfigError
from tenfold.traffic.arrivals import poisson

# Digests of twenty requests of seed 7, equal to those of the independent load client.
DIGESTS = {
    "mixed": "1808e4592a717e50",
    "chat": "050a540583b99390",
    "short": "c9ba86f9d770fcde",
    "long": "cef93a125845b209",
}


@pytest.mark.parametrize("kind", sorted(DIGESTS))
def test_the_same_seed_gives_the_same_requests(kind: str) -> None:
    work = make_workload(kind, 20, 7)
    text = "".join(f"{one.kind}|{one.prompt}|{one.output_tokens}\n" for one in work)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[kind]
    assert make_workload(kind, 20, 8) != work


def test_shapes() -> None:
    mixed = make_workload("mixed", 4, 1)
    assert [one.kind for one in mixed] == ["long", "short", "long", "short"]
    assert [one.output_tokens for one in mixed] == [32, 192, 32, 192]
    assert all(16 <= one.output_tokens <= 256 for one in make_workload("chat", 200, 1))
    assert [one.output_tokens for one in warm_up("short", 7)] == [8, 8]
    assert warm_up("short", 7)[0].prompt != make_workload("short", 1, 7)[0].prompt


def test_an_unknown_workload() -> None:
    with pytest.raises(ConfigError, match="mixed, chat"):
        make_workload("huge", 1, 1)


def test_arrivals_are_a_poisson_process() -> None:
    times = list(islice(poisson(4.0, 7), 4000))
    assert times == sorted(times)
    assert times[-1] / 4000 == pytest.approx(0.25, rel=0.1)
