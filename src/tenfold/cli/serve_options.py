"""Options of ``tenfold serve`` about who may ask, and what protects the server."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli import options
from tenfold.cli.guard import UsageError, words_of
from tenfold.cli.settings import reread
from tenfold.core.config import SchedulerConfig, SpeculationConfig
from tenfold.core.errors import ConfigError
from tenfold.server.config import Address, ServerConfig

if TYPE_CHECKING:
    from tenfold.server.reload import Fresh

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
LogFormat = Annotated[options.LogFormat, typer.Option("--log-format", help="json: an object per line.")]
LogPrompts = Annotated[
    bool, typer.Option("--log-prompts", help="Write requests' bodies to the log: what users wrote is in them.")
]
Otlp = Annotated[
    str | None,
    typer.Option(
        "--otlp",
        metavar="URL",
        show_default=False,
        help="Send a trace of each request there, by OTLP over HTTP, as http://localhost:4318: tenfold\\[otel].",
    ),
]
SloTarget = Annotated[
    float,
    typer.Option(
        "--slo-target",
        help="Part of answers that shall keep their bounds: for the error budget in the metrics.",
        rich_help_panel=options.SLO_PANEL,
    ),
]


def scheduler_config(values: Mapping[str, Any]) -> SchedulerConfig:
    """The scheduler's settings from the values of ``tenfold serve``'s options. Raises ConfigError."""
    return options.scheduler_config(
        values["max_step_tokens"],
        values["max_running"],
        values["max_waiting"],
        backend=values["backend"],
        slo=values["slo"],
        slo_classes=values["slo_class"] or (),
        profile=values["profile"],
        max_waiting_per_tenant=values["max_waiting_per_tenant"],
        tenants=values["tenant"] or (),
        speculation=SpeculationConfig(mode=values["speculation"].value, draft_tokens=values["draft_tokens"]),
    )


def server_config(values: Mapping[str, Any], scheduler: SchedulerConfig) -> ServerConfig:
    """The HTTP side's settings from the values of ``tenfold serve``'s options. Raises ConfigError."""
    admin = values["admin_port"]
    return ServerConfig(
        names=tuple(values["served_model_name"] or (short_name(values["model"]),)),
        host=values["host"],
        port=values["port"],
        api_keys=tuple(values["api_key"] or ()),
        api_keys_file=None if values["api_keys"] is None else Path(values["api_keys"]),
        slo_classes=tuple(one.name for one in scheduler.classes),
        tls=_tls_files(values["tls_cert"], values["tls_key"]),
        cors_origins=tuple(values["cors_origin"] or ()),
        admin=None if admin is None else Address(values["admin_host"], admin),
        head_limit=values["head_limit"],
        head_timeout=values["head_timeout"],
        body_limit=int(values["body_limit"] * (1 << 20)),
        body_timeout=values["body_timeout"],
        connections=values["connections"],
        grace=values["grace"],
        price=values["price"],
        slo_target=values["slo_target"],
        log_prompts=values["log_prompts"],
        otlp=values["otlp"],
        tool_parser=values["tool_parser"].value,
        reasoning_parser=values["reasoning_parser"].value,
    )


def again(context: typer.Context) -> "Fresh":
    """Both with the file of settings as it is now. Raises ConfigError."""
    from tenfold.server.reload import LIVE, LIVE_LIMITS, Fresh

    try:
        values = reread(context)
    except UsageError as error:
        raise ConfigError(words_of(error)) from None
    others = tuple(
        param.opts[0]
        for param in context.command.params
        if param.name in values
        and param.name not in (*LIVE, *LIVE_LIMITS)
        and values[param.name] != context.params[param.name]
    )
    scheduler = scheduler_config(values)
    return Fresh(server_config(values, scheduler), scheduler, others)


def short_name(model: str) -> str:
    """What to call a model given by path; other names stay as they are."""
    path = Path(model)
    if model.endswith(".gguf"):
        return path.stem
    return path.resolve().name if model.startswith((".", "/", "~")) else model


def _tls_files(cert: str | None, key: str | None) -> tuple[Path, Path] | None:
    """Both, or neither. Raises ConfigError."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise ConfigError(f"{given} needs {missing}: a certificate is served with its key")
    return Path(cert), Path(key)
