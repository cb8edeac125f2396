"""Where options' values come from: the command line, the environment, a file, defaults; in this order."""

import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

import typer

PREFIX = "TENFOLD_SERVE"  # of variables of the environment: TENFOLD_SERVE_MAX_RUNNING is --max-running
SOURCES = {"COMMANDLINE": "option", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's values as defaults of the command's options. Raises BadParameter, naming what is wrong."""
    context.auto_envvar_prefix = PREFIX  # from here on, so that help does not repeat it for every option
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is no TOML: {error}") from None
    known = {
        spelt.lstrip("-").replace("-", "_"): one
        for one in context.command.params
        if one.name not in ("config", None)
        for spelt in (*one.opts, one.name or "")
    }
    defaults: dict[str, Any] = {}
    for name, value in values.items():
        option = known.get(name.replace("-", "_"))
        if option is None:
            raise typer.BadParameter(f"{path} sets {name!r}, which is no option of this command")
        if isinstance(value, bool) is not bool(getattr(option, "is_flag", False)):
            raise typer.BadParameter(f"{path}: {name} = {value!r} is not of the kind that --{name} takes")
        if isinstance(value, dict) or (isinstance(value, list) and not getattr(option, "multiple", False)):
            raise typer.BadParameter(f"{path}: {name} takes one value, not {value!r}")
        defaults[option.name or ""] = value
    context.default_map = defaults
    return path


def source_of(context: typer.Context, name: str) -> str:
    """Which of ``SOURCES`` an option's value is from."""
    source = context.get_parameter_source(name)
    return SOURCES[source.name] if source is not None else SOURCES["DEFAULT"]


def reread(context: typer.Context) -> dict[str, Any]:
    """The options' values with the file as it is now. Raises BadParameter, as for a command line."""
    command = context.command
    fresh = command.context_class(command, parent=context.parent, info_name=context.info_name)
    given = {name: value for name, value in context.params.items() if source_of(context, name) == "option"}
    for param in sorted(command.params, key=lambda one: not one.is_eager):
        param.handle_parse_result(fresh, given, [])
    return fresh.params


def plain(value: Any) -> Any:
    """A value as a person would write it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
