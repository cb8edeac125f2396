"""``tenfold bench`` and ``tenfold bench compare``."""

import asyncio
import itertools
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli import options
from tenfold.cli.output import progress, show
from tenfold.core.config import DEFAULT_MODEL
from tenfold.core.errors import ConfigError
from tenfold.core.slo import NO_SLO, Slo, parse_slo

if TYPE_CHECKING:
    from tenfold.bench.engine_target import EngineTarget
    from tenfold.bench.load import Load
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
_APART = 1_000_003  # seeds of rates that follow each other
_LEAST_REQUESTS = 20  # at each of several rates: of fewer, a part says nothing
_LOAD, _OPEN, _OUT = "Load", "Arrivals", "Reports"


class Workload(StrEnum):
    """The workloads of tenfold.bench.workload."""

    mixed = "mixed"
    chat = "chat"
    short = "short"
    long = "long"


def bench(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(show_default=False, help="A server; else the engine in this process.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", show_default=False, help="The model; with --url, its name there."),
    ] = None,
    workload: Annotated[
        Workload, typer.Option(help="long and short requests, both in turn, or chat.", rich_help_panel=_LOAD)
    ] = Workload.mixed,
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=1, help="How many requests.", rich_help_panel=_LOAD)
    ] = 64,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Users at a time.", rich_help_panel=_LOAD)
    ] = 16,
    seed: Annotated[int, typer.Option(help="The same seed gives the same prompts.", rich_help_panel=_LOAD)] = 7,
    slo: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Bounds that requests are judged by, such as ttft=1s,tpot=50ms; they go along in headers.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(show_default=False, help="Requests per second, instead of users.", rich_help_panel=_OPEN),
    ] = None,
    burstiness: Annotated[
        float,
        typer.Option(help="Of the gaps, deviation / mean: 1 random, more: bursts, 0: a clock.", rich_help_panel=_OPEN),
    ] = 1.0,
    rates: Annotated[
        str | None,
        typer.Option(show_default=False, help="Several rates in turn, such as 1,2,4.", rich_help_panel=_OPEN),
    ] = None,
    find_rate: Annotated[
        bool,
        typer.Option("--find-rate", help="Search the greatest rate that keeps --slo.", rich_help_panel=_OPEN),
    ] = False,
    attain: Annotated[
        float, typer.Option(help="The part of requests that must meet --slo.", rich_help_panel=_OPEN)
    ] = 0.9,
    seconds: Annotated[
        float, typer.Option(min=1.0, help="Of arrivals, at each of several rates.", rich_help_panel=_OPEN)
    ] = 60.0,
    trace: Annotated[
        Path | None,
        typer.Option(
            show_default=False,
            help="Times and lengths of real traffic: Azure, BurstGPT, Mooncake, several tenants.",
            rich_help_panel=_OPEN,
        ),
    ] = None,
    piece: Annotated[
        str | None,
        typer.Option(
            show_default=False, metavar="FROM:SECONDS", help="Only this part of the trace.", rich_help_panel=_OPEN
        ),
    ] = None,
    speed: Annotated[float, typer.Option(help="Play the trace so many times as fast.", rich_help_panel=_OPEN)] = 1.0,
    scale: Annotated[float, typer.Option(help="Its lengths, times this.", rich_help_panel=_OPEN)] = 1.0,
    longest: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Cut its prompts at so many tokens.", rich_help_panel=_OPEN),
    ] = None,
    phases: Annotated[bool, typer.Option("--phases", help="Prefill and decode apart (in-process only).")] = False,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds per request (servers only).")] = 600.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="TENFOLD_API_KEY", show_default=False, help="The server's key.")
    ] = None,
    as_json: options.AsJson = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the JSON here.", rich_help_panel=_OUT)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with pictures here.", rich_help_panel=_OUT)
    ] = None,
    backend: options.BackendOption = options.Backend.cpu,
    threads: options.Threads = 0,
    weights: options.WeightsOption = options.Weights.auto,
    max_context: options.MaxContext = None,
    kv_tokens: options.KvTokens = None,
    kv_type: options.KvTypeOption = options.KvType.bf16,
) -> None:
    """See ``HELP``."""
    if context.invoked_subcommand is not None:
        return
    _check_use(context)
    for path, option in ((output, "--output"), (html, "--html")):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"cannot write {option} {path}: it is a folder, or in none")
    from tenfold.bench.load import at_random, closed
    from tenfold.bench.sweep import check_search

    bounds = parse_slo(slo) if slo is not None else NO_SLO
    if phases and url is not None:
        raise ConfigError("--phases measures the engine in this process; leave --url out")
    if find_rate and not bounds.bounded:
        raise ConfigError("--find-rate needs bounds to keep: --slo ttft=1s,tpot=50ms")
    if find_rate and rates is not None:
        raise ConfigError("--find-rate chooses the rates; leave --rates out")
    several = find_rate or rates is not None
    if not seconds < float("inf"):
        raise ConfigError(f"--seconds must be a number, got {seconds:g}")
    chosen = _rates(rates) if rates is not None else [rate if rate is not None else 1.0]
    if find_rate:
        check_search(attain, chosen[0])
    replay = None
    if trace is not None:
        from tenfold.bench.replay import Replay

        replay = Replay(trace, piece=piece, speed=speed, scale=scale, longest=longest)
        if replay.note is not None:
            typer.echo(f"note: {replay.note}", err=True)
    most = replay.rate if replay is not None else float("inf")
    for one in chosen if several or rate is not None else []:
        if not 0 < one < float("inf"):
            raise ConfigError(f"--rate must be above 0 requests per second, got {one:g}")
        if one > most and not find_rate:
            raise ConfigError(
                f"--rate {one:g}: at this --speed the trace has no more than {most:.3g} requests per second"
            )

    def load(per_second: float | None, turn: int = 0) -> "Load":
        fresh = seed + _APART * turn  # what an earlier rate asked lies in the prefix cache
        if replay is not None:
            return replay.load(per_second, fresh)
        if per_second is None:
            return closed(workload.value, requests, concurrency, fresh)
        count = max(_LEAST_REQUESTS, round(per_second * seconds)) if several else requests
        return at_random(workload.value, count, per_second, fresh, burstiness=burstiness)

    first = None if several else load(rate)
    target: Target
    if url is not None:
        from tenfold.bench.http_target import HttpTarget

        target = HttpTarget(url, model=model or "default", api_key=api_key, timeout=timeout, slo=bounds)
    else:
        config = options.engine_config(
            model or DEFAULT_MODEL,
            backend=backend,
            threads=threads,
            weights=weights,
            max_context=max_context,
            kv_tokens=kv_tokens,
            kv_type=kv_type,
        )
        target = engine = _engine_target(config, bounds)
        if phases:
            report, table = _run(_phases_on(engine, seed))
            _finish(as_json, output, report, table)
            return
    if first is not None:
        report, table, page = _run(_load_on(target, first, bounds))
    else:
        report, table, page = _run(_rates_on(target, load, bounds, chosen, attain if find_rate else None, most))
    _finish(as_json, output, report, table)
    if html is not None:
        _write(html, page().encode(), "--html")
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


def _check_use(context: typer.Context) -> None:
    """Raise ConfigError for an option that would do nothing beside the others."""
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    arrivals = given & {"rate", "rates", "find_rate", "trace"}
    for names, needs, why in (
        ({"piece", "speed", "scale", "longest"}, {"trace"}, "is for a --trace"),
        ({"attain"}, {"find_rate"}, "is for --find-rate"),
        ({"seconds"}, {"rates", "find_rate"}, "is for several rates: --rates or --find-rate"),
        ({"burstiness"}, {"rate", "rates", "find_rate"}, "is for arrivals at a --rate"),
    ):
        if (idle := given & names) and not given & needs:
            raise ConfigError(f"--{min(idle).replace('_', '-')} {why}; without it, it does nothing")
    for names, others in (
        ({"concurrency"}, arrivals),
        ({"requests"}, given & {"rates", "find_rate", "trace"}),
        ({"workload", "burstiness"}, given & {"trace"}),
        ({"rate"}, given & {"rates"}),
        ({"html", "slo", "workload", "requests", "concurrency", *arrivals}, given & {"phases"}),
    ):
        if (idle := given & names) and others:
            told = [f"--{min(those).replace('_', '-')}" for those in (idle, others)]
            raise ConfigError(f"{told[0]} does nothing beside {told[1]}; leave one of them out")


def _rates(text: str) -> list[float]:
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        raise ConfigError(f"--rates must be numbers like 1,2,4, got {text!r}") from None
    return found


def _engine_target(config: Any, slo: Slo) -> "EngineTarget":
    from dataclasses import replace

    from tenfold.bench.engine_target import EngineTarget
    from tenfold.cli.fetching import local_model
    from tenfold.engine.local import LocalEngine
    from tenfold.model.checkpoint import load_tokenizer

    path = local_model(config.model)
    return EngineTarget(LocalEngine(replace(config, model=str(path))), lambda: load_tokenizer(path), slo=slo)


def _run(work: Any) -> Any:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


Told = tuple[dict[str, Any], Callable[[], Any], Callable[[], str]]  # the report; a table and a page of it


async def _load_on(target: "Target", load: "Load", slo: Slo) -> Told:
    from tenfold.bench.load import run_load
    from tenfold.bench.page import page
    from tenfold.bench.report import summary, table

    try:
        name = await target.start()
        with progress(len(load.work)) as advance:
            outcome = await run_load(target, load, on_record=lambda _: advance("requests"))
    finally:
        await target.stop()
    report = summary(outcome, name, slo)
    return report, lambda: table(report), lambda: page(report)


async def _rates_on(
    target: "Target",
    load: "Callable[[float, int], Load]",
    slo: Slo,
    rates: list[float],
    attain: float | None,
    most: float,
) -> Told:
    """A sweep, or (``attain``) a search that begins at the first of the rates and goes no further than ``most``."""
    from tenfold.bench.load import run_load
    from tenfold.bench.page import sweep_page
    from tenfold.bench.report import summary
    from tenfold.bench.sweep import find_rate, sweep, table

    try:
        name = await target.start()
        turns = itertools.count()

        async def run(rate: float) -> dict[str, Any]:
            made = load(rate, next(turns))
            with progress(len(made.work)) as advance:
                outcome = await run_load(target, made, on_record=lambda _: advance(f"{rate:.3g} requests/s"))
            return summary(outcome, name, slo)

        if attain is None:
            reports = await sweep(run, rates)
            words = None
            result: dict[str, Any] = {"sweep": reports}
        else:
            found = await find_rate(run, attain, rates[0], most)
            reports = list(found.reports)
            words = found.words(attain)
            result = {"sweep": reports, "found": {"held": found.held, "missed": found.missed, "words": words}}
    finally:
        await target.stop()

    def shown() -> Any:
        from rich.console import Group

        return Group(table(reports), words or "")

    return result, shown, lambda: sweep_page(reports, words)


async def _phases_on(target: "EngineTarget", seed: int) -> tuple[dict[str, Any], Callable[[], Any]]:
    from tenfold.bench.phases import DECODE_BATCHES, PREFILL_TOKENS, as_json, run_phases, table

    try:
        name = await target.start()
        with progress(len(DECODE_BATCHES) + len(PREFILL_TOKENS)) as advance:
            phases = await run_phases(target, seed, lambda phase: advance(f"{phase.name} {phase.size}"))
    finally:
        await target.stop()
    return {"target": name, "seed": seed, **as_json(phases)}, lambda: table(phases, name)


def _finish(as_json: bool, output: Path | None, report: dict[str, Any], table: Callable[[], Any]) -> None:
    import msgspec

    if output is not None:
        _write(output, msgspec.json.format(msgspec.json.encode(report)) + b"\n", "--output")
    show(as_json, report, table, wide=110 if "sweep" in report else None)


def _write(path: Path, data: bytes, option: str) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {option} {path}: {error.strerror}") from None
