"""``tenfold profile``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli import options
from tenfold.core.config import DEFAULT_MODEL, EngineConfig
from tenfold.core.errors import ConfigError

if TYPE_CHECKING:
    from tenfold.profile.engine import EngineShare

HELP = """Show where a step's time goes, and what bounds it.

Examples:

  tenfold profile --engine                         Python's share of a decode step, at batch 1 and 32
"""

ENGINE_BATCHES = "1,32"


def profile(
    model: options.ModelArgument = DEFAULT_MODEL,
    engine: Annotated[bool, typer.Option("--engine", help="The running engine's step, part by part.")] = False,
    batch: Annotated[str | None, typer.Option(show_default=False, help="Sequences in decode: 1,16,32.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampler (with --engine).")] = 0.0,
    repeats: Annotated[int, typer.Option(min=1, help="Medians are over this many.")] = 5,
    as_json: options.AsJson = False,
    threads: options.Threads = 0,
    kv_type: options.KvTypeOption = options.KvType.bf16,
) -> None:
    """See ``HELP``."""
    _profile_engine(model, sizes(batch or ENGINE_BATCHES, "--batch"), temperature, repeats, as_json, threads, kv_type)


def sizes(text: str, option: str) -> tuple[int, ...]:
    """``1,16,32`` as numbers. Raises ConfigError."""
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigError(f"{option} takes whole numbers from 1 up, separated by commas (as in 1,16,32); got {text!r}")
    return found


def _profile_engine(
    model: str,
    batches: tuple[int, ...],
    temperature: float,
    repeats: int,
    as_json: bool,
    threads: int,
    kv_type: options.KvType,
) -> None:
    import asyncio
    from dataclasses import replace

    import uvloop

    from tenfold.cli.fetching import local_model
    from tenfold.cli.output import show
    from tenfold.profile import engine_report

    config = options.engine_config(
        str(local_model(model)),
        backend=options.Backend.cpu,
        threads=threads,
        max_context=None,
        kv_tokens=None,
        kv_type=kv_type,
        scheduler=options.scheduler_config(None, max(options.LIMITS.max_running, *batches), options.LIMITS.max_waiting),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        shares, backend = runner.run(_shares(replace(config, profile=True), batches, temperature, repeats))
    report: dict[str, Any] = engine_report.as_json(shares, backend)
    show(as_json, report, lambda: engine_report.table(shares, backend))


async def _shares(
    config: EngineConfig, batches: tuple[int, ...], temperature: float, repeats: int
) -> "tuple[list[EngineShare], str]":
    from tenfold.engine.process import EngineProcess
    from tenfold.profile.engine import engine_share

    engine = EngineProcess(config)
    try:
        info = await engine.start()
        shares = [await engine_share(engine, size, temperature=temperature, repeats=repeats) for size in batches]
    finally:
        await engine.stop()
    return shares, f"{info.model} ({info.backend})"
