"""Sampling options of the commands that generate."""

from pathlib import Path
from typing import Annotated

import typer

from tenfold.core.constraint import Constraint
from tenfold.core.errors import ConfigError

PANEL = "Sampling"

Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0 is greedy.", rich_help_panel=PANEL)]
TopP = Annotated[
    float, typer.Option(help="Keep the likeliest tokens of this total probability.", rich_help_panel=PANEL)
]
TopK = Annotated[int, typer.Option(help="Keep this many likeliest tokens; 0: all.", rich_help_panel=PANEL)]
MinP = Annotated[
    float, typer.Option(help="Drop tokens below this part of the likeliest one's probability.", rich_help_panel=PANEL)
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--json-schema",
        metavar="FILE|JSON",
        show_default=False,
        help="The answer is JSON of this schema; '{}': any.",
        rich_help_panel=PANEL,
    ),
]
Regex = Annotated[
    str | None, typer.Option(show_default=False, help="The whole answer matches this.", rich_help_panel=PANEL)
]
Seed = Annotated[int | None, typer.Option(help="Makes the output reproducible.", rich_help_panel=PANEL)]


def constraint_of(schema: str | None, regex: str | None) -> Constraint | None:
    """What the options ask for. Raises ConfigError."""
    if schema is not None and regex is not None:
        raise ConfigError("--json-schema and --regex: an answer takes one of them")
    if regex is not None:
        return Constraint("regex", regex)
    if schema is None:
        return None
    if schema.lstrip().startswith("{"):
        return Constraint("json", schema)
    try:
        return Constraint("json", Path(schema).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --json-schema {schema}: {error}") from None
