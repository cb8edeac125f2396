"""The same figures under vLLM's names, so that dashboards and autoscalers made for it work as they are.

Names: https://docs.vllm.ai/en/stable/usage/metrics/. Only those whose meaning is the same are here. Labels that vLLM
does not have are summed over; its ``model_name`` and ``engine`` are added.
"""

from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_KEPT = frozenset(("le", "finished_reason"))
_TENFOLD, _VLLM = "tenfold_", "vllm:"
_SAME = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "prompt_tokens",
    "generation_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
)
# What boards of earlier versions ask for.
_OLD = {"inter_token_latency_seconds": "time_per_output_token_seconds", "kv_cache_usage_perc": "gpu_cache_usage_perc"}


class BothNames(Collector):
    """What ``source`` collects, and again under vLLM's names for the model served as ``model``."""

    def __init__(self, source: Collector, model: str) -> None:
        self._source = source
        self._labels = {"model_name": model, "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        families = list(self._source.collect())
        yield from families
        for family in families:
            name = family.name.removeprefix(_TENFOLD)
            if name in _SAME:
                yield _renamed(family, name, self._labels)
                if name in _OLD:
                    yield _renamed(family, _OLD[name], self._labels)


def _renamed(family: Metric, name: str, labels: Mapping[str, str]) -> Metric:
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        suffix = sample.name.removeprefix(family.name)
        if suffix == "_created":
            continue
        kept = {label: value for label, value in sample.labels.items() if label in _KEPT}
        key = _VLLM + name + suffix, tuple({**labels, **kept}.items())
        sums[key] = sums.get(key, 0.0) + sample.value
    if family.type == "counter" and not sums:  # ours has no reason yet; theirs has none, and is 0
        sums[_VLLM + name + "_total", tuple(labels.items())] = 0.0
    renamed = Metric(_VLLM + name, family.documentation, family.type)
    renamed.samples = [Sample(one, dict(told), value) for (one, told), value in sums.items()]
    return renamed
