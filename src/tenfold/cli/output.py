"""JSON for programs, tables for people, a progress bar for those who wait."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import typer

if TYPE_CHECKING:
    from rich.console import RenderableType


class Advance(Protocol):
    """Says what was done, and how many parts of it."""

    def __call__(self, what: str, count: int = 1) -> None:
        """Show it."""


def show(as_json: bool, value: Any, make: "Callable[[], RenderableType]", *, wide: int | None = None) -> None:
    """Print ``value`` as one line of JSON, or what ``make`` gives, on stdout.

    ``wide`` is how many columns it gets where stdout is no terminal and COLUMNS does not say.
    """
    if as_json:
        typer.echo(msgspec.json.encode(value).decode())
        return
    from rich.console import Console

    console = Console(highlight=False)
    if wide is not None and not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=wide)
    console.print(make())


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """A progress bar on stderr where that is a terminal; gives what to call after each of ``total`` parts, or after
    several of them."""
    if not sys.stderr.isatty():
        yield lambda what, count=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("warming up", total=total)
        yield lambda what, count=1: bar.update(task, advance=count, description=what)
