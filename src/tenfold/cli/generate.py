"""``tenfold generate``."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenfold.cli import options, sampling
from tenfold.core.config import DEFAULT_MODEL, CudaConfig
from tenfold.core.errors import ConfigError
from tenfold.core.sampling import SamplingParams

if TYPE_CHECKING:
    from tenfold.engine.llm import Completion

HELP = """Continue prompts without a server, all of them in one batch.

Examples:

  tenfold generate "The sky is" --max-tokens 32

  tenfold generate --file prompts.txt --json > out.jsonl     one prompt per line; - reads stdin

  tenfold generate --chat "Name three rivers." -t 0

  tenfold generate --chat "Who wrote Faust, and when?" --json-schema schema.json
"""


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(show_default=False, help="Texts to continue.")] = None,
    model: options.ModelOption = DEFAULT_MODEL,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A prompt per line; - is stdin.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Each prompt is a question to the model.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 128,
    n: Annotated[int, typer.Option("-n", min=1, help="Continuations of each prompt.")] = 1,
    stop: Annotated[
        list[str] | None, typer.Option(show_default=False, help="End at this text; may be repeated.")
    ] = None,
    as_json: options.AsJson = False,
    temperature: sampling.Temperature = 1.0,
    top_p: sampling.TopP = 1.0,
    top_k: sampling.TopK = 0,
    min_p: sampling.MinP = 0.0,
    seed: sampling.Seed = None,
    json_schema: sampling.Schema = None,
    regex: sampling.Regex = None,
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
    texts = [*(prompts or ()), *(_lines(file) if file is not None else ())]
    if not texts:
        raise ConfigError('nothing to generate from: give prompts, as in `tenfold generate "The sky is"`, or --file')
    params = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        n=n,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        constraint=sampling.constraint_of(json_schema, regex),
    )
    config = options.engine_config(
        model,
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
    from tenfold.cli.fetching import fetched
    from tenfold.engine.llm import LLM

    config = fetched(config)
    llm = LLM(**{one.name: getattr(config, one.name) for one in fields(config)})
    if chat:
        answers = llm.chat([[{"role": "user", "content": text}] for text in texts], params)
    else:
        answers = llm.generate(texts, params)
    alone = len(texts) * n == 1
    for text, answer in zip(texts, answers, strict=True):
        for index, sample in enumerate(answer.samples):
            if as_json:
                typer.echo(_row(text, answer, index))
            else:
                typer.echo(sample.text if chat else text + sample.text)
                if not alone:
                    typer.echo("---")


def _lines(file: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read --file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--file {file} is not UTF-8 text") from None
    return [line for line in text.splitlines() if line.strip()]


def _row(prompt: str, answer: "Completion", index: int) -> str:
    """One continuation as a line of JSON."""
    import msgspec

    sample = answer.samples[index]
    row = {
        "prompt": prompt,
        "index": index,
        "text": sample.text,
        "finish_reason": sample.finish,
        "prompt_tokens": len(answer.prompt_ids),
        "completion_tokens": len(sample.tokens),
    }
    return msgspec.json.encode(row).decode()
