"""Where a command gets the machine from that it simulates."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from tenfold.cli.output import progress
from tenfold.core.config import EngineConfig
from tenfold.core.errors import ConfigError, EngineUnavailable

if TYPE_CHECKING:
    from tenfold.cost.machine import Machine


def load_machine(where: str, api_key: str | None = None) -> "Machine":
    """From a file, or from a running server. Raises ConfigError or EngineUnavailable."""
    from tenfold.cost.machine import read_machine

    if "://" not in where:
        try:
            return read_machine(Path(where).read_bytes(), where)
        except OSError as error:
            raise ConfigError(
                f"cannot read the machine {where}: {error.strerror}; `tenfold profile --machine {where}` measures one"
            ) from None
    return read_machine(get(where, "/debug/machine", api_key), where)


def get(url: str, path: str, api_key: str | None) -> bytes:
    """The body of a server's answer. Raises ConfigError or EngineUnavailable, naming the server."""
    import httpx

    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"a server's URL must be like http://127.0.0.1:8000, got {url!r}")
    base = url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx.get(base + path, headers=headers, timeout=30.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineUnavailable(f"no server answers at {url} ({error}); start one with `tenfold serve`") from None
    if answer.status_code == 404:
        raise ConfigError(f"the server at {url} has no {path}: it is no Tenfold server, or an older one")
    if answer.status_code != 200:
        raise EngineUnavailable(f"{url}{path} answered {answer.status_code}: {answer.text[:200]}")
    return answer.content


def measure(config: EngineConfig) -> "Machine":
    """This machine, with an engine of this configuration: half a minute."""
    import uvloop

    from tenfold.bench.engine_target import EngineTarget
    from tenfold.bench.machine import REQUESTS, measure_machine
    from tenfold.cli.fetching import local_model
    from tenfold.engine.process import EngineProcess
    from tenfold.model.checkpoint import load_tokenizer

    path = local_model(config.model)
    engine = EngineProcess(replace(config, model=str(path)))
    target = EngineTarget(engine, lambda: load_tokenizer(path))

    async def run() -> "Machine":
        try:
            await target.start()
            with progress(REQUESTS) as advance:
                return await measure_machine(engine, target, advance)
        finally:
            await target.stop()

    typer.echo("measuring this machine (half a minute; it should have nothing else to do)", err=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
