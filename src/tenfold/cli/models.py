"""``tenfold models``."""

from typing import TYPE_CHECKING

from tenfold.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from tenfold.model.store import ModelStatus

HELP = """List the models known by name, and which of them are on this machine.

Besides these, every command takes a Hugging Face id (org/name), a .gguf file or a model folder.
"""


def models(as_json: options.AsJson = False) -> None:
    """See ``HELP``."""
    from tenfold.cli.output import show
    from tenfold.model.store import cached_models

    found = cached_models()
    rows = [
        {
            "name": model.name,
            "description": model.description,
            "licence": model.licence,
            "size": model.size,
            "cached": model.cached,
            "path": str(model.path),
        }
        for model in found
    ]
    show(as_json, rows, lambda: _table(found))


def _table(found: "list[ModelStatus]") -> "Table":
    from rich.table import Table

    table = Table()
    for name in ("name", "size", "here", "licence", "description"):
        table.add_column(name, justify="right" if name == "size" else "left", no_wrap=name == "name")
    for model in found:
        here = "yes" if model.cached else f"no: tenfold pull {model.name}"
        table.add_row(model.name, f"{model.size / 1e6:.0f} MB", here, model.licence, model.description)
    return table
