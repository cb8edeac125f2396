"""The waiting queue by itself: what it tells of those ahead."""

from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.plan import SequenceStart
from tenfold.core.sampling import SamplingParams
from tenfold.core.slo import Slo
from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import OTHER, TIMELY, Sequence, Submission
from tenfold.sched.tenants import Tenants
from tenfold.sched.terms import Terms

NAMES = count()


def waiting(work: float, tenant: str, tier: int = TIMELY) -> Sequence:
    start = SequenceStart(f"{next(NAMES)}", (1, 2), SamplingParams(), 0, ())
    terms = Terms(slo=Slo(ttft=1.0), tenant=tenant)
    found = Sequence(Submission(start, 0.0, 10, frozenset(), terms=terms), next(NAMES))
    found.tier, found.work, found.deadline, found.key = tier, work, 1.0, 1.0
    return found


WORKS = st.sampled_from([0.1, 0.2, 0.3, 0.7, 1e-3])


@given(works=st.lists(st.tuples(WORKS, st.sampled_from("ab")), min_size=1, max_size=8), order=st.randoms())
def test_nobody_is_ahead_where_all_timely_ones_have_left(works: list[tuple[float, str]], order: Random) -> None:
    """Sums of seconds leave a rest where all of it was taken away again: nothing is to be told of that."""
    queue = WaitingQueue(Tenants({}, fairness=100.0, reserve=0.3), fairness=100.0)
    queue.push(waiting(0.4, "a", OTHER))  # so that this tenant's line stays
    left = [waiting(work, tenant) for work, tenant in works]
    for one in left:
        queue.push(one)
    order.shuffle(left)
    for one in left:
        seconds, places = queue.before(waiting(0.5, "a"), ())
        assert seconds > 0 and places >= 0
        assert queue.remove(one)
        queue.check()
    assert queue.before(waiting(0.5, "a"), ()) == (0.0, 0)


@pytest.mark.parametrize("tier", [TIMELY, OTHER])
def test_one_that_returns_is_not_found_where_it_waited_before(tier: int) -> None:
    queue = WaitingQueue(Tenants({}, fairness=100.0, reserve=0.3), fairness=100.0)
    back, timely, other = waiting(0.1, "a", tier), waiting(0.2, "a"), waiting(0.2, "a", OTHER)
    for one in (back, timely, other):
        queue.push(one)
    queue.remove(back)
    back.returning = True
    queue.push(back)
    assert queue.next(0.0) is back
    assert queue.next(0.0, returning=False) is timely
    assert queue.next(0.0, others=True) is other
    assert queue.displaces_from == timely.displaces_from
    queue.check()
