"""Which replica a request goes to. A router knows what it sent where and what has ended, like one before servers.

Work is in seconds of a replica: a prompt's prefill, and an answer of the mean length seen so far.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence

from tenfold.core.errors import ConfigError
from tenfold.core.slo import Slo
from tenfold.cost.shape import StepShape
from tenfold.sched.forecast import Forecast
from tenfold.sim.call import Call
from tenfold.sim.replica import Replica

_FIRST_OUTPUTS = 128.0  # tokens of an answer, before one has ended
_RATE = 0.01  # how fast the mean follows
_BATCH = 16  # sequences among which a decode step's cost is shared
_CROWDED = 1.5  # times the mean work of all, beyond which a prefix does not keep a request on its replica,
_SLACK = 1.0  # and so many seconds
_KNOWN = 200_000  # prefixes


class Router(ABC):
    """Owner of what is known of the replicas: :meth:`choose`, then :meth:`ended` once for each call."""

    def __init__(self, replicas: Sequence[Replica], slo: Slo) -> None:
        first = replicas[0]
        self._replicas = replicas
        self._slo = slo
        self._forecast = Forecast(first.cost, first.machine.attention, 512)
        context = min(512, first.machine.max_context)
        keys = _BATCH * first.machine.attention.keys(1, context)
        step = first.cost.predict(StepShape(_BATCH, _BATCH, _BATCH, keys, 0.0))
        self._alone = first.cost.predict(StepShape(1, 1, 1, keys / _BATCH, 0.0))  # a step of one,
        self._more = (step - self._alone) / (_BATCH - 1)  # and of each more
        self._token = step / _BATCH
        self._outputs = _FIRST_OUTPUTS
        self.work = [0.0] * len(replicas)
        self._sent: dict[int, float] = {}

    def choose(self, call: Call) -> int:
        """The number of a replica."""
        at = self._choice(call)
        work = self._forecast.prefill(0, call.row.prompt) + self._outputs * self._token
        self._sent[call.number] = work
        self.work[at] += work
        return at

    def ended(self, call: Call) -> None:
        """It is finished, or was refused."""
        self.work[call.replica] -= self._sent.pop(call.number)
        if call.error is None:
            self._outputs += _RATE * (call.row.outputs - self._outputs)

    @abstractmethod
    def _choice(self, call: Call) -> int:
        """The number of a replica."""

    def _least(self) -> int:
        work = self.work
        return work.index(min(work))


class RoundRobin(Router):
    """One after the other, whatever they have to do."""

    _next = -1

    def _choice(self, call: Call) -> int:
        self._next = (self._next + 1) % len(self._replicas)
        return self._next


class LeastWork(Router):
    """Where least is left to do."""

    def _choice(self, call: Call) -> int:
        return self._least()


class PrefixAffine(Router):
    """Where the longest prefix of the prompt was computed last, unless that replica has much more to do than others."""

    def __init__(self, replicas: Sequence[Replica], slo: Slo) -> None:
        super().__init__(replicas, slo)
        self._at: OrderedDict[int, int] = OrderedDict()  # replicas, by prefix

    def _choice(self, call: Call) -> int:
        names, chain = [], hash(call.row.tenant)
        for block in call.row.blocks:
            chain = hash((chain, block))
            names.append(chain)
        known = next((self._at[name] for name in reversed(names) if name in self._at), None)
        limit = _CROWDED * sum(self.work) / len(self.work) + _SLACK
        chosen = known if known is not None and self.work[known] <= limit else self._least()
        for name in names:
            self._at[name] = chosen
            self._at.move_to_end(name)
        while len(self._at) > _KNOWN:
            self._at.popitem(last=False)
        return chosen


class SloAware(Router):
    """Where both bounds are predicted to be kept best: the part of its bound that the first token, or each further
    one, will take is smallest. Without bounds: where least is left to do."""

    def _choice(self, call: Call) -> int:
        slo, own = self._slo, self._forecast.prefill(0, call.row.prompt)
        if not slo.bounded:
            return self._least()
        best, chosen = float("inf"), 0
        for at, replica in enumerate(self._replicas):
            worst = (replica.prefill + own) / slo.ttft if slo.ttft is not None else 0.0
            if slo.tpot is not None:
                worst = max(worst, (self._alone + self._more * replica.calls) / slo.tpot)
            worst += 1e-3 * self.work[at]  # of equals, the one with less to do
            if worst < best:
                best, chosen = worst, at
        return chosen


ROUTERS: dict[str, Callable[[Sequence[Replica], Slo], Router]] = {
    "round-robin": RoundRobin,
    "least-work": LeastWork,
    "prefix": PrefixAffine,
    "slo": SloAware,
}


def make_router(name: str, replicas: Sequence[Replica], slo: Slo) -> Router:
    """Raises ConfigError for a name that is none."""
    if name not in ROUTERS:
        raise ConfigError(f"unknown router {name!r}: choose one of {', '.join(ROUTERS)}")
    return ROUTERS[name](replicas, slo)
