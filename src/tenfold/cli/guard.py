"""How every command ends: an exit code, and at most one line about what went wrong."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperGroup

from tenfold.core.errors import TenfoldError

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
DEBUG = "TENFOLD_DEBUG"  # set to see tracebacks

# typer carries a click of its own or uses the installed one, by version: these are what its errors derive from
UsageError: type[Exception]
_ClickError: type[Exception]
UsageError, _ClickError = typer.BadParameter.__mro__[1:3]


class Program(TyperGroup):
    """The commands' group, which tells what is wrong with a command line in one line as well."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """As of every command of typer; does not return in ``standalone_mode``."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            # the value is an exit code where a command ended by one
            value = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except _ClickError as error:
            context = getattr(error, "ctx", None)
            message = words_of(error)
            if context is not None and isinstance(error, UsageError):
                message += f" (see: {context.command_path} -h)"
            complain(message)
            sys.exit(USER_ERROR)
        except typer.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(value if isinstance(value, int) else 0)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors into ``error: …`` on stderr and an exit code: 2 for the user's, 1 for ours, 130 for Ctrl-C."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TenfoldError as error:
            complain(str(error))
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # whoever read our output has left; what Python still wants to flush has nowhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
            raise typer.Exit(USER_ERROR) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            complain(f"internal error: {error!r}; set {DEBUG}=1 for the traceback, and please report it")
            raise typer.Exit(1) from None

    return run


def words_of(error: Exception) -> str:
    """What typer says of a usage error."""
    return str(error.format_message())  # type: ignore[attr-defined]


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo("error: " + " ".join(message.split()), err=True)
