"""Python's share of a decode step, measured on a running engine: the one ``tenfold serve`` runs, in its own process."""

import asyncio
import random
import statistics
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tenfold.core.clock import Clock, CpuClock
from tenfold.core.errors import ConfigError, EngineUnavailable
from tenfold.core.request import EngineInfo, EngineRequest, RequestOutput
from tenfold.core.sampling import SamplingParams
from tenfold.engine.client import EngineClient

PARTS = ("commands", "schedule", "batch", "forward", "sample", "apply", "detokenize", "report")
MEANING = {
    "commands": "taking requests and aborts from the inbox",
    "schedule": "choosing the step's tokens and their blocks",
    "batch": "the plan as flat arrays",
    "forward": "the forward pass (C++), calls from Python included",
    "sample": "logits to tokens",
    "apply": "advancing the sequences, freeing blocks",
    "detokenize": "tokens to text, stop strings, output records",
    "report": "encoding the outputs and writing them to the socket",
}
PROMPT_TOKENS = 16
OUTPUT_TOKENS = 96
_ATTEMPTS = 10  # per run wanted: sequences of a very small model may end before the last of them is there
_LOWEST_ID = 100  # below it tokenizers keep their special tokens


@dataclass(frozen=True, slots=True)
class EngineShare:
    """Seconds of one decode step of ``batch`` sequences: medians over repeats of the mean over their steps.

    ``parts`` add up to the engine loop's time; ``client`` is the CPU time the client's process spent per step
    reading, decoding and handing out the outputs, beside the loop.
    """

    batch: int
    steps: int
    parts: dict[str, float]
    client: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return sum(self.parts.values())

    @property
    def python(self) -> float:
        """The share of the step that is not the forward pass."""
        return 1.0 - self.parts["forward"] / self.seconds


async def engine_share(
    engine: EngineClient,
    info: EngineInfo,
    batch: int,
    *,
    temperature: float = 0.0,
    repeats: int = 5,
    cpu: Clock | None = None,
) -> EngineShare:
    """Decode ``batch`` sequences together, ``repeats`` times, on a started engine whose config has ``profile``.

    ``info`` is what its start gave; ``cpu`` reads this process's CPU time.

    Raises ConfigError where the engine never decodes that many at once.
    """
    cpu = cpu or CpuClock()
    kind = f"decode {batch}"
    runs: list[dict[str, float]] = []
    client: list[float] = []
    await _run(engine, _requests(info, batch, 0, temperature))  # warms up
    for attempt in range(1, 1 + repeats * _ATTEMPTS):
        before, began = await engine.stats(), cpu.now()
        await _run(engine, _requests(info, batch, attempt, temperature))
        after, spent = await engine.stats(), cpu.now() - began
        parts = _less(after.part_seconds_total.get(kind, {}), before.part_seconds_total.get(kind, {}))
        if not parts.get("steps"):
            continue
        runs.append(parts)
        client.append(spent / (after.steps_total - before.steps_total))
        if len(runs) == repeats:
            break
    if not runs:
        raise ConfigError(
            f"no step decoded {batch} sequences at once: raise --max-running and --kv-tokens, or lower --batch"
        )
    return EngineShare(
        batch=batch,
        steps=int(sum(run["steps"] for run in runs)),
        parts={part: statistics.median(run.get(part, 0.0) / run["steps"] for run in runs) for part in PARTS},
        client=statistics.median(client),
    )


def _requests(info: EngineInfo, batch: int, repeat: int, temperature: float) -> list[EngineRequest]:
    """The same for the same arguments; prompts of different repeats share nothing."""
    rng = random.Random(repeat)
    prompt = min(PROMPT_TOKENS, info.max_context // 2)
    output = min(OUTPUT_TOKENS, info.max_context - prompt)
    params = SamplingParams(temperature=temperature, max_tokens=output, ignore_eos=True, seed=repeat)
    lowest = min(_LOWEST_ID, info.vocab_size - 1)
    return [
        EngineRequest(
            id=f"profile-{batch}-{repeat}-{i}",
            prompt_ids=tuple(rng.randrange(lowest, info.vocab_size) for _ in range(prompt)),
            params=params,
            arrival=0.0,
            salt=str(repeat),
        )
        for i in range(batch)
    ]


async def _run(engine: EngineClient, requests: list[EngineRequest]) -> None:
    await asyncio.gather(*(_drain(engine.submit(request)) for request in requests))


async def _drain(outputs: AsyncIterator[RequestOutput]) -> None:
    async for output in outputs:
        if output.finish == "error":
            raise EngineUnavailable(f"a request failed: {output.error}")


def _less(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {part: value - before.get(part, 0.0) for part, value in after.items()}
