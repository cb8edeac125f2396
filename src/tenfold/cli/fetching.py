"""A model's files, fetched under a progress bar if they are not here yet."""

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import typer

from tenfold.core.config import DUMMY, EngineConfig
from tenfold.model.store import pull, resolve

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def local_model(name: str) -> Path:
    """The path of ``name``. Raises ModelError where it cannot be had."""
    with ProgressBar() as bar:
        return resolve(name, progress=bar)


def fetched(config: EngineConfig) -> EngineConfig:
    """``config`` with its model on this machine, by path; a dummy need not be. Raises ModelError as local_model."""
    if config.load_format != DUMMY:
        return replace(config, model=str(local_model(config.model)))
    from tenfold.model.dummy import dummy_spec

    dummy_spec(config.model)
    return config


def pulled_model(name: str, *, verify: bool) -> Path:
    """Like :func:`local_model`; ``verify`` reads the whole file again."""
    with ProgressBar() as bar:
        return pull(name, progress=bar, verify=verify)


class ProgressBar:
    """Draws :class:`tenfold.model.progress.Progress` on stderr; costs nothing where there is nothing to fetch."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, what: str, total: int) -> None:
        """A stage begins; ``total`` in bytes."""
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            console = Console(stderr=True)
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
            self._bar.start()
        self._task = self._bar.add_task(what, total=total)

    def at(self, done: int) -> None:
        """``done`` bytes of the stage are complete."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def notice(self, text: str) -> None:
        """Something the user should read."""
        typer.echo(text, err=True)
