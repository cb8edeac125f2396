"""Options of the commands that put a load on something: a server, an engine, a simulation."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli.output import show
from tenfold.core.errors import ConfigError
from tenfold.core.slo import Slo

if TYPE_CHECKING:
    from tenfold.bench.source import Source
    from tenfold.bench.sweep import Run

_LOAD, _OPEN, _OUT = "Load", "Arrivals", "Reports"

Told = tuple[dict[str, Any], Callable[[], Any], Callable[[], str]]  # the report; a table and a page of it


class Workload(StrEnum):
    """The workloads of tenfold.bench.workload."""

    mixed = "mixed"
    chat = "chat"
    short = "short"
    long = "long"


WorkloadOption = Annotated[
    Workload, typer.Option(help="long and short requests, both in turn, or chat.", rich_help_panel=_LOAD)
]
Requests = Annotated[int, typer.Option("--requests", "-n", min=1, help="How many requests.", rich_help_panel=_LOAD)]
Concurrency = Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Users at a time.", rich_help_panel=_LOAD)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same prompts.", rich_help_panel=_LOAD)]
Bounds = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        help="Bounds that requests are judged by, such as ttft=1s,tpot=50ms; they go along in headers.",
        rich_help_panel=_LOAD,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(show_default=False, help="Requests per second, instead of users.", rich_help_panel=_OPEN),
]
Burstiness = Annotated[
    float,
    typer.Option(help="Of the gaps, deviation / mean: 1 random, more: bursts, 0: a clock.", rich_help_panel=_OPEN),
]
Rates = Annotated[
    str | None,
    typer.Option(show_default=False, help="Several rates in turn, such as 1,2,4.", rich_help_panel=_OPEN),
]
FindRate = Annotated[
    bool,
    typer.Option("--find-rate", help="Search the greatest rate that keeps --slo.", rich_help_panel=_OPEN),
]
Attain = Annotated[float, typer.Option(help="The part of requests that must meet --slo.", rich_help_panel=_OPEN)]
Seconds = Annotated[float, typer.Option(min=1.0, help="Of arrivals, at each of several rates.", rich_help_panel=_OPEN)]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        show_default=False,
        help="Times and lengths of real traffic: Azure, BurstGPT, Mooncake, several tenants.",
        rich_help_panel=_OPEN,
    ),
]
Piece = Annotated[
    str | None,
    typer.Option(
        show_default=False, metavar="FROM:SECONDS", help="Only this part of the trace.", rich_help_panel=_OPEN
    ),
]
Speed = Annotated[float, typer.Option(help="Play the trace so many times as fast.", rich_help_panel=_OPEN)]
Scale = Annotated[float, typer.Option(help="Its lengths, times this.", rich_help_panel=_OPEN)]
Longest = Annotated[
    int | None,
    typer.Option(min=1, show_default=False, help="Cut its prompts at so many tokens.", rich_help_panel=_OPEN),
]
Classes = Annotated[
    str | None,
    typer.Option(
        show_default=False,
        metavar="NAME=SHARE,…",
        help="Share requests out among SLO classes, as interactive=2,batch=1; --slo then only judges.",
        rich_help_panel=_LOAD,
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the JSON here.", rich_help_panel=_OUT)]
Html = Annotated[Path | None, typer.Option(help="Also write a page with pictures here.", rich_help_panel=_OUT)]


def check_use(context: typer.Context) -> None:
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
        ({"html", "slo", "classes", "workload", "requests", "concurrency", *arrivals}, given & {"phases"}),
    ):
        if (idle := given & names) and others:
            told = [f"--{min(those).replace('_', '-')}" for those in (idle, others)]
            raise ConfigError(f"{told[0]} does nothing beside {told[1]}; leave one of them out")


def check_paths(output: Path | None, html: Path | None) -> None:
    """Raise ConfigError, before anything slow, where a report could not be written."""
    for path, option in ((output, "--output"), (html, "--html")):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"cannot write {option} {path}: it is a folder, or in none")


def make_source(
    workload: Workload,
    requests: int,
    users: int,
    seed: int,
    burstiness: float,
    seconds: float,
    *,
    several: bool,
    trace: Path | None,
    piece: str | None,
    speed: float,
    scale: float,
    longest: int | None,
    classes: str | None,
) -> "Source":
    """What the options ask for. Raises ConfigError."""
    from tenfold.bench.load import shares_of
    from tenfold.bench.replay import Replay
    from tenfold.bench.source import Source

    if not seconds < float("inf"):
        raise ConfigError(f"--seconds must be a number, got {seconds:g}")
    if not 0 <= burstiness < float("inf"):
        raise ConfigError(f"--burstiness must be 0 or more, got {burstiness:g}")
    if classes is not None:
        shares_of(classes)
    replay = None
    if trace is not None:
        replay = Replay(trace, piece=piece, speed=speed, scale=scale, longest=longest)
        if replay.note is not None:
            typer.echo(f"note: {replay.note}", err=True)
    return Source(workload.value, requests, users, seed, burstiness, seconds, several, replay, classes)


def wanted_rates(
    rate: float | None, rates: str | None, slo: Slo, *, find_rate: bool, attain: float
) -> tuple[list[float], bool]:
    """The rates to try, or the one to begin a search at, and whether there are several. Raises ConfigError."""
    from tenfold.bench.sweep import check_search

    if find_rate and not slo.bounded:
        raise ConfigError("--find-rate needs bounds to keep: --slo ttft=1s,tpot=50ms")
    if find_rate and rates is not None:
        raise ConfigError("--find-rate chooses the rates; leave --rates out")
    chosen = rates_of(rates) if rates is not None else [rate if rate is not None else 1.0]
    if find_rate:
        check_search(attain, chosen[0])
    return chosen, find_rate or rates is not None


def rates_of(text: str) -> list[float]:
    """``1,2,4`` as numbers. Raises ConfigError."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        raise ConfigError(f"--rates must be numbers like 1,2,4, got {text!r}") from None
    return found


def finish(
    as_json: bool, output: Path | None, report: dict[str, Any], table: Callable[[], Any], *, wide: int | None = None
) -> None:
    """Print the report, and write it where that is asked for. ``wide``: see :func:`show`."""
    import msgspec

    if output is not None:
        write(output, msgspec.json.format(msgspec.json.encode(report)) + b"\n", "--output")
    show(as_json, report, table, wide=110 if "sweep" in report else wide)


def write(path: Path, data: bytes, option: str) -> None:
    """Raises ConfigError where that is not possible."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {option} {path}: {error.strerror}") from None


async def at_rates(run: "Run", rates: list[float], attain: float | None, most: float) -> Told:
    """A sweep, or (``attain``) a search that begins at the first of the rates and goes no further than ``most``."""
    from tenfold.bench.page import sweep_page
    from tenfold.bench.sweep import find_rate, sweep, table

    words = None
    if attain is None:
        reports = await sweep(run, rates)
        result: dict[str, Any] = {"sweep": reports}
    else:
        found = await find_rate(run, attain, rates[0], most)
        reports = list(found.reports)
        words = found.words(attain)
        result = {"sweep": reports, "found": {"held": found.held, "missed": found.missed, "words": words}}

    def shown() -> Any:
        from rich.console import Group

        return Group(table(reports), words or "")

    return result, shown, lambda: sweep_page(reports, words)
