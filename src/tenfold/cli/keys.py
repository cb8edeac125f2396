"""``tenfold keys``: API keys for ``tenfold serve --api-keys``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenfold.cli import options
from tenfold.cli.output import show
from tenfold.core.slo import DEFAULT_CLASSES, parse_classes

if TYPE_CHECKING:
    from rich.table import Table

HELP = """API keys for `tenfold serve --api-keys FILE`: without a subcommand, what a file has.

Examples:

  tenfold keys new --tenant acme --label laptop --requests-per-minute 60 >> keys.toml

  tenfold keys --file keys.toml

The file keeps hashes. Delete a line and its key is no longer good; a running server reads the file again by itself.
"""

NEW_HELP = """Make a key: itself on stderr, shown this once, and the line for the file on stdout.

Example:

  tenfold keys new --tenant acme --class interactive --class batch --tokens-per-minute 20000 >> keys.toml
"""


def keys(
    context: typer.Context,
    file: Annotated[Path, typer.Option("--file", "-f", help="A file of API keys.")] = Path("keys.toml"),
    slo_class: options.SloClassOption = None,
    as_json: options.AsJson = False,
) -> None:
    """See ``HELP``."""
    import msgspec

    from tenfold.server.keyfile import read_keys

    if context.invoked_subcommand is not None:
        return
    classes = tuple(one.name for one in parse_classes(slo_class or (), DEFAULT_CLASSES))
    records = read_keys(file, classes)
    rows = [
        {"label": label, **{name: value for name, value in msgspec.structs.asdict(record).items() if name != "hash"}}
        for label, record in records.items()
    ]

    def table() -> "Table":
        from rich.table import Table

        shown = Table("label", "tenant", "classes", "requests per minute", "tokens per minute", box=None)
        for label, record in records.items():
            limits = (record.requests_per_minute, record.tokens_per_minute)
            shown.add_row(
                label,
                record.tenant or label,
                ", ".join(record.classes) or "any",
                *("any" if limit is None else f"{limit:,.0f}" for limit in limits),
            )
        return shown

    show(as_json, rows, table)


def new(
    tenant: Annotated[str | None, typer.Option(show_default="the label", help="Whose it is.")] = None,
    label: Annotated[str | None, typer.Option(show_default="made up", help="What to call it; must be unique.")] = None,
    slo_class: Annotated[
        list[str] | None,
        typer.Option("--class", show_default="any", help="SLO class it is for; the first is the default."),
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option(min=1, show_default="no limit")] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(min=1, show_default="no limit", help="Of prompts and answers together.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """See ``NEW_HELP``."""
    import secrets

    import msgspec

    from tenfold.server.keyfile import KeyRecord, hash_of, line_of, new_key

    key = new_key()
    label = label or (f"{tenant}-{secrets.token_hex(3)}" if tenant else f"key-{secrets.token_hex(4)}")
    record = KeyRecord(
        hash=hash_of(key.encode()),
        tenant=tenant,
        classes=tuple(slo_class or ()),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    line = line_of(label, record)
    if as_json:
        typer.echo(msgspec.json.encode({"label": label, "key": key, "line": line}).decode())
        return
    typer.echo(line)
    typer.echo(f"key (shown once): {key}", err=True)


SUBCOMMANDS = {"new": (new, NEW_HELP)}
