"""``tenfold profile``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenfold.cli import options
from tenfold.cli.output import progress, show
from tenfold.core.config import DEFAULT_MODEL, NO_SPECULATION, EngineConfig
from tenfold.core.errors import ConfigError

if TYPE_CHECKING:
    from tenfold.profile.engine import EngineShare
    from tenfold.profile.steps import Shape

HELP = """Show where a step's time goes, op by op, beside what this machine can do at most.

Examples:

  tenfold profile                                           decode and prefill of the default model

  tenfold profile --batch 1,64 --context 1000 --prefill none --level avx2

  tenfold profile --machine machine.json                    what `tenfold simulate` needs to know of this machine

  tenfold profile --engine                                  Python's share of a decode step, batch 1 and 32

For each op: the kernel that ran, bytes and multiply-adds, which limit binds, and how near it is; then in words whether
fewer bits would help. The machine's limits are measured first. How to read it: docs/profiling.md.
"""

BATCHES, CONTEXTS, PREFILLS, ENGINE_BATCHES = "1,16,32", "100,600", "512,2048", "1,32"
NONE = "none"
WIDE = 120  # columns of what is not shown on a terminal


def profile(
    model: options.ModelArgument = DEFAULT_MODEL,
    batch: Annotated[
        str | None, typer.Option(show_default=f"{BATCHES}; with --engine {ENGINE_BATCHES}", help="Sequences in decode.")
    ] = None,
    context: Annotated[str | None, typer.Option(show_default=CONTEXTS, help="Tokens of each of them.")] = None,
    prefill: Annotated[str | None, typer.Option(show_default=PREFILLS, help="Prompt tokens; none: no prefill.")] = None,
    level: Annotated[
        str | None,
        typer.Option(show_default="the best", help="A level of kernels: amx, avx512bf16, avx512, avx2 or portable."),
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, show_default="11", help="Medians are over so many.")] = None,
    engine: Annotated[bool, typer.Option("--engine", help="The running engine's step instead, part by part.")] = False,
    temperature: Annotated[
        float | None, typer.Option(min=0, show_default="0", help="Of the sampler (with --engine).")
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option(
            show_default=False, help="Measure step times and KV memory for `tenfold simulate`, into this file."
        ),
    ] = None,
    as_json: options.AsJson = False,
    threads: options.Threads = 0,
    weights: options.WeightsOption = options.Weights.auto,
    kv_type: options.KvTypeOption = options.KvType.bf16,
) -> None:
    """See ``HELP``."""
    if machine is not None:
        given = {"context": context, "prefill": prefill, "level": level, "batch": batch, "repeats": repeats}
        _refuse("does not go with --machine", engine=engine or None, temperature=temperature, **given)
        _measure_machine(model, machine, as_json, threads, weights, kv_type)
        return
    if engine:
        _refuse("does not go with --engine", context=context, prefill=prefill, level=level)
        batches = sizes(ENGINE_BATCHES if batch is None else batch, "--batch")
        _profile_engine(model, batches, temperature or 0.0, repeats or 5, as_json, threads, weights, kv_type)
        return
    _refuse("goes with --engine", temperature=temperature)
    wanted = Wanted(
        sizes(BATCHES if batch is None else batch, "--batch"),
        sizes(context, "--context") if context is not None else None,
        () if prefill == NONE else sizes(prefill, "--prefill") if prefill is not None else None,
    )
    _profile_steps(model, wanted, level, repeats or 11, as_json, threads, weights, kv_type)


def _measure_machine(
    model: str, path: Path, as_json: bool, threads: int, weights: options.Weights, kv_type: options.KvType
) -> None:
    from tenfold.cli.machines import measure
    from tenfold.cost.shape import StepShape

    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"cannot write --machine {path}: it is a folder, or in none")
    config = options.engine_config(
        model,
        backend=options.Backend.cpu,
        threads=threads,
        max_context=None,
        kv_tokens=None,
        weights=weights,
        kv_type=kv_type,
        scheduler=replace(options.LIMITS, speculation=NO_SPECULATION),
    )
    found = measure(config)
    found.save(path)
    alone, many = (found.cost().predict(StepShape(n, n, n, 300.0 * n, 0.0)) for n in (1, 16))
    words = (
        f"{path}: {found.model} ({found.backend}), KV memory for {found.blocks * found.block_size:,} tokens; a step of "
        f"one sequence takes {1000 * alone:.2g} ms, of 16 {1000 * many:.2g} ms"
    )
    show(as_json, found, lambda: words)


def sizes(text: str, option: str) -> tuple[int, ...]:
    """``1,16,32`` as numbers. Raises ConfigError."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigError(f"{option} takes whole numbers from 1 up, separated by commas (as in 1,16,32); got {text!r}")
    return found


def _refuse(why: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"--{name} {why}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The shapes asked for; None takes the usual sizes as far as the model's context goes."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...] | None
    prefills: tuple[int, ...] | None

    def shapes(self, most: int) -> "list[Shape]":
        """Of a model with a context of ``most`` tokens."""
        from tenfold.profile.steps import shapes

        contexts = _usual(CONTEXTS, most) if self.contexts is None else self.contexts
        prefills = _usual(PREFILLS, most) if self.prefills is None else self.prefills
        return shapes(self.batches, contexts, prefills, most)


def _usual(text: str, most: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(min(int(part), most) for part in text.split(",")))


def _profile_steps(
    model: str,
    wanted: Wanted,
    level: str | None,
    repeats: int,
    as_json: bool,
    threads: int,
    weights: options.Weights,
    kv_type: options.KvType,
) -> None:
    from tenfold.cli.fetching import local_model
    from tenfold.core.clock import WallClock
    from tenfold.model.checkpoint import load_checkpoint
    from tenfold.ops.cores import usable_cores
    from tenfold.ops.cpu import CpuOps
    from tenfold.ops.limits import measure_limits
    from tenfold.profile import step_report
    from tenfold.profile.levels import busy_words, others_running, why_these_kernels
    from tenfold.profile.steps import profile_steps

    others = others_running()
    checkpoint = load_checkpoint(local_model(model))
    shapes = wanted.shapes(checkpoint.spec.max_context)
    ops = CpuOps(checkpoint.weights, threads=threads, form=weights.value, kv_type=kv_type.value, level=level)
    limits = measure_limits(ops.model.level, ops.model.threads)
    with progress(len(shapes)) as advance:
        steps = profile_steps(ops, shapes, limits, WallClock(), repeats, lambda step: advance(step.shape.title))
    backend = f"{checkpoint.name} ({ops.describe()})"
    words = [*why_these_kernels(ops, limits), *busy_words(others, usable_cores(), ops.model.threads)]
    report = step_report.as_json(steps, limits, backend, words)
    show(as_json, report, lambda: step_report.shown(steps, limits, backend, words), wide=WIDE)


def _profile_engine(
    model: str,
    batches: tuple[int, ...],
    temperature: float,
    repeats: int,
    as_json: bool,
    threads: int,
    weights: options.Weights,
    kv_type: options.KvType,
) -> None:
    import asyncio
    from dataclasses import replace

    import uvloop

    from tenfold.cli.fetching import local_model
    from tenfold.profile import engine_report

    config = options.engine_config(
        str(local_model(model)),
        backend=options.Backend.cpu,
        threads=threads,
        max_context=None,
        kv_tokens=None,
        weights=weights,
        kv_type=kv_type,
        scheduler=options.scheduler_config(
            None,
            max(options.LIMITS.max_running, *batches),
            options.LIMITS.max_waiting,
            speculation=NO_SPECULATION,  # what is generated from random prompts repeats itself
        ),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        shares, backend = runner.run(_shares(replace(config, profile=True), batches, temperature, repeats))
    report = engine_report.as_json(shares, backend)
    show(as_json, report, lambda: engine_report.table(shares, backend), wide=WIDE)


async def _shares(
    config: EngineConfig, batches: tuple[int, ...], temperature: float, repeats: int
) -> "tuple[list[EngineShare], str]":
    from tenfold.engine.process import EngineProcess
    from tenfold.profile.engine import engine_share

    engine = EngineProcess(config)
    try:
        info = await engine.start()
        shares = []
        with progress(len(batches)) as advance:
            for size in batches:
                shares.append(await engine_share(engine, info, size, temperature=temperature, repeats=repeats))
                advance(f"batch {size}")
    finally:
        await engine.stop()
    return shares, f"{info.model} ({info.backend})"
