"""``tenfold simulate``."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli import load_options, options
from tenfold.cli.output import progress
from tenfold.core.config import DEFAULT_MODEL, SchedulerConfig
from tenfold.core.errors import ConfigError
from tenfold.core.slo import NO_SLO, Slo, parse_slo

if TYPE_CHECKING:
    from tenfold.bench.source import Source
    from tenfold.cost.machine import Machine

HELP = """Serve a load in simulation: the engine's own scheduler and cache, some hundred times as fast as real time.

Examples:

  tenfold profile --machine machine.json                                measure this machine once

  tenfold simulate --machine machine.json --workload chat --rate 4 -n 2000 --slo ttft=1s,tpot=50ms

  tenfold simulate --machine machine.json --workload chat --slo ttft=1s,tpot=50ms --find-rate --replicas 4 --router slo

  tenfold simulate --machine http://127.0.0.1:8000 --trace AzureLLMInferenceTrace_conv.csv --speed 4

Without --machine, this one is measured first (half a minute). Reports are those of `tenfold bench`, so that
`tenfold bench compare` takes them. How near it comes to the real engine: docs/simulation.md.
"""


NOTHING = 1  # was answered


class Router(StrEnum):
    """See tenfold.sim.routing."""

    round_robin = "round-robin"
    least_work = "least-work"
    prefix = "prefix"
    slo = "slo"


def simulate(
    context: typer.Context,
    machine: Annotated[
        str | None,
        typer.Option(
            show_default=False, help="A file that `tenfold profile --machine` wrote, or the URL of a running server."
        ),
    ] = None,
    model: options.ModelOption = DEFAULT_MODEL,
    replicas: Annotated[int, typer.Option(min=1, max=10_000, help="Engines of that kind.")] = 1,
    router: Annotated[Router, typer.Option(help="Which of them a request goes to.")] = Router.least_work,
    workload: load_options.WorkloadOption = load_options.Workload.mixed,
    requests: load_options.Requests = 1000,
    concurrency: load_options.Concurrency = 16,
    seed: load_options.Seed = 7,
    slo: options.SloOption = None,
    rate: load_options.Rate = None,
    burstiness: load_options.Burstiness = 1.0,
    rates: load_options.Rates = None,
    find_rate: load_options.FindRate = False,
    attain: load_options.Attain = 0.9,
    seconds: load_options.Seconds = 600.0,
    trace: load_options.TraceOption = None,
    piece: load_options.Piece = None,
    speed: load_options.Speed = 1.0,
    scale: load_options.Scale = 1.0,
    longest: load_options.Longest = None,
    classes: load_options.Classes = None,
    kv_tokens: options.KvTokens = None,
    max_running: options.MaxRunning = None,
    max_step_tokens: options.MaxStepTokens = None,
    max_waiting: options.MaxWaiting = options.LIMITS.max_waiting,
    slo_class: options.SloClassOption = None,
    profile: options.ProfileOption = options.Profile.balanced,
    max_waiting_per_tenant: options.MaxWaitingPerTenant = None,
    tenant: options.TenantOption = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="TENFOLD_API_KEY", show_default=False, help="The server's key.")
    ] = None,
    as_json: options.AsJson = False,
    output: load_options.Output = None,
    html: load_options.Html = None,
) -> None:
    """See ``HELP``."""
    from tenfold.cli.machines import load_machine, measure

    load_options.check_use(context)
    load_options.check_paths(output, html)
    bounds = parse_slo(slo) if slo is not None else NO_SLO
    chosen, several = load_options.wanted_rates(rate, rates, bounds, find_rate=find_rate, attain=attain)
    source = load_options.make_source(
        workload,
        requests,
        concurrency,
        seed,
        burstiness,
        seconds,
        several=several,
        trace=trace,
        piece=piece,
        speed=speed,
        scale=scale,
        longest=longest,
        classes=classes,
    )
    source.check(chosen if several or rate is not None else [], searched=find_rate)
    config = options.scheduler_config(
        max_step_tokens,
        max_running,
        max_waiting,
        slo=slo,
        slo_classes=slo_class or (),
        profile=profile,
        max_waiting_per_tenant=max_waiting_per_tenant,
        tenants=tenant or (),
    )
    _check_classes(source, config)
    found = load_machine(machine, api_key) if machine is not None else measure(options.default_engine(model, config))
    if kv_tokens is not None:
        found = found.with_blocks(kv_tokens)
    play = _Player(found, config, replicas, router.value, bounds)
    if several:
        report, table, page = asyncio.run(play.rates(source, chosen, attain if find_rate else None))
    else:
        report, table, page = play.once(source, rate)
    load_options.finish(as_json, output, report, table)
    if html is not None:
        load_options.write(html, page().encode(), "--html")
    if not any(one["req_s"] for one in report.get("sweep", [report])):
        raise typer.Exit(NOTHING)


def _check_classes(source: "Source", config: SchedulerConfig) -> None:
    """Raise ConfigError where requests are of a class that there is not."""
    known, wanted = {one.name for one in config.classes}, source.class_names()
    if unknown := sorted(wanted - known - {""}):
        raise ConfigError(
            f"there is no SLO class {unknown[0]!r}: choose from {', '.join(sorted(known))}, or --slo-class"
        )


class _Player:
    """Simulations of one cluster under different loads."""

    def __init__(self, machine: "Machine", config: SchedulerConfig, replicas: int, router: str, slo: Slo) -> None:
        self._machine = machine
        self._config = config
        self._replicas = replicas
        self._router = router
        self._slo = slo

    def once(self, source: "Source", rate: float | None) -> load_options.Told:
        """One load."""
        from tenfold.bench.page import page
        from tenfold.bench.report import table

        with _bar(source.count(rate)) as told:
            report = self._play(source, rate, 0, told)
        return report, lambda: table(report), lambda: page(report)

    async def rates(self, source: "Source", rates: list[float], attain: float | None) -> load_options.Told:
        """A sweep, or (``attain``) a search that begins at the first of the rates."""
        turns = itertools.count()

        async def run(rate: float) -> dict[str, Any]:
            with _bar(source.count(rate)) as told:
                return self._play(source, rate, next(turns), told)

        return await load_options.at_rates(run, rates, attain, source.most)

    def _play(self, source: "Source", rate: float | None, turn: int, told: Any) -> dict[str, Any]:
        from tenfold.sim.cluster import Cluster

        users = source.users if rate is None and source.replay is None else None
        machine, count = self._machine, self._replicas
        cluster = Cluster(
            machine, self._config, count=count, router=self._router, slo=self._slo, seed=source.seed + turn
        )
        outcome = cluster.run(source.rows(rate, turn), users=users, progress=told)
        name = f"simulated {machine.model} ({machine.backend})"
        if count > 1:
            name = f"{count} × {name}, {self._router}"
        load = source.told(rate)
        return outcome.report(name, source.name, load, users, source.seed)


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    """Progress of a simulation: requests ended, and the simulated time."""
    with progress(total) as advance:
        done = 0

        def told(count: int, seconds: float) -> None:
            nonlocal done
            advance(f"{seconds:,.0f} s simulated", count - done)
            done = count

        yield told
