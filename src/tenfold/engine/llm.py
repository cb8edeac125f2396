"""The offline API: a model and a list of prompts, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tenfold.core.clock import WallClock
from tenfold.core.config import DEFAULT_MODEL, EngineConfig
from tenfold.core.errors import InvalidRequest
from tenfold.core.request import EngineRequest, EngineStats, RequestOutput, SampleLogprobs
from tenfold.core.sampling import SamplingParams
from tenfold.engine.build import build_engine

Prompt = str | Sequence[int]
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation: its text and token ids, why it ended, and logprobs where asked for."""

    text: str
    tokens: tuple[int, ...]
    finish: str
    stop: str | int | None = None
    logprobs: tuple[SampleLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt's ``n`` continuations, in order."""

    prompt_ids: tuple[int, ...]
    samples: tuple[Sample, ...]
    cached_tokens: int = 0

    @property
    def text(self) -> str:
        """The first continuation's text."""
        return self.samples[0].text


class LLM:
    """A model in this process.

    >>> LLM("smollm2-135m").generate("The sky is", SamplingParams(max_tokens=8, temperature=0))

    ``options`` are the fields of :class:`tenfold.core.config.EngineConfig`. Not for several threads at once.
    """

    def __init__(self, model: str = DEFAULT_MODEL, **options: Any) -> None:
        engine = build_engine(replace(EngineConfig(), model=model, **options))
        self._core = engine.core
        self._checkpoint = engine.checkpoint
        self._checkpoint.tokenizer()  # one that cannot be built is told now, not by the first prompt
        self._requests = 0
        self.info = engine.info

    def stats(self) -> EngineStats:
        """Counters and gauges since the model was loaded."""
        return self._core.stats()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Continue text or token-id prompts, all batched together; results in the prompts' order.

        ``progress`` shows a bar on standard error; by default where that is a terminal. Raises InvalidRequest
        before anything runs where a prompt or its params cannot be served.
        """
        tokenizer = self._checkpoint.tokenizer()
        listed: Sequence[Prompt] = [prompts] if _is_one(prompts) else prompts  # type: ignore[assignment,list-item]
        ids = [
            tuple(tokenizer.encode(prompt, add_special=True) if isinstance(prompt, str) else prompt)
            for prompt in listed
        ]
        return self._run(ids, params, progress=progress)

    def chat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Answer one conversation, or several, by the model's chat template."""
        template = self._checkpoint.chat_template
        if template is None:
            raise InvalidRequest("this model has no chat template; use generate()")
        single = bool(conversations) and isinstance(conversations[0], dict)
        listed: Any = [conversations] if single else conversations
        tokenizer = self._checkpoint.tokenizer()
        ids = [tuple(tokenizer.encode(template.render(messages), add_special=False)) for messages in listed]
        return self._run(ids, params, progress=progress)

    def _run(
        self,
        prompts: Sequence[tuple[int, ...]],
        params: SamplingParams | Sequence[SamplingParams] | None,
        *,
        progress: bool | None,
    ) -> list[Completion]:
        settings = _spread(params, len(prompts))
        now = WallClock().now()
        names: list[str] = []
        try:
            for prompt, setting in zip(prompts, settings, strict=True):
                name = f"llm-{self._requests}"
                self._requests += 1
                self._core.submit(EngineRequest(id=name, prompt_ids=prompt, params=setting, arrival=now))
                names.append(name)
            outputs = self._drain(names, settings, progress=progress)
        except BaseException:
            self._core.abort_all()
            raise
        return [
            _completion(prompt, setting.n, outputs[name])
            for name, prompt, setting in zip(names, prompts, settings, strict=True)
        ]

    def _drain(
        self, names: Sequence[str], settings: Sequence[SamplingParams], *, progress: bool | None
    ) -> dict[str, list[RequestOutput]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        outputs: dict[str, list[RequestOutput]] = {name: [] for name in names}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} tok/s"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        shown = console.is_terminal if progress is None else progress
        with Progress(*columns, console=console, disable=not shown) as bar:
            task = bar.add_task("generating", total=sum(setting.n for setting in settings), rate="-")
            tokens = 0
            while not self._core.idle:
                for output in self._core.step():
                    outputs[output.id].append(output)
                    tokens += len(output.tokens)
                    if output.finish is not None:
                        elapsed = bar.tasks[0].elapsed or 0
                        bar.update(task, advance=1, rate=f"{tokens / elapsed:.0f}" if elapsed else "-")
        return outputs


def _is_one(prompts: Prompt | Sequence[Prompt]) -> bool:
    return isinstance(prompts, str) or (bool(prompts) and all(isinstance(token, int) for token in prompts))


def _spread(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise InvalidRequest(f"{count} prompts need one SamplingParams or {count} of them, got {len(params)}")
    return list(params)


def _completion(prompt: tuple[int, ...], n: int, outputs: Sequence[RequestOutput]) -> Completion:
    parts: list[list[RequestOutput]] = [[] for _ in range(n)]
    for output in outputs:
        parts[output.index].append(output)
    samples = []
    for part in parts:
        last = part[-1]
        if last.finish == "error":
            raise InvalidRequest(f"generation failed: {last.error}")
        logprobs = [entry for output in part for entry in output.logprobs or ()]
        samples.append(
            Sample(
                text="".join(output.text for output in part),
                tokens=tuple(token for output in part for token in output.tokens),
                finish=last.finish or "error",
                stop=last.stop,
                logprobs=tuple(logprobs) if last.logprobs is not None else None,
            )
        )
    return Completion(prompt, tuple(samples), max(output.cached_tokens for output in outputs))
