"""How well objectives are kept: attainment and what is left of the error budget, by class."""

from collections import deque
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

WINDOW = 1000  # finished choices of a class


class BudgetCollector(Collector):
    """Of the last ``WINDOW`` finished choices of each class with bounds: the part that kept them, and what is left of
    the misses that ``target`` allows: 1 all of them, 0 none, below 0 more were missed.

    Ratios over other times are made from ``tenfold_slo_requests_total``. Requests that were refused are not in it.
    """

    def __init__(self, target: float) -> None:
        assert 0 < target < 1, "checked where settings are"
        self._target = target
        self._kept: dict[str, deque[bool]] = {}

    def add(self, slo_class: str, kept: bool) -> None:
        """A choice has ended that had bounds."""
        self._kept.setdefault(slo_class, deque(maxlen=WINDOW)).append(kept)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield GaugeMetricFamily(
            "tenfold_slo_target_ratio", "Part of choices with bounds that shall keep them", value=self._target
        )
        attainment = GaugeMetricFamily(
            "tenfold_slo_attainment_ratio", f"Part of the last {WINDOW} that kept their bounds", labels=("slo_class",)
        )
        left = GaugeMetricFamily(
            "tenfold_slo_error_budget_remaining_ratio",
            f"Of the misses that the target allows in the last {WINDOW}, what is left; below 0: more were missed",
            labels=("slo_class",),
        )
        for name, kept in self._kept.items():
            ratio = sum(kept) / len(kept)
            attainment.add_metric((name,), ratio)
            left.add_metric((name,), 1 - (1 - ratio) / (1 - self._target))
        yield attainment
        yield left
