"""Options of ``tenfold serve`` about who may ask, and what protects the server."""

from pathlib import Path
from typing import Annotated

import typer

from tenfold.core.errors import ConfigError

PANEL = "Security"

ApiKeys = Annotated[
    Path | None,
    typer.Option(
        "--api-keys",
        show_default=False,
        help="A file of hashed keys with tenants, classes and limits (`tenfold keys new`); read again when it changes.",
        rich_help_panel=PANEL,
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", show_default=False, help="Certificate chain, in PEM: HTTPS.", rich_help_panel=PANEL),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", show_default=False, help="Its key, in PEM.", rich_help_panel=PANEL)
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        show_default=False,
        help="Let browsers' pages from there ask, as https://chat.example.com or *; may be repeated. Default: none.",
        rich_help_panel=PANEL,
    ),
]
AdminPort = Annotated[
    int | None,
    typer.Option(
        "--admin-port",
        min=0,
        max=65535,
        show_default=False,
        help="Serve /metrics and /debug there, without keys, and not on the API's port.",
        rich_help_panel=PANEL,
    ),
]
AdminHost = Annotated[
    str, typer.Option("--admin-host", help="Address to listen on for --admin-port.", rich_help_panel=PANEL)
]
HeadLimit = Annotated[
    int,
    typer.Option(
        "--head-limit", min=1024, help="Largest request line and headers, in bytes (431).", rich_help_panel=PANEL
    ),
]
HeadTimeout = Annotated[
    float, typer.Option("--head-timeout", help="Seconds for them to arrive (408).", rich_help_panel=PANEL)
]
BodyLimit = Annotated[
    float, typer.Option("--body-limit", min=0.01, help="Largest request body, in MiB (413).", rich_help_panel=PANEL)
]
BodyTimeout = Annotated[
    float, typer.Option("--body-timeout", help="Seconds for it to arrive (408).", rich_help_panel=PANEL)
]
Connections = Annotated[
    int, typer.Option("--connections", min=1, help="Open connections at a time (503).", rich_help_panel=PANEL)
]


def tls_files(cert: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Both, or neither. Raises ConfigError."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise ConfigError(f"{given} needs {missing}: a certificate is served with its key")
    return cert, key
