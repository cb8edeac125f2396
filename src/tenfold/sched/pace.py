"""How long a step may last: what sequences in decode are owed in time."""

import math
from collections.abc import Iterable

from tenfold.core.config import Policy
from tenfold.sched.forecast import Load
from tenfold.sched.sequence import Sequence

_AIM = 0.96  # of a TPOT bound: predictions are not exact
_CARRIED = 2.0  # of what a sequence is ahead of its bound, a step may use so many times the bound


class Pace:
    """Looks at the ``running`` sequences, and tells ``load`` the tightest of their bounds."""

    def __init__(self, policy: Policy, load: Load, running: Iterable[Sequence]) -> None:
        self._policy = policy
        self._load = load
        self._running = running

    def seconds(self, decode: float, now: float) -> float | None:
        """How long the step may last so that no sequence in decode misses its bound; None: there is none.

        A next token is due when as many bounds as there are tokens have passed since the first one. A sequence that is
        too late even if nothing but decode (``decode`` seconds) is done holds nobody up, beyond the bound itself; and
        some time is always prefill's.
        """
        limit, tightest, least_share = math.inf, math.inf, self._policy.least_share
        for s in self._running:
            bound = s.slo.tpot
            if bound is None or 2 * bound <= decode:
                continue  # nothing that could be done now would keep it
            if bound < tightest:
                tightest = bound
            if s.first_token is None or s.computed != len(s.tokens) - 1:
                continue
            bound *= _AIM
            left = s.first_token + bound * (len(s.tokens) - s.prompt) - now
            if left >= limit <= _CARRIED * bound:
                continue  # the most frequent case: there is one that has less
            if left < decode:
                left = decode + bound if bound <= decode else max(left, bound)
            limit = min(limit, max(min(left, _CARRIED * bound), decode + least_share * max(bound, decode)))
        self._load.tightest = tightest if tightest < math.inf else None
        if limit < math.inf:
            return limit
        if self._policy.stretch is not None and decode > 0 and self._policy.order != "arrival":
            return self._policy.stretch * decode
        return None
