"""JSON for programs, tables for people."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import typer

if TYPE_CHECKING:
    from rich.table import Table


def show(as_json: bool, value: Any, make_table: "Callable[[], Table]") -> None:
    """Print ``value`` as one line of JSON, or the table, on stdout."""
    if as_json:
        typer.echo(msgspec.json.encode(value).decode())
        return
    from rich.console import Console

    Console().print(make_table())
