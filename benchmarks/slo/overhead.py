"""What the scheduler itself costs: ``schedule()`` and ``apply()`` of a step. ``python -m benchmarks.slo.overhead``.

32 sequences in decode and up to 10,000 waiting, of one or many tenants, with and without bounds; no model. In µs.
All run in class standard. Waiting ones of class interactive are looked at in every step: they may displace others.
"""

import statistics
import time

from benchmarks.slo.harness import table
from tenfold.cache.manager import CacheManager
from tenfold.core.config import CacheConfig, SchedulerConfig
from tenfold.core.plan import SampledToken, SequenceStart, StepResult
from tenfold.core.request import EngineRequest
from tenfold.core.sampling import SamplingParams
from tenfold.core.slo import DEFAULT_CLASS, DEFAULT_CLASSES, NO_SLO, Slo, with_slo
from tenfold.sched.scheduler import Scheduler
from tenfold.sched.sequence import Submission
from tenfold.sched.terms import TermsOf

RUNNING, STEPS = 32, 1000
BOUNDS = Slo(ttft=1e6, tpot=0.1)  # of any length: nobody is refused


def measure(waiting: int, tenants: int, slo: Slo, kind: str) -> tuple[float, float]:
    """Median and 95th percentile of a step; ``kind``: the class of those that wait."""
    classes = with_slo(with_slo(DEFAULT_CLASSES, DEFAULT_CLASS, slo), "interactive", slo)
    config = SchedulerConfig(512, RUNNING, 20_000, classes=classes)
    scheduler, terms_of, now = Scheduler(config, CacheManager(CacheConfig(40_000))), TermsOf(config), 0.0

    def add(name: str, tenant: str = "", slo_class: str | None = None) -> None:
        params, ids = SamplingParams(max_tokens=3000), tuple(range(100))
        request = EngineRequest(id=name, prompt_ids=ids, params=params, arrival=now, tenant=tenant, slo_class=slo_class)
        start = SequenceStart(name, ids, params, 0, ())
        scheduler.add(Submission(start, now, 3100, frozenset(), salt=name, terms=terms_of(request)), now)

    def step() -> float:
        nonlocal now
        began = time.perf_counter()
        plan = scheduler.schedule(now)
        scheduled = time.perf_counter() - began
        assert plan is not None
        now += 0.015
        result = StepResult(tuple(SampledToken(part.id, 1) for part in plan.slices if part.sample))
        began = time.perf_counter()
        scheduler.apply(plan, result, now)
        return scheduled + time.perf_counter() - began

    for i in range(RUNNING):
        add(f"running {i}")
        step()
    for i in range(waiting):
        add(f"waiting {i}", f"tenant {i % tenants}", kind)
    times = sorted(step() for _ in range(STEPS))
    return 1e6 * statistics.median(times), 1e6 * times[int(0.95 * STEPS)]


def main() -> None:
    """See above."""
    rows = []
    for slo, kind in ((NO_SLO, "batch"), (BOUNDS, "batch"), (BOUNDS, DEFAULT_CLASS), (BOUNDS, "interactive")):
        for waiting, tenants in ((0, 1), (100, 1), (10_000, 1), (10_000, 27), (10_000, 5_000)):
            median, p95 = measure(waiting, tenants, slo, kind)
            bounds = "yes" if slo.bounded else "no"
            rows.append((waiting, tenants, bounds, kind, f"{median:.0f}", f"{p95:.0f}"))
    print(table(("waiting", "tenants", "bounds", "class of those that wait", "µs p50", "µs p95"), rows))


if __name__ == "__main__":
    main()
