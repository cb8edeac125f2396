"""``tenfold bench``."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli import options
from tenfold.cli.output import progress
from tenfold.core.config import DEFAULT_MODEL
from tenfold.core.errors import ConfigError

if TYPE_CHECKING:
    from tenfold.bench.engine_target import EngineTarget
    from tenfold.bench.load import Load
    from tenfold.bench.target import Target

HELP = """Measure a running server, or the engine in this process.

Examples:

  tenfold bench --url http://127.0.0.1:8000 --workload mixed -n 64 -c 16

  tenfold bench --url http://127.0.0.1:8000 --workload chat --rate 2     arrivals at random, 2 per second

  tenfold bench --model smollm2-135m --phases                            prefill and decode apart

TTFT: request sent to first token. ITL: gap between tokens. TPOT: mean gap of a request. E2E: whole request.
The same seed gives the same prompts. Exit code 1 means that requests failed.
"""

FAILED = 1


class Workload(StrEnum):
    """The workloads of tenfold.bench.workload."""

    mixed = "mixed"
    chat = "chat"
    short = "short"
    long = "long"


def bench(
    url: Annotated[
        str | None, typer.Option(show_default=False, help="A server; else the engine in this process.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", show_default=False, help="The model; with --url, its name there."),
    ] = None,
    workload: Annotated[
        Workload, typer.Option(help="long and short requests, both in turn, or chat.")
    ] = Workload.mixed,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="How many requests.")] = 64,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Users at a time.")] = 16,
    rate: Annotated[
        float | None, typer.Option(show_default=False, help="Requests per second, instead of users.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same prompts.")] = 7,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds per request (servers only).")] = 600.0,
    phases: Annotated[bool, typer.Option("--phases", help="Prefill and decode apart (in-process only).")] = False,
    api_key: Annotated[
        str | None, typer.Option(envvar="TENFOLD_API_KEY", show_default=False, help="The server's key.")
    ] = None,
    as_json: options.AsJson = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON here.")] = None,
    backend: options.BackendOption = options.Backend.cpu,
    threads: options.Threads = 0,
    weights: options.WeightsOption = options.Weights.auto,
    max_context: options.MaxContext = None,
    kv_tokens: options.KvTokens = None,
    kv_type: options.KvTypeOption = options.KvType.bf16,
) -> None:
    """See ``HELP``."""
    from tenfold.bench.load import Load

    load = Load(workload.value, requests, concurrency, rate, seed)
    if url is not None:
        if phases:
            raise ConfigError("--phases measures the engine in this process; leave --url out")
        from tenfold.bench.http_target import HttpTarget

        server = HttpTarget(url, model=model or "default", api_key=api_key, timeout=timeout)
        report, table = _run(_load_on(server, load))
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
        engine = _engine_target(config)
        report, table = _run(_phases_on(engine, seed) if phases else _load_on(engine, load))
    if output is not None:
        _write(output, report)
    from tenfold.cli.output import show

    show(as_json, report, table)
    if report.get("all", {}).get("errors"):
        raise typer.Exit(FAILED)


def _engine_target(config: Any) -> "EngineTarget":
    from dataclasses import replace

    from tenfold.bench.engine_target import EngineTarget
    from tenfold.cli.fetching import local_model
    from tenfold.engine.local import LocalEngine
    from tenfold.model.checkpoint import load_tokenizer

    path = local_model(config.model)
    return EngineTarget(LocalEngine(replace(config, model=str(path))), lambda: load_tokenizer(path))


def _run(work: Any) -> Any:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _load_on(target: "Target", load: "Load") -> tuple[dict[str, Any], Callable[[], Any]]:
    from tenfold.bench.load import run_load
    from tenfold.bench.report import summary, table

    try:
        name = await target.start()
        with progress(load.count) as advance:
            outcome = await run_load(target, load, on_record=lambda _: advance("requests"))
    finally:
        await target.stop()
    report = summary(outcome, name)
    return report, lambda: table(report)


async def _phases_on(target: "EngineTarget", seed: int) -> tuple[dict[str, Any], Callable[[], Any]]:
    from tenfold.bench.phases import DECODE_BATCHES, PREFILL_TOKENS, as_json, run_phases, table

    try:
        name = await target.start()
        with progress(len(DECODE_BATCHES) + len(PREFILL_TOKENS)) as advance:
            phases = await run_phases(target, seed, lambda phase: advance(f"{phase.name} {phase.size}"))
    finally:
        await target.stop()
    return {"target": name, "seed": seed, **as_json(phases)}, lambda: table(phases, name)


def _write(path: Path, report: dict[str, Any]) -> None:
    import msgspec

    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write --output {path}: {error.strerror}") from None
