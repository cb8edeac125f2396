"""``tenfold plan`` and ``tenfold tune``."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli import load_options, options
from tenfold.cli.output import progress, show
from tenfold.core.config import DEFAULT_MODEL, WEIGHTS
from tenfold.core.errors import ConfigError
from tenfold.core.slo import NO_SLO, Slo, parse_slo

if TYPE_CHECKING:
    from tenfold.bench.source import Source
    from tenfold.plan.setting import Point, Variant

HELP = """Find what a load needs so that its bounds are kept at least cost: replicas, their kind, and how they schedule.

Examples:

  tenfold plan --slo ttft=1s,tpot=50ms --workload chat --rate 20 --price 0.40

  tenfold plan --slo ttft=1s,tpot=50ms --trace azure.csv --machine small.json=0.2 --machine big.json=0.9

  tenfold plan --slo ttft=1s,tpot=50ms --rate 4 --weights auto,int4 --html plan.html

Everything is simulated, as by `tenfold simulate`; on this machine, the settings that are found are tried on the real
engine in the end (--verify). Files for --machine come from `tenfold profile --machine`. More: docs/simulation.md.
"""

NOTHING = 1
_SECONDS = 120.0


def plan(
    slo: Annotated[str, typer.Option(metavar="BOUNDS", help="What requests are promised, as ttft=1s,tpot=50ms.")],
    rate: load_options.Rate = None,
    workload: load_options.WorkloadOption = load_options.Workload.mixed,
    burstiness: load_options.Burstiness = 1.0,
    trace: load_options.TraceOption = None,
    piece: load_options.Piece = None,
    speed: load_options.Speed = 1.0,
    scale: load_options.Scale = 1.0,
    longest: load_options.Longest = None,
    attain: load_options.Attain = 0.9,
    seconds: Annotated[float, typer.Option(min=30.0, help="Of traffic in each simulation.")] = _SECONDS,
    machine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[=PRICE]",
            show_default=False,
            help="A machine that can be had; may be repeated. Default: this one.",
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(show_default=False, help="Of an hour of each machine that names none itself.")
    ] = None,
    model: options.ModelOption = DEFAULT_MODEL,
    weights: Annotated[
        str, typer.Option(help="Weight formats to measure where no --machine is given, as auto,int4.")
    ] = "auto",
    kv_type: options.KvTypeOption = options.KvType.bf16,
    verify: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds on the real engine in the end, where a machine is this one; 0: none."),
    ] = 60.0,
    seed: load_options.Seed = 7,
    as_json: options.AsJson = False,
    output: load_options.Output = None,
    html: load_options.Html = None,
) -> None:
    """See ``HELP``."""
    from tenfold.plan import report
    from tenfold.plan.demand import SourceDemand
    from tenfold.plan.search import Search

    load_options.check_paths(output, html)
    bounds = _bounds(slo)
    source = load_options.make_source(
        workload, 1, 1, seed, burstiness, seconds, several=True,
        trace=trace, piece=piece, speed=speed, scale=scale, longest=longest, classes=None,
    )  # fmt: skip
    wanted = _rate(source, rate)
    found = _variants(machine, price, model, weights, kv_type)
    with _told() as told:
        made = Search(SourceDemand(source, wanted), bounds, attain, told, seed).plan(found)
    result = report.as_json(made, wanted, attain, bounds)
    if made.chosen is not None and verify and machine is None:
        result["verified"] = _verify(made.chosen, bounds, source, wanted, model, kv_type, verify)
    about = f"{source.name}, {wanted:.3g} requests/s; {slo}; {attain:.0%} are to meet the bounds"
    load_options.finish(as_json, output, result, lambda: report.table(made, wanted, attain), wide=150)
    if not as_json and (verified := result.get("verified")) is not None:
        show(False, None, lambda: verified["words"])
    if html is not None:
        load_options.write(html, report.page(made, wanted, attain, about).encode(), "--html")
    if made.chosen is None:
        raise typer.Exit(NOTHING)


TUNE_HELP = """Find the settings with which one engine on this machine serves most requests within their bounds.

Examples:

  tenfold tune --slo ttft=1s,tpot=50ms --workload chat -o tenfold.toml

  tenfold serve --config tenfold.toml

  tenfold tune --slo ttft=1s,tpot=50ms --trace AzureLLMInferenceTrace_conv.csv --machine machine.json

Simulated, as by `tenfold simulate`; the settings go into a file that `tenfold serve --config` takes.
"""


def tune(
    slo: Annotated[str, typer.Option(metavar="BOUNDS", help="What requests are promised, as ttft=1s,tpot=50ms.")],
    workload: load_options.WorkloadOption = load_options.Workload.mixed,
    burstiness: load_options.Burstiness = 1.0,
    trace: load_options.TraceOption = None,
    piece: load_options.Piece = None,
    speed: load_options.Speed = 1.0,
    scale: load_options.Scale = 1.0,
    longest: load_options.Longest = None,
    attain: load_options.Attain = 0.9,
    seconds: Annotated[float, typer.Option(min=30.0, help="Of traffic in each simulation.")] = _SECONDS,
    machine: Annotated[
        str | None, typer.Option(show_default=False, help="A file of `tenfold profile --machine`. Default: this one.")
    ] = None,
    model: options.ModelOption = DEFAULT_MODEL,
    kv_type: options.KvTypeOption = options.KvType.bf16,
    seed: load_options.Seed = 7,
    as_json: options.AsJson = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", show_default=False, help="Write the settings here, as TOML.")
    ] = None,
) -> None:
    """See ``TUNE_HELP``."""
    from tenfold.plan.demand import SourceDemand
    from tenfold.plan.search import Search

    load_options.check_paths(output, None)
    bounds = _bounds(slo)
    source = load_options.make_source(
        workload, 1, 1, seed, burstiness, seconds, several=True,
        trace=trace, piece=piece, speed=speed, scale=scale, longest=longest, classes=None,
    )  # fmt: skip
    wanted = _rate(source, None if source.replay is not None else 1.0)
    (variant,) = _variants([machine] if machine is not None else None, None, model, "auto", kv_type)
    with _told() as told:
        found = Search(SourceDemand(source, wanted), bounds, attain, told, seed).best_of_one(variant)
    before, after = (can * wanted for can in (found.before, found.after))
    serve = found.setting.options(bounds)
    result = {
        "slo": slo,
        "attain": attain,
        "before_req_s": before,
        "after_req_s": after,
        "serve": serve,
    }
    words = (
        f"{source.name}: {attain:.0%} meet {slo} up to {before:.3g} requests/s as it is, up to {after:.3g} with "
        f"{found.setting.words.split(', ', 1)[1]}."
    )
    if not found.after:
        words = f"{source.name}: {slo} cannot be kept for {attain:.0%} of the requests at any rate that was tried."
    elif output is not None:
        load_options.write(output, _toml(serve, words).encode(), "--output")
        words += f" Written to {output}: tenfold serve --config {output}"
    show(as_json, result, lambda: words, wide=150)
    if not found.after:
        raise typer.Exit(NOTHING)


def _bounds(text: str) -> Slo:
    bounds = parse_slo(text)
    if bounds == NO_SLO:
        raise ConfigError("--slo needs at least one bound, as in ttft=1s,tpot=50ms")
    return bounds


def _rate(source: "Source", rate: float | None) -> float:
    """Requests per second to plan for."""
    if source.replay is not None:
        if rate is not None:
            raise ConfigError("--rate does nothing beside --trace: --speed makes more or less of it")
        if source.replay.rate <= 0:
            raise ConfigError("the trace has no two requests at different times, and so no rate to plan for")
        return source.replay.rate
    if rate is None:
        raise ConfigError("say how much traffic there is: --rate, in requests per second, or --trace")
    if not 0 < rate < float("inf"):
        raise ConfigError(f"--rate must be above 0 requests per second, got {rate:g}")
    return rate


def _variants(
    machines: list[str] | None, price: float | None, model: str, weights: str, kv_type: options.KvType
) -> "list[Variant]":
    """The machines that can be had; this one, measured now, where none are named."""
    from tenfold.cli.machines import load_machine, measure
    from tenfold.plan.setting import Variant

    if price is not None:
        _price(price, "--price")
    found = []
    for text in machines or ():
        where, _, own = text.rpartition("=") if "=" in text and "://" not in text else (text, "", "")
        try:
            cost = _price(float(own), "--machine") if own else price
        except ValueError:
            raise ConfigError(f"--machine: {text!r} is not understood; write it as machine.json=0.40") from None
        found.append(Variant(Path(where).stem, load_machine(where), cost))
    if len({one.name for one in found}) < len(found):
        raise ConfigError("two of the --machine files have the same name: rename one")
    if found and weights != "auto":
        raise ConfigError("--weights are measured where no --machine is given: leave one of them out")
    if found:
        return found
    for form in weights.split(","):
        if form not in WEIGHTS["cpu"]:
            raise ConfigError(f"--weights takes auto, int4, int8 and bf16, separated by commas; got {form!r}")
        config = options.engine_config(
            model,
            backend=options.Backend.cpu,
            threads=0,
            weights=options.Weights(form),
            max_context=None,
            kv_tokens=None,
            kv_type=kv_type,
        )
        name = "this machine" + (f", {form}" if form != "auto" else "")
        found.append(Variant(name, measure(config), price, form))
    return found


def _price(value: float, option: str) -> float:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{option}: a price must be above 0, got {value:g}")
    return value


@contextmanager
def _told() -> Iterator[Callable[[str], None]]:
    """What is being simulated, on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("simulating") as status:
        yield lambda what: status.update(f"simulating {what}")


def _toml(serve: dict[str, object], about: str) -> str:
    lines = [f"# {about}"] + [
        f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}" for name, value in serve.items()
    ]
    return "\n".join(lines) + "\n"


def _verify(
    point: "Point", bounds: Slo, source: "Source", rate: float, model: str, kv_type: options.KvType, seconds: float
) -> "dict[str, Any] | None":
    """One replica's part of the load on the real engine, where the chosen machine is this one; else None."""
    from tenfold.ops.cores import cpu_name

    setting = point.setting
    machine = setting.variant.machine
    if machine.cpu != cpu_name():
        return None
    from tenfold.bench.engine_target import EngineTarget
    from tenfold.bench.load import run_load
    from tenfold.bench.machine import until_calibrated
    from tenfold.bench.report import summary
    from tenfold.cli.fetching import local_model
    from tenfold.engine.process import EngineProcess
    from tenfold.model.checkpoint import load_tokenizer

    each = rate / setting.replicas
    kept = replace(source, several=True, seconds=seconds)
    load = kept.load(each if source.replay is None else min(each, source.most))
    path = local_model(model)
    config = options.engine_config(
        str(path),
        backend=options.Backend.cpu,
        threads=0,
        weights=options.Weights(setting.variant.weights),
        max_context=None,
        kv_tokens=machine.blocks * machine.block_size,
        kv_type=kv_type,
        scheduler=setting.scheduler(bounds),
    )

    async def run() -> dict[str, Any]:
        engine = EngineProcess(config)
        target = EngineTarget(engine, lambda: load_tokenizer(path))
        try:
            name = await target.start()
            await until_calibrated(engine)
            with progress(len(load.work)) as advance:
                outcome = await run_load(target, load, on_record=lambda _: advance("verifying"))
            return summary(outcome, name, bounds)
        finally:
            await target.stop()

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(run())
    words = (
        f"Tried on the real engine, {each:.3g} requests/s for {seconds:g} s: {seen['attained']:.1%} met the bounds "
        f"({point.attained:.1%} in simulation), {seen['goodput_req_s']:.3g} good requests/s."
    )
    return {"attained": seen["attained"], "goodput_req_s": seen["goodput_req_s"], "words": words}
