"""``tenfold doctor``."""

import time
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from tenfold.cli import options
from tenfold.cli.output import progress, show
from tenfold.core.errors import ConfigError, EngineUnavailable
from tenfold.engine.client import State

if TYPE_CHECKING:
    from tenfold.doctor.evidence import Evidence
    from tenfold.doctor.finding import Finding

HELP = """Look at this machine and install, a model on it, or a running server: what binds, and what to change.

Examples:

  tenfold doctor                                   this machine: cores, memory, what they can do, which kernels run

  tenfold doctor --model smollm2-135m              does it fit, and how fast is it beside the machine's limits

  tenfold doctor --url http://127.0.0.1:8000       the server, for ten seconds of its usual load

Exit code 1 means that something is wrong. What is looked at: docs/doctor.md.
"""

PROBLEM = 1
_HERE = ("127.0.0.1", "localhost", "::1")


def doctor(
    url: Annotated[str | None, typer.Option(show_default=False, help="A running server.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long to look at the server.")] = 10.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="TENFOLD_API_KEY", show_default=False, help="The server's key.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", show_default=False, help="A model to look at, on this machine.")
    ] = None,
    as_json: options.AsJson = False,
    threads: options.Threads = 0,
    weights: options.WeightsOption = options.Weights.auto,
    kv_tokens: options.KvTokens = None,
    kv_type: options.KvTypeOption = options.KvType.bf16,
) -> None:
    """See ``HELP``."""
    from tenfold.doctor.finding import in_order, table

    if url is not None and model is not None:
        raise ConfigError("--url looks at a server, --model at a model on this machine; leave one of them out")
    if url is not None:
        title = f"the server at {url}"
        findings = _server(url, seconds, api_key)
    else:
        title = "this machine"
        findings = _machine(model, threads, weights, kv_tokens, kv_type)
    findings = in_order(findings)
    show(as_json, {"of": title, "findings": findings}, lambda: table(title, findings), wide=120)
    if any(one.level == "problem" for one in findings):
        raise typer.Exit(PROBLEM)


def _machine(
    model: str | None, threads: int, weights: options.Weights, kv_tokens: int | None, kv_type: options.KvType
) -> "list[Finding]":
    from tenfold.cli.fetching import local_model
    from tenfold.doctor.machine import look_at_machine, look_at_model

    path = local_model(model) if model is not None else None
    findings, limits = look_at_machine()
    if path is None:
        return findings
    config = options.engine_config(
        str(path),
        backend=options.Backend.cpu,
        threads=threads,
        weights=weights,
        max_context=None,
        kv_tokens=kv_tokens,
        kv_type=kv_type,
    )
    with progress(3) as advance:
        return [*findings, *look_at_model(path, config, limits, lambda what: advance(what))]


def _server(url: str, seconds: float, api_key: str | None) -> "list[Finding]":
    from tenfold.doctor.finding import of_the_past
    from tenfold.doctor.server import diagnose

    health = _health(url)
    if health is not None:
        return [health]
    import msgspec

    try:
        evidence = gather(url, seconds, api_key)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"what answers at {url} is no Tenfold server, or another version: {error}") from None
    findings = diagnose(evidence)
    return of_the_past(findings, seconds) if evidence.past else findings


def _health(url: str) -> "Finding | None":
    import httpx

    from tenfold.doctor.finding import Finding

    base = url.rstrip("/").removesuffix("/v1")
    try:
        answer = httpx.get(base + "/health", timeout=30.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EngineUnavailable(f"no server answers at {url} ({error}); start one with `tenfold serve`") from None
    try:
        told = answer.json()
        state, reason = told["status"], told.get("reason")
        known = state in (*get_args(State), "stopping")
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ConfigError(f"what answers at {url} is no Tenfold server: its /health is {answer.text[:100]!r}") from None
    if state == "ready":
        return None
    return Finding(
        name="state",
        level="problem",
        words=f"The engine is {state}" + (f": {reason}" if reason else "") + f"; {told.get('restarts', 0)} restarts.",
        advice=("look at the server's log",) if state != "starting" else ("wait until its model is loaded",),
        weight=1.0,
    )


def gather(url: str, seconds: float, api_key: str | None) -> "Evidence":
    """What the server tells of itself over so many seconds."""
    import msgspec

    from tenfold.cli.machines import get, load_machine
    from tenfold.doctor.evidence import Evidence, read_counts, steps_of
    from tenfold.engine.inspection import KEPT
    from tenfold.server.route_protocol import RequestReports, StepReports

    before = read_counts(get(url, "/metrics", api_key).decode())
    with progress(1) as advance:
        time.sleep(seconds)
        advance("looked")
    after = read_counts(get(url, "/metrics", api_key).decode())
    steps = msgspec.json.decode(get(url, f"/debug/steps?n={KEPT}", api_key), type=StepReports)
    requests = msgspec.json.decode(get(url, "/debug/requests", api_key), type=RequestReports)
    looked_at, past = steps_of(steps.data, steps.now, seconds)
    return Evidence(
        seconds=seconds,
        machine=load_machine(url, api_key),
        limits=steps.limits,
        steps=looked_at,
        choices=[choice for request in requests.data for choice in request.choices],
        before=before,
        after=after,
        calibrated=steps.calibrated,
        past=past,
        here=any(f"//{host}" in url for host in _HERE),
    )
