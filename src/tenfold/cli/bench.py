"""``tenfold bench`` and ``tenfold bench compare``."""

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli import load_options, options
from tenfold.cli.output import progress, show
from tenfold.core.config import DEFAULT_MODEL, CudaConfig, EngineConfig, SpeculationConfig
from tenfold.core.errors import ConfigError
from tenfold.core.slo import NO_SLO, Slo, parse_slo

if TYPE_CHECKING:
    from tenfold.bench.engine_target import EngineTarget
    from tenfold.bench.load import Load
    from tenfold.bench.source import Source
    from tenfold.bench.target import Target

HELP = """Measure a running server, or the engine in this process.

Examples:

  tenfold bench --url http://127.0.0.1:8000 --workload mixed -n 64 -c 16

  tenfold bench --url http://127.0.0.1:8000 --workload chat --rate 2     arrivals at random, 2 per second

  tenfold bench --slo ttft=1s,tpot=50ms --rates 1,2,4 --html report.html     at several rates

  tenfold bench --slo ttft=1s,tpot=50ms --find-rate     the greatest rate at which 90 % meet both bounds

  tenfold bench --trace AzureLLMInferenceTrace_conv.csv --piece 600:600 --speed 10 --rate 1

  tenfold bench compare before.json after.json     is the second run worse?

  tenfold bench --model smollm2-135m --phases                            prefill and decode apart

  tenfold bench --model llama-3-8b --load-format dummy --backend cuda     random weights in a model's true shape

TTFT: request sent to first token. ITL: gap between tokens. TPOT: mean gap of a request. E2E: whole request.
The same seed gives the same prompts. Exit code 1 means that requests failed (refusals, where bounds are given, do not
count as failures). What the words mean, and other programs' words: docs/benchmarking.md.
"""

COMPARE_HELP = """Compare two reports that `tenfold bench --output` wrote.

Examples:

  tenfold bench compare before.json after.json

  tenfold bench compare main.json branch.json --tolerance 0.1 --json     a gate in CI

Prints the ratio of each figure with a 95 % interval (bootstrap over requests). Exit code 1 means that some figure is
worse, surely and by more than the tolerance.
"""

FAILED = 1


def bench(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(show_default=False, help="A server; else the engine in this process.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", show_default=False, help="The model; with --url, its name there."),
    ] = None,
    workload: load_options.WorkloadOption = load_options.Workload.mixed,
    requests: load_options.Requests = 64,
    concurrency: load_options.Concurrency = 16,
    seed: load_options.Seed = 7,
    slo: load_options.Bounds = None,
    rate: load_options.Rate = None,
    burstiness: load_options.Burstiness = 1.0,
    rates: load_options.Rates = None,
    find_rate: load_options.FindRate = False,
    attain: load_options.Attain = 0.9,
    seconds: load_options.Seconds = 60.0,
    trace: load_options.TraceOption = None,
    piece: load_options.Piece = None,
    speed: load_options.Speed = 1.0,
    scale: load_options.Scale = 1.0,
    longest: load_options.Longest = None,
    classes: load_options.Classes = None,
    phases: Annotated[bool, typer.Option("--phases", help="Prefill and decode apart (in-process only).")] = False,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds per request (servers only).")] = 600.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="TENFOLD_API_KEY", show_default=False, help="The server's key.")
    ] = None,
    as_json: options.AsJson = False,
    output: load_options.Output = None,
    html: load_options.Html = None,
    backend: options.BackendOption = options.Backend.cpu,
    threads: options.Threads = 0,
    level: options.Level = None,
    weights: options.WeightsOption = options.Weights.auto,
    max_context: options.MaxContext = None,
    kv_tokens: options.KvTokens = None,
    kv_type: options.KvTypeOption = options.KvType.bf16,
    max_running: options.MaxRunning = None,
    max_step_tokens: options.MaxStepTokens = None,
    speculation: options.SpeculationOption = options.Speculation.off,
    draft_tokens: options.DraftTokens = options.LIMITS.speculation.draft_tokens,
    draft_model: options.DraftModelOption = "auto",
    load_format: options.LoadFormatOption = options.LoadFormat.auto,
    batch_invariant: options.BatchInvariant = options.CUDA.batch_invariant,
    cuda_graphs: options.CudaGraphs = options.CUDA.graphs,
    tensor_parallel: options.TensorParallel = options.CUDA.tensor_parallel,
    memory_reserve: options.MemoryReserve = options.CUDA.memory_reserve,
) -> None:
    """See ``HELP``."""
    if context.invoked_subcommand is not None:
        return
    load_options.check_use(context)
    load_options.check_paths(output, html)
    bounds = parse_slo(slo) if slo is not None else NO_SLO
    if phases and url is not None:
        raise ConfigError("--phases measures the engine in this process; leave --url out")
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
    first = None if several else source.load(rate)
    target: Target
    if url is not None:
        from tenfold.bench.http_target import HttpTarget

        target = HttpTarget(url, model=model or "default", api_key=api_key, timeout=timeout, slo=bounds)
    else:
        config = options.engine_config(
            model or DEFAULT_MODEL,
            backend=backend,
            threads=threads,
            level=level,
            weights=weights,
            max_context=max_context,
            kv_tokens=kv_tokens,
            kv_type=kv_type,
            draft_model=draft_model,
            scheduler=options.scheduler_config(
                max_step_tokens,
                max_running,
                options.LIMITS.max_waiting,
                backend=backend,
                speculation=SpeculationConfig(mode=speculation.value, draft_tokens=draft_tokens),
            ),
            load_format=load_format,
            cuda=CudaConfig(batch_invariant, cuda_graphs, tensor_parallel, memory_reserve),
        )
        target = engine = _engine_target(config, bounds)
        if phases:
            report, table = _run(_phases_on(engine, seed))
            load_options.finish(as_json, output, report, table)
            return
    if first is not None:
        report, table, page = _run(_load_on(target, first, bounds))
    else:
        report, table, page = _run(_rates_on(target, source, bounds, chosen, attain if find_rate else None))
    load_options.finish(as_json, output, report, table)
    if html is not None:
        load_options.write(html, page().encode(), "--html")
    figures = [one["all"] for one in report.get("sweep", [report])]
    failed = sum(one["errors"] - (one["refused"] if bounds.bounded else 0) for one in figures)
    if failed or any("partial" in one for one in report.get("sweep", [report])):
        raise typer.Exit(FAILED)


def compare(
    before: Annotated[Path, typer.Argument(help="A report.")],
    after: Annotated[Path, typer.Argument(help="One to hold against it.")],
    tolerance: Annotated[float, typer.Option(min=0.0, max=0.99, help="By how much a figure may be worse.")] = 0.05,
    as_json: options.AsJson = False,
) -> None:
    """See ``COMPARE_HELP``."""
    from tenfold.bench import compare as comparing

    first, second = comparing.read_report(before), comparing.read_report(after)
    changes, differs = comparing.compare(first, second), comparing.differences(first, second)
    told = comparing.as_json(changes, tolerance, differs)
    show(as_json, told, lambda: comparing.table(changes, tolerance, differs), wide=100)
    if told["worse"]:
        raise typer.Exit(FAILED)


SUBCOMMANDS = {"compare": (compare, COMPARE_HELP)}


def _engine_target(config: EngineConfig, slo: Slo) -> "EngineTarget":
    from tenfold.bench.engine_target import EngineTarget
    from tenfold.cli.fetching import fetched
    from tenfold.engine.local import LocalEngine
    from tenfold.model.load import tokenizer_of

    config = fetched(config)
    return EngineTarget(LocalEngine(config), partial(tokenizer_of, config.model, config.load_format), slo=slo)


def _run(work: Any) -> Any:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _load_on(target: "Target", load: "Load", slo: Slo) -> load_options.Told:
    from tenfold.bench.load import run_load
    from tenfold.bench.page import page
    from tenfold.bench.report import summary, table

    try:
        name = await target.start()
        with progress(len(load.work)) as advance:
            outcome = await run_load(target, load, on_record=lambda _: advance("requests"))
        steps = await target.steps() if outcome.partial is None else []
    finally:
        await target.stop()
    report = summary(outcome, name, slo)
    return report, lambda: table(report), lambda: page(report, steps)


async def _rates_on(
    target: "Target",
    source: "Source",
    slo: Slo,
    rates: list[float],
    attain: float | None,
) -> load_options.Told:
    """A sweep, or (``attain``) a search that begins at the first of the rates."""
    from tenfold.bench.load import run_load
    from tenfold.bench.report import summary

    try:
        name = await target.start()
        turns = itertools.count()

        async def run(rate: float) -> dict[str, Any]:
            made = source.load(rate, next(turns))
            with progress(len(made.work)) as advance:
                outcome = await run_load(target, made, on_record=lambda _: advance(f"{rate:.3g} requests/s"))
            return summary(outcome, name, slo)

        return await load_options.at_rates(run, rates, attain, source.most)
    finally:
        await target.stop()


async def _phases_on(target: "EngineTarget", seed: int) -> tuple[dict[str, Any], Callable[[], Any]]:
    from tenfold.bench.phases import DECODE_BATCHES, PREFILL_TOKENS, as_json, run_phases, table

    try:
        name = await target.start()
        with progress(len(DECODE_BATCHES) + len(PREFILL_TOKENS)) as advance:
            phases = await run_phases(target, seed, lambda phase: advance(f"{phase.name} {phase.size}"))
    finally:
        await target.stop()
    return {"target": name, "seed": seed, **as_json(phases)}, lambda: table(phases, name)
