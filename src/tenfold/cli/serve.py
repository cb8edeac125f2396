"""``tenfold serve``."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated

import typer

from tenfold.cli import options, serve_options
from tenfold.cli.serve_options import again, scheduler_config, server_config
from tenfold.cli.settings import read_config
from tenfold.core.config import DEFAULT_MODEL, CudaConfig
from tenfold.core.slo import DEFAULT_TARGET
from tenfold.server.config import ServerConfig

if TYPE_CHECKING:
    from tenfold.server.run import Ready, Sockets

HELP = """Serve a model over HTTP, with OpenAI's API.

Examples:

  tenfold serve                                    the default model on 127.0.0.1:8000

  tenfold serve gemma3-270m --port 9000

  tenfold serve ./model.gguf --host 0.0.0.0 --api-key "$KEY"

Then open http://127.0.0.1:8000/ (the dashboard; the API is at /docs), or run `tenfold chat --url http://127.0.0.1:8000`.
Ctrl-C stops: answers under way are finished first, for at most --grace seconds.
"""


def serve(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=read_config,
            show_default=False,
            help="A TOML file of these options (`tenfold tune` writes one); what is given here goes before it.",
        ),
    ] = None,
    model: options.ModelArgument = DEFAULT_MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TENFOLD_API_KEY", show_default=False, help="Key that requests must carry; may be repeated."
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(show_default=False, help="Name in the API; may be repeated. Default: the model's."),
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for answers under way when stopping.")] = 30.0,
    tool_parser: Annotated[
        options.ToolParser,
        typer.Option(help="How the model writes calls of tools; auto: as its chat template shows; none: no tools."),
    ] = options.ToolParser.auto,
    reasoning_parser: Annotated[
        options.ReasoningParser,
        typer.Option(help="Whether answers begin with <think>…</think>; auto: as the chat template shows."),
    ] = options.ReasoningParser.auto,
    log_level: Annotated[
        options.LogLevel,
        typer.Option(help="info tells of every request, and of every sequence that loses its place, too."),
    ] = options.LogLevel.warning,
    log_format: serve_options.LogFormat = options.LogFormat.text,
    log_prompts: serve_options.LogPrompts = False,
    otlp: serve_options.Otlp = None,
    api_keys: serve_options.ApiKeys = None,
    tls_cert: serve_options.TlsCert = None,
    tls_key: serve_options.TlsKey = None,
    cors_origin: serve_options.CorsOrigin = None,
    admin_port: serve_options.AdminPort = None,
    admin_host: serve_options.AdminHost = "127.0.0.1",
    head_limit: serve_options.HeadLimit = 32 << 10,
    head_timeout: serve_options.HeadTimeout = 20.0,
    body_limit: serve_options.BodyLimit = 4.0,
    body_timeout: serve_options.BodyTimeout = 60.0,
    connections: serve_options.Connections = 4096,
    backend: options.BackendOption = options.Backend.cpu,
    threads: options.Threads = 0,
    level: options.Level = None,
    weights: options.WeightsOption = options.Weights.auto,
    max_context: options.MaxContext = None,
    kv_tokens: options.KvTokens = None,
    kv_type: options.KvTypeOption = options.KvType.bf16,
    max_running: options.MaxRunning = None,
    max_step_tokens: options.MaxStepTokens = None,
    max_waiting: options.MaxWaiting = options.LIMITS.max_waiting,
    slo: options.SloOption = None,
    slo_class: options.SloClassOption = None,
    slo_target: serve_options.SloTarget = DEFAULT_TARGET,
    profile: options.ProfileOption = options.Profile.balanced,
    max_waiting_per_tenant: options.MaxWaitingPerTenant = None,
    tenant: options.TenantOption = None,
    price: options.PriceOption = None,
    no_prefix_sharing: options.NoPrefixSharing = False,
    speculation: options.SpeculationOption = options.Speculation.auto,
    draft_tokens: options.DraftTokens = options.LIMITS.speculation.draft_tokens,
    draft_model: options.DraftModelOption = "auto",
    load_format: options.LoadFormatOption = options.LoadFormat.auto,
    batch_invariant: options.BatchInvariant = options.CUDA.batch_invariant,
    cuda_graphs: options.CudaGraphs = options.CUDA.graphs,
    tensor_parallel: options.TensorParallel = options.CUDA.tensor_parallel,
    memory_reserve: options.MemoryReserve = options.CUDA.memory_reserve,
) -> None:
    """See ``HELP``."""
    from tenfold.cli.fetching import fetched
    from tenfold.server.run import Setup, run

    # From all values at once, as a file that is read again gives them.
    scheduler = scheduler_config(context.params)
    server = server_config(context.params, scheduler)
    with bound(server) as sockets:  # before anything slow: a port in use is told at once
        engine = options.engine_config(
            model,
            backend=backend,
            threads=threads,
            level=level,
            weights=weights,
            max_context=max_context,
            kv_tokens=kv_tokens,
            kv_type=kv_type,
            prefix_sharing=not no_prefix_sharing,
            draft_model=draft_model,
            scheduler=scheduler,
            log_level=log_level,
            log_format=log_format,
            load_format=load_format,
            cuda=CudaConfig(batch_invariant, cuda_graphs, tensor_parallel, memory_reserve),
        )
        setup = Setup(
            server,
            fetched(engine),
            sockets,
            on_ready=lambda ready: _announce(ready, server),
            reread=None if config is None else lambda: again(context),
        )
        run(setup, child=context.obj)
    typer.echo("stopped", err=True)


@contextmanager
def bound(server: ServerConfig) -> "Iterator[Sockets]":
    """The server's sockets; closed at the end. Raises ConfigError where an address cannot be had."""
    from tenfold.server.run import Sockets, bind

    with ExitStack() as stack:
        public = stack.enter_context(bind(server.host, server.port))
        admin = None
        if server.admin is not None:
            admin = stack.enter_context(bind(server.admin.host, server.admin.port, "--admin-"))
        yield Sockets(public, admin)


def _announce(ready: "Ready", server: ServerConfig) -> None:
    key = ' -H "Authorization: Bearer $TENFOLD_API_KEY"' if server.keyed else ""
    route, asked = "chat/completions", '"messages": [{"role": "user", "content": "Hello!"}]'
    if not ready.chats:
        route, asked = "completions", '"prompt": "Hello"'
    body = f'{{{asked}, "stream": true}}'
    info = ready.info
    runs = f"{info.architecture}, {info.backend}, context {info.max_context} tokens"
    if info.draft_model:
        runs += f", draft model {info.draft_model}"
    # Where the command is not on the path (make serve), name the program that was started.
    command = "tenfold" if which("tenfold") or Path(sys.argv[0]).name != "tenfold" else sys.argv[0]
    lines = [
        f"""try:   curl -N {ready.url}/v1/{route}{key} -H "Content-Type: application/json" -d '{body}'""",
        f"chat:  {command} chat --url {ready.url}" if ready.chats else None,
        f"look:  {ready.admin or ready.url}/ (dashboard)",
        f"docs:  {ready.url}/docs",
        f"admin: {ready.admin}/metrics, {ready.admin}/debug/requests" if ready.admin else None,
    ]
    typer.echo(f"\n{server.names[0]} is served at {ready.url} ({runs})\n", err=True)
    typer.echo("\n".join(f"  {line}" for line in lines if line), err=True)
    if server.exposed:
        typer.echo(f"note: whoever reaches {server.host} may ask, without a key: see --api-keys", err=True)
