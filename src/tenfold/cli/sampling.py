"""Sampling options of the commands that generate."""

from typing import Annotated

import typer

PANEL = "Sampling"

Temperature = Annotated[float, typer.Option("--temperature", "-t", help="0 is greedy.", rich_help_panel=PANEL)]
TopP = Annotated[
    float, typer.Option(help="Keep the likeliest tokens of this total probability.", rich_help_panel=PANEL)
]
TopK = Annotated[int, typer.Option(help="Keep this many likeliest tokens; 0: all.", rich_help_panel=PANEL)]
MinP = Annotated[
    float, typer.Option(help="Drop tokens below this part of the likeliest one's probability.", rich_help_panel=PANEL)
]
Seed = Annotated[int | None, typer.Option(help="Makes the output reproducible.", rich_help_panel=PANEL)]
