"""The command line's entry: the commands, and what is common to them."""

from collections.abc import Collection
from importlib import import_module
from typing import Annotated

import typer

from tenfold.cli.guard import Program, guarded

# Each is a module of this package, with a function of its name and a HELP, and perhaps SUBCOMMANDS of it, or a CONTEXT.
COMMANDS = (
    "serve",
    "chat",
    "generate",
    "pull",
    "models",
    "bench",
    "profile",
    "simulate",
    "plan",
    "tune",
    "doctor",
    "keys",
    "config",
)


def make_app(commands: Collection[str] = COMMANDS) -> typer.Typer:
    """The program with these commands; only their modules are imported."""
    app = typer.Typer(
        name="tenfold",
        cls=Program,
        help="Serve, run and measure language models on this machine. Start with `tenfold serve` or `tenfold chat`.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in commands:
        module = import_module(f"tenfold.cli.{name}")
        command = guarded(getattr(module, name))
        subcommands = getattr(module, "SUBCOMMANDS", None)
        if subcommands is None:
            app.command(name, help=module.HELP, context_settings=getattr(module, "CONTEXT", None))(command)
            continue
        group = typer.Typer(help=module.HELP, invoke_without_command=True)
        group.callback()(command)
        for under, (function, text) in subcommands.items():
            group.command(under, help=text)(guarded(function))
        app.add_typer(group, name=name)
    app.callback()(_root)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from tenfold.observe.about import tenfold_version

        typer.echo(f"tenfold {tenfold_version()}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before a command."""
