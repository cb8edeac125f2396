"""``tenfold config``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli.guard import UsageError, words_of
from tenfold.cli.output import show
from tenfold.cli.serve_options import scheduler_config, server_config
from tenfold.cli.settings import plain, source_of
from tenfold.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

HELP = """Show what `tenfold serve` would run with, and where each value is from, without starting it.

Examples:

  tenfold config --config serve.toml                what the file makes of it

  tenfold config gemma3-270m --port 9000 --changed  only what is no default

Takes the arguments of `tenfold serve`. An option goes before the environment (TENFOLD_SERVE_PORT is --port), that
before the file, and the file before the default.
"""

CONTEXT = {"ignore_unknown_options": True, "allow_extra_args": True}
_SECRET = "api_key"


def config(
    arguments: Annotated[list[str] | None, typer.Argument(help="As for `tenfold serve`.", show_default=False)] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Leave out what is a default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """See ``HELP``."""
    rows = [row for row in rows_of(arguments or []) if not changed or row["from"] != "default"]

    def table() -> "Table":
        from rich.table import Table

        shown = Table("option", "value", "from", box=None)
        for row in rows:
            value = row["value"]
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            shown.add_row(row["option"], "-" if value in (None, []) else text, row["from"])
        return shown

    show(as_json, rows, table, wide=110)


def rows_of(arguments: list[str]) -> list[dict[str, Any]]:
    """Each setting with its value and where it is from. Raises ConfigError for what `tenfold serve` would refuse."""
    from tenfold.cli.app import make_app

    group = typer.main.get_command(make_app(("serve",)))
    command = group.commands["serve"]  # type: ignore[attr-defined]  # it is a group
    try:
        context = command.make_context("tenfold serve", list(arguments))
    except UsageError as error:
        raise ConfigError(words_of(error)) from None
    server_config(context.params, scheduler_config(context.params))
    rows = []
    for param in command.params:
        if param.name is None or param.name not in context.params:
            continue  # --help
        value = context.params[param.name]
        if param.name == _SECRET and value:
            value = ["•••"] * len(value)
        rows.append({"option": param.opts[0], "value": plain(value), "from": source_of(context, param.name)})
    return rows
