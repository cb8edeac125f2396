"""``tenfold pull``."""

from typing import Annotated

import typer

from tenfold.cli import options

HELP = """Fetch a model, verify its checksum, and keep it in the cache.

Examples:

  tenfold pull smollm2-135m

  tenfold pull gemma3-270m --verify     hash the file again even if it is here

  tenfold pull Qwen/Qwen3-0.6B          from Hugging Face

`tenfold models` lists the names known. TENFOLD_CACHE sets another cache folder.
"""


def pull(
    model: Annotated[str, typer.Argument(help="A known name or a Hugging Face id.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read the whole file again and compare its hash.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """See ``HELP``."""
    from tenfold.cli.fetching import pulled_model

    path = pulled_model(model, verify=verify)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode({"model": model, "path": str(path)}).decode())
    else:
        typer.echo(str(path))
