"""Prefill and decode measured apart, on an engine in this process."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.record import Record
from tenfold.core.errors import EngineUnavailable

if TYPE_CHECKING:
    from rich.table import Table

PREFILL_TOKENS = (128, 512, 2048)
DECODE_BATCHES = (1, 4, 16, 32)
PROMPT_TOKENS = 16
OUTPUT_TOKENS = 64
REPEATS = 3
_LOWEST_ID = 100  # below it tokenizers keep their special tokens


@dataclass(frozen=True, slots=True)
class Phase:
    """``size`` is prompt tokens for prefill, sequences for decode; ``rate`` in tokens per second, best of repeats."""

    name: str
    size: int
    rate: float


async def run_phases(target: EngineTarget, seed: int, on_phase: Callable[[Phase], None]) -> list[Phase]:
    """Measure each phase on a started target; sizes that do not fit its context are left out."""
    rng = random.Random(seed)
    vocab, context = target.info.vocab_size, target.info.max_context

    def prompt(tokens: int) -> tuple[int, ...]:
        return tuple(rng.randrange(min(_LOWEST_ID, vocab - 1), vocab) for _ in range(tokens))

    phases: list[Phase] = []

    def add(phase: Phase) -> None:
        phases.append(phase)
        on_phase(phase)

    for size in PREFILL_TOKENS:
        if size < context:
            runs = [await _ask(target, [prompt(size)], 1) for _ in range(REPEATS)]
            add(Phase("prefill", size, max(size / (run[0].ttft or float("inf")) for run in runs)))
    for size in DECODE_BATCHES:
        runs = [await _ask(target, [prompt(PROMPT_TOKENS) for _ in range(size)], OUTPUT_TOKENS) for _ in range(REPEATS)]
        add(Phase("decode", size, max(map(decode_rate, runs))))
    return phases


def decode_rate(records: list[Record]) -> float:
    """Tokens per second while all the records' sequences decode: from the last first token to the first last one."""
    begin = max(record.first or 0.0 for record in records)
    end = min(record.last or 0.0 for record in records)
    tokens = 0
    for record in records:
        at = record.first or 0.0
        for gap in record.gaps:
            at += gap
            tokens += begin < at <= end
    return tokens / (end - begin) if end > begin else 0.0


async def _ask(target: EngineTarget, prompts: list[tuple[int, ...]], output_tokens: int) -> list[Record]:
    records = await asyncio.gather(*(target.ask_ids(ids, output_tokens, kind="phase") for ids in prompts))
    for record in records:
        if record.error is not None:
            raise EngineUnavailable(f"a request failed: {record.error}")
    return records


def as_json(phases: list[Phase]) -> dict[str, Any]:
    """``{"prefill_tok_s": {size: rate}, "decode_tok_s": {batch: rate}}``."""
    return {
        f"{name}_tok_s": {str(phase.size): round(phase.rate, 1) for phase in phases if phase.name == name}
        for name in ("prefill", "decode")
    }


def table(phases: list[Phase], target: str) -> "Table":
    """The phases for a terminal."""
    from rich.table import Table

    shown = Table(title=f"phases apart, best of {REPEATS}\n{target}")
    for name in ("phase", "size", "tok/s"):
        shown.add_column(name, justify="left" if name == "phase" else "right")
    for phase in phases:
        unit = "tokens" if phase.name == "prefill" else "sequences"
        shown.add_row(phase.name, f"{phase.size} {unit}", f"{phase.rate:,.0f}")
    return shown
