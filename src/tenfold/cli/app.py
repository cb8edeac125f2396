"""The command line's entry: the commands, and what is common to them."""

from typing import Annotated

import typer

from tenfold.cli import bench, chat, generate, models, profile, pull, serve
from tenfold.cli.guard import guarded

app = typer.Typer(
    name="tenfold",
    help="Serve, run and measure language models on this machine. Start with `tenfold serve` or `tenfold chat`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(help=serve.HELP)(guarded(serve.serve))
app.command(help=chat.HELP)(guarded(chat.chat))
app.command(help=generate.HELP)(guarded(generate.generate))
app.command(help=pull.HELP)(guarded(pull.pull))
app.command(help=models.HELP)(guarded(models.models))
app.command(help=bench.HELP)(guarded(bench.bench))
app.command(help=profile.HELP)(guarded(profile.profile))


def _show_version(wanted: bool) -> None:
    if wanted:
        from tenfold.observe.about import tenfold_version

        typer.echo(f"tenfold {tenfold_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before a command."""
