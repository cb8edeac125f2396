"""``tenfold config``: what would be served with, and who says so."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from tenfold.cli import settings
from tenfold.cli.app import make_app
from tenfold.cli.guard import UsageError
from tenfold.cli.serve_options import again
from tenfold.core.errors import ConfigError
from tests.cli.conftest import Cli


def rows(cli: Cli, *arguments: str) -> dict[str, tuple[Any, str]]:
    result = cli("config", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return {row["option"]: (row["value"], row["from"]) for row in json.loads(result.stdout)}


def test_every_value_tells_where_it_is_from(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\ngrace = 2.5\nmax-running = 3\nkv = "int8"\n')
    monkeypatch.setenv("TENFOLD_SERVE_GRACE", "4")
    monkeypatch.setenv("TENFOLD_SERVE_MAX_RUNNING", "5")
    monkeypatch.setenv("TENFOLD_API_KEY", "secret")
    told = rows(cli, "some-model", "--config", str(file), "--max-running", "6")
    assert told["model"] == ("some-model", "option")
    assert told["--port"] == (1, "file")
    assert told["--kv"] == ("int8", "file")
    assert told["--grace"] == (4.0, "environment")
    assert told["--max-running"] == (6, "option")
    assert told["--host"] == ("127.0.0.1", "default")
    assert told["--api-key"] == (["•••"], "environment")
    assert "--help" not in told
    assert set(rows(cli, "--changed", "--port", "7")) == {"--port", "--api-key", "--grace", "--max-running"}
    shown = cli("config", "--config", str(file))
    assert "environment" in shown.stdout
    assert "secret" not in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--no-such-option",), "--no-such-option"),
        (("--port", "x"), "--port"),
        (("--tls-key", "x"), "--tls-cert"),
        (("--cors-origin", "x"), "--cors-origin"),
        (("--config", "/no/such/file"), "cannot read"),
    ],
)
def test_what_serve_would_refuse(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    result = cli("config", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_reading_again_keeps_what_the_command_line_said(tmp_path: Path) -> None:
    app, seen = typer.Typer(), []
    path = tmp_path / "c.toml"
    path.write_text("grace = 1.0\nport = 2\n")

    @app.command()
    def command(
        context: typer.Context,
        config: Annotated[Path | None, typer.Option(is_eager=True, callback=settings.read_config)] = None,
        grace: float = 30.0,
        port: int = 8000,
        connections: int = 9,
    ) -> None:
        path.write_text("grace = 5.0\nport = 6\nconnections = 7\n")
        seen.append(settings.reread(context))
        path.write_text("connections = 'many'\n")
        with pytest.raises(UsageError):
            settings.reread(context)

    result = CliRunner().invoke(app, ["--config", str(path), "--port", "3"])
    assert result.exit_code == 0, result.exception
    assert [seen[0][name] for name in ("grace", "port", "connections")] == [5.0, 3, 7]


def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("grace = 1.0\n")
    group: Any = typer.main.get_command(make_app(("serve",)))
    command = group.commands["serve"]
    context = command.make_context("serve", ["--config", str(path), "--port", "3"])
    path.write_text("grace = 2.0\nport = 4\nmax-waiting = 5\nslo = 'ttft=1s'\nprofile = 'throughput'\nkv = 'int8'\n")
    fresh = again(context)
    assert (fresh.server.grace, fresh.server.port) == (2.0, 3)
    assert fresh.scheduler.max_waiting == 5
    assert {one.name: one.slo.ttft for one in fresh.scheduler.classes}["standard"] == 1.0
    assert set(fresh.others) == {"--profile", "--kv"}
    path.write_text("grace = -1\n")
    with pytest.raises(ConfigError, match="grace"):
        again(context)
    path.write_text("max-running = 8\nmax-step-tokens = 4\n")
    with pytest.raises(ConfigError, match="max_step_tokens"):
        again(context)
