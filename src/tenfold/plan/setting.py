"""What can be chosen, and what comes of a choice."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tenfold.core.config import PROFILES, SchedulerConfig, SpeculationConfig
from tenfold.core.slo import DEFAULT_CLASS, DEFAULT_CLASSES, Slo, with_slo
from tenfold.cost.machine import Machine
from tenfold.sim.cluster import Cluster
from tenfold.traffic.row import Row

_MILLION, _HOUR = 1e6, 3600.0


@dataclass(frozen=True, slots=True)
class Variant:
    """A machine that can be had, with a model in one weight format; its price is per hour (None: not told).

    Told apart by name.
    """

    name: str
    machine: Machine = field(compare=False)
    price: float | None = None
    weights: str = "auto"  # of `tenfold serve --weights`, where it was measured here


@dataclass(frozen=True, slots=True)
class Setting:
    """A cluster: ``replicas`` of a variant, and how they schedule."""

    variant: Variant
    replicas: int = 1
    profile: str = "balanced"
    max_step_tokens: int = SchedulerConfig().max_step_tokens
    max_running: int = SchedulerConfig().max_running
    router: str = "least-work"
    speculation: str = "auto"  # as engines do by default

    def scheduler(self, slo: Slo) -> SchedulerConfig:
        """For each of its replicas."""
        return SchedulerConfig(
            max_step_tokens=max(self.max_step_tokens, self.max_running),
            max_running=self.max_running,
            classes=with_slo(DEFAULT_CLASSES, DEFAULT_CLASS, slo),
            policy=PROFILES[self.profile],
            speculation=SpeculationConfig(mode=self.speculation),
        )

    @property
    def words(self) -> str:
        """For people."""
        router = f", router {self.router}" if self.replicas > 1 else ""
        speculation = f" --speculation {self.speculation}" if self.searched_speculation else ""
        return (
            f"{self.replicas} × {self.variant.name}, --profile {self.profile} --max-step-tokens {self.max_step_tokens} "
            f"--max-running {self.max_running}{speculation}{router}"
        )

    @property
    def searched_speculation(self) -> bool:
        """Whether it was simulated with drafts, too. Where nothing is known of them, nothing is said against them."""
        return self.variant.machine.drafts is not None

    def options(self, slo: Slo) -> dict[str, Any]:
        """Those of `tenfold serve`, for its --config."""
        bounds = [f"{name}={1000 * bound:g}ms" for name, bound in (("ttft", slo.ttft), ("tpot", slo.tpot)) if bound]
        return {
            "slo": ",".join(bounds),
            "profile": self.profile,
            "max-step-tokens": max(self.max_step_tokens, self.max_running),
            "max-running": self.max_running,
            **({"speculation": self.speculation} if self.searched_speculation else {}),
            "kv-tokens": self.variant.machine.blocks * self.variant.machine.block_size,
        }


class Demand(Protocol):
    """The traffic that is to be served."""

    @property
    def rate(self) -> float:
        """Requests per second of it."""

    def rows(self, factor: float, seed: int) -> Iterator[Row]:
        """``factor`` times as much."""


@dataclass(frozen=True, slots=True)
class Point:
    """What came of a setting under ``factor`` times the load. Costs are in the price's currency, None without one."""

    setting: Setting
    factor: float
    attained: float  # of all requests, those that met the bounds
    refused: float
    busy: float  # of the replicas' time
    requests: float  # answered per second
    good: float  # per second
    tokens: float  # output tokens per second
    ttft_p95: float | None  # ms
    tpot_p95: float | None
    held: float  # of KV memory, at most
    steps: int

    @property
    def per_hour(self) -> float | None:
        """Of all replicas."""
        price = self.setting.variant.price
        return None if price is None else price * self.setting.replicas

    def per(self, rate: float, count: float = 1.0) -> float | None:
        """Of ``count`` things of which ``rate`` come per second."""
        return None if self.per_hour is None or rate <= 0 else self.per_hour / _HOUR / rate * count

    def as_json(self) -> dict[str, Any]:
        """With what it costs."""
        setting = self.setting
        return {
            "variant": setting.variant.name,
            "replicas": setting.replicas,
            "profile": setting.profile,
            "max_step_tokens": setting.max_step_tokens,
            "max_running": setting.max_running,
            "router": setting.router,
            "speculation": setting.speculation if setting.searched_speculation else None,
            "factor": round(self.factor, 4),
            "attained": round(self.attained, 4),
            "refused": round(self.refused, 4),
            "busy": round(self.busy, 4),
            "kv_held_at_most": round(self.held, 4),
            "req_s": round(self.requests, 4),
            "goodput_req_s": round(self.good, 4),
            "out_tok_s": round(self.tokens, 2),
            "ttft_p95_ms": self.ttft_p95,
            "tpot_p95_ms": self.tpot_p95,
            "cost_per_hour": self.per_hour,
            "cost_per_million_output_tokens": self.per(self.tokens, _MILLION),
            "cost_per_request": self.per(self.requests),
            "cost_per_good_request": self.per(self.good),
        }


def evaluate(setting: Setting, demand: Demand, slo: Slo, factor: float = 1.0, seed: int = 7) -> Point:
    """Simulate it."""
    cluster = Cluster(
        setting.variant.machine,
        setting.scheduler(slo),
        count=setting.replicas,
        router=setting.router,
        slo=slo,
        seed=seed,
    )
    outcome = cluster.run(demand.rows(factor, seed))
    seconds = max(outcome.seconds, 1e-9)
    figures = outcome.figures()
    return Point(
        setting,
        factor,
        attained=outcome.attained,
        refused=1 - outcome.answered / max(1, outcome.count),
        busy=outcome.busy / seconds / setting.replicas,
        requests=outcome.answered / seconds,
        good=outcome.good / seconds,
        tokens=outcome.output_tokens / seconds,
        ttft_p95=figures["ttft_ms"]["p95"],
        tpot_p95=figures["tpot_ms"]["p95"],
        held=max(replica.held for replica in cluster.replicas),
        steps=outcome.steps,
    )


def with_replicas(setting: Setting, count: int) -> Setting:
    """So many of them."""
    return replace(setting, replicas=count)
