"""``tenfold chat``."""

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from typing import Annotated

import typer

from tenfold.cli import options, sampling
from tenfold.cli.conversation import EngineSpeaker, ServerSpeaker, Speaker, Turn
from tenfold.cli.guard import complain
from tenfold.core.config import DEFAULT_MODEL, CudaConfig
from tenfold.core.errors import EngineUnavailable, TenfoldError
from tenfold.core.sampling import SamplingParams

HELP = """Chat with a model: one that this command loads, or a server's.

Examples:

  tenfold chat

  tenfold chat --url http://127.0.0.1:8000

  tenfold chat --system "Answer in one sentence." "Why is the sky blue?"     one answer, then exit

While chatting: /help, /reset, /exit. Ctrl-C ends an answer, Ctrl-D the chat.
"""

COMMANDS = """/help   this list
/reset  forget the conversation
/exit   leave (or Ctrl-D)
Ctrl-C  end the answer"""


def chat(
    message: Annotated[str | None, typer.Argument(show_default=False, help="Ask just this, then exit.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", show_default=False, help="The model; with --url, its name there.")
    ] = None,
    url: Annotated[str | None, typer.Option(show_default=False, help="Talk to this server.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="TENFOLD_API_KEY", show_default=False, help="The server's key.")
    ] = None,
    system: Annotated[str | None, typer.Option(show_default=False, help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, show_default=False, help="Longest answer.")] = None,
    temperature: sampling.Temperature = 0.7,
    top_p: sampling.TopP = 1.0,
    top_k: sampling.TopK = 0,
    min_p: sampling.MinP = 0.0,
    seed: sampling.Seed = None,
    backend: options.BackendOption = options.Backend.cpu,
    threads: options.Threads = 0,
    level: options.Level = None,
    weights: options.WeightsOption = options.Weights.auto,
    max_context: options.MaxContext = None,
    kv_tokens: options.KvTokens = None,
    kv_type: options.KvTypeOption = options.KvType.bf16,
    load_format: options.LoadFormatOption = options.LoadFormat.auto,
    batch_invariant: options.BatchInvariant = options.CUDA.batch_invariant,
    cuda_graphs: options.CudaGraphs = options.CUDA.graphs,
    tensor_parallel: options.TensorParallel = options.CUDA.tensor_parallel,
    memory_reserve: options.MemoryReserve = options.CUDA.memory_reserve,
) -> None:
    """See ``HELP``."""
    params = SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed, max_tokens=max_tokens
    )
    speaker: Speaker
    if url is not None:
        speaker = ServerSpeaker(url, params, model=model, api_key=api_key)
    else:
        from tenfold.cli.fetching import fetched

        config = options.engine_config(
            model or DEFAULT_MODEL,
            backend=backend,
            threads=threads,
            level=level,
            weights=weights,
            max_context=max_context,
            kv_tokens=kv_tokens,
            kv_type=kv_type,
            load_format=load_format,
            cuda=CudaConfig(batch_invariant, cuda_graphs, tensor_parallel, memory_reserve),
        )
        speaker = EngineSpeaker(fetched(config), params)
    with asyncio.Runner() as runner:
        _Chat(runner, speaker, system).run(message)


@dataclass(slots=True)
class _Chat:
    """A conversation on a terminal. The loop runs only while something is awaited: typing blocks nobody."""

    runner: asyncio.Runner
    speaker: Speaker
    system: str | None
    turns: list[Turn] = field(default_factory=list)

    def run(self, message: str | None) -> None:
        self.reset()
        try:
            name = self.runner.run(self.speaker.start())
            if message is not None:
                self.say(message)
            else:
                self.converse(name)
        finally:
            self.runner.run(self.speaker.stop())

    def reset(self) -> None:
        self.turns = [{"role": "system", "content": self.system}] if self.system else []

    def converse(self, name: str) -> None:
        """Ask for lines until there are no more."""
        interactive = sys.stdin.isatty()
        if interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 (its import gives input() editing and history)

            typer.echo(f"{name}: type a message, /help for commands, Ctrl-D to leave", err=True)
        while True:
            try:
                line = input("> " if interactive else "").strip()
            except EOFError:
                break
            if line in ("/exit", "/quit"):
                break
            if line == "/help":
                typer.echo(COMMANDS, err=True)
            elif line == "/reset":
                self.reset()
                typer.echo("the conversation is forgotten", err=True)
            elif line.startswith("/"):
                typer.echo(f"no such command: {line.split()[0]}; /help lists them", err=True)
            elif line:
                try:
                    self.say(line)
                except EngineUnavailable:
                    raise
                except TenfoldError as error:  # this message cannot be answered; another may be
                    complain(str(error))

    def say(self, text: str) -> None:
        """One question and its answer; neither is remembered where there was no answer at all."""
        said: list[str] = []
        turns = [*self.turns, {"role": "user", "content": text}]
        try:
            self.runner.run(self._print(turns, said))
        except KeyboardInterrupt:
            typer.echo(" …")
            if not sys.stdin.isatty():
                raise
        if said:
            self.turns = [*turns, {"role": "assistant", "content": "".join(said)}]

    async def _print(self, turns: list[Turn], said: list[str]) -> None:
        async with contextlib.aclosing(self.speaker.answer(turns)) as pieces:
            async for piece in pieces:
                said.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        typer.echo("")
