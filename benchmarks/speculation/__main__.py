"""Speculation beside none, and beside always four tokens: ``python -m benchmarks.speculation``.

The same requests of each kind of work, so many at a time, by three schedulers over one model in this process: ``off``,
``auto``, and ``fixed`` with four drafted tokens. They take turns of a fifth of a second, each by a clock that stands
still meanwhile, so that a slow moment of the machine meets all. All must give the same tokens. Prints, by kind and
number at a time, the medians over the rounds of the ratios to ``off``: of output tokens per second of the whole run,
and of the requests' seconds per output token (TPOT), at the median and the 95th percentile. Drafts come from each
request's own text, and from the draft model if ``--draft-model`` names one; ``--kept`` lets them come from finished
ones, too. Prompts are not shared, so that each round is as the first. Answers are of different lengths: those that
begin together do not end together, so that others' prompts slow them in all modes. Beside ``off`` stands by how much
its own 95th percentile differed from round to round.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speculation.work import KINDS, Ask, asks
from benchmarks.turns import Run, TurnClock, Wanted, take_turns
from tenfold.cache.manager import CacheManager
from tenfold.core.clock import WallClock
from tenfold.core.config import DEFAULT_MODEL, CacheConfig, EngineConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.sampling import SamplingParams
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention
from tenfold.engine.build import make_draft_model, make_ops, proposers_of
from tenfold.engine.calibration import Calibration
from tenfold.engine.core import EngineCore
from tenfold.exec.runner import ModelRunner
from tenfold.model.chat import require_template
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.sched.scheduler import Scheduler

MODES = ("off", "auto", "fixed")
FIXED = 4
BLOCK, BLOCKS = 16, 1536
AT_A_TIME = (1, 2, 4, 8, 16, 32)


class Bench:
    """One model, and a scheduler and KV memory for each mode over it."""

    def __init__(self, told: argparse.Namespace, modes: Sequence[str]) -> None:
        config = EngineConfig(model=told.model, kv_type=told.kv, draft_model=told.draft_model)
        self.checkpoint = load_checkpoint(resolve(told.model))
        ops = make_ops(config, self.checkpoint)
        self.backend, spec = ops.describe(), self.checkpoint.spec
        draft = make_draft_model(config, self.checkpoint, ops)
        runners = {mode: ModelRunner(ops, BLOCKS, BLOCK, draft_model=draft) for mode in modes}
        self._attention = Attention(spec.windows)
        cost, cache = StepCost(), CacheManager(CacheConfig(BLOCKS, BLOCK))
        calibration = Calibration(
            cache,
            runners["auto"],
            cost,
            self._attention,
            WallClock(),
            SchedulerConfig(),
            spec.max_context,
            draft_model=draft is not None,
        )
        while not calibration.done:
            calibration.step()
        self.cores, self.clocks = {}, {mode: TurnClock() for mode in modes}
        for mode in modes:
            drafts = FIXED if mode == "fixed" else told.draft_tokens
            limits = SchedulerConfig(speculation=SpeculationConfig(mode=mode, draft_tokens=drafts, kept=told.kept))
            cache = CacheManager(CacheConfig(BLOCKS, BLOCK, prefix_sharing=False))
            asks_it = draft is not None and mode == "auto"
            scheduler = Scheduler(
                limits,
                cache,
                StepCost(cost.fit),
                self._attention,
                proposers_of(limits.speculation),
                draft_model=asks_it,
            )
            self.cores[mode] = EngineCore(
                scheduler,
                cache,
                runners[mode],
                self.checkpoint.vocabulary(),
                self.clocks[mode],
                spec.max_context,
                spec.vocab,
            )

    def encoded(self, wanted: list[Ask]) -> list[Wanted]:
        """Each as a chat of one message."""
        template = require_template(self.checkpoint.chat_template, self.checkpoint.name)
        tokenizer = self.checkpoint.tokenizer()
        texts = [template.render([{"role": "user", "content": ask.text}]) for ask in wanted]
        ids = [tuple(tokenizer.encode(text, add_special=False)) for text in texts]
        params = [SamplingParams(temperature=a.temperature, seed=a.seed, max_tokens=a.tokens) for a in wanted]
        return list(zip(ids, params, strict=True))


def cell(bench: Bench, kind: str, at_a_time: int, told: argparse.Namespace) -> dict[str, Any]:
    """One kind of work, so many at a time: the medians of all rounds, by mode."""
    count = max(told.requests, min(2 * at_a_time, 32))
    wanted = bench.encoded(asks(kind, count, told.tokens, spread=0.5))
    runs: dict[str, list[Run]] = {mode: [] for mode in bench.cores}
    for turn in range(told.rounds):
        modes = [mode for mode in bench.cores if mode != "fixed" or turn < told.fixed_rounds]
        order = modes if turn % 2 == 0 else modes[::-1]
        for mode, run in take_turns(bench.cores, bench.clocks, dict.fromkeys(order, wanted), at_a_time).items():
            runs[mode].append(run)
        for mode, some in runs.items():
            if len(some) > turn and some[-1].tokens != runs["off"][-1].tokens:
                raise SystemExit(f"{kind}, {at_a_time} at a time: {mode} gives other tokens than off")
    found: dict[str, Any] = {"kind": kind, "at_a_time": at_a_time, "requests": count}
    alike = [run.tpot(0.95) for run in runs["off"]]
    found["spread"] = max(alike) / min(alike) - 1
    for mode, some in runs.items():
        pairs = list(zip(some, runs["off"], strict=False))
        drafted, accepted = (sum(getattr(line, name) for line in some[-1].lines) for name in _COUNTS)
        found[mode] = {
            "tokens_per_second": statistics.median(run.rate for run in some),
            "tpot_p50_ms": 1000 * statistics.median(run.tpot(0.5) for run in some),
            "tpot_p95_ms": 1000 * statistics.median(run.tpot(0.95) for run in some),
            "rate": statistics.median(run.rate / off.rate for run, off in pairs),
            "decode": statistics.median(run.decode / off.decode for run, off in pairs),
            "p50": statistics.median(run.tpot(0.5) / off.tpot(0.5) for run, off in pairs),
            "p95": statistics.median(run.tpot(0.95) / off.tpot(0.95) for run, off in pairs),
            "drafted": drafted,
            "accepted": accepted,
            "tokens": sum(map(len, some[-1].tokens.values())),
        }
    return found


_COUNTS = ("draft_tokens", "accepted_tokens")
_HEAD = (
    "| work | at a time | off, tok/s (spread of its TPOT p95) | auto: decode | throughput | TPOT p50 | p95 "
    "| drafted, accepted per token | always 4: throughput | TPOT p95 |"
)


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    auto, fixed, off = found["auto"], found.get("fixed"), found["off"]
    always = "| - | - |" if fixed is None else f"| {fixed['rate']:.2f} | {fixed['p95']:.2f} |"
    return (
        f"| {found['kind']} | {found['at_a_time']} | {off['tokens_per_second']:.0f} "
        f"({found['spread']:.0%}) | {auto['decode']:.2f} | "
        f"{auto['rate']:.2f} | {auto['p50']:.2f} | {auto['p95']:.2f} | {auto['drafted'] / auto['tokens']:.2f}, "
        f"{auto['accepted'] / auto['tokens']:.2f} {always}"
    )


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Throughput and p95 TPOT beside none, by load, a panel per kind of work. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(found["kind"] for found in cells))
    figure, grid = pyplot.subplots(2, len(kinds), figsize=(2.6 * len(kinds), 5.0), sharex=True, squeeze=False)
    for column, kind in enumerate(kinds):
        own = [found for found in cells if found["kind"] == kind]
        for row, (figure_name, title) in enumerate((("rate", "output tokens/s"), ("p95", "TPOT p95"))):
            axes = grid[row][column]
            axes.axhline(1.0, color="#999999", linewidth=1)
            for mode, colour, style in (("auto", "#1f5fa8", "-"), ("fixed", "#b0763a", "--")):
                some = [(found["at_a_time"], found[mode][figure_name]) for found in own if mode in found]
                words = "auto" if mode == "auto" else f"always {FIXED} tokens"
                axes.plot(*zip(*some, strict=True), style, color=colour, marker="o", markersize=3, label=words)
            axes.set_xscale("log", base=2)
            axes.set_xticks([found["at_a_time"] for found in own], [str(found["at_a_time"]) for found in own])
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title(kind, fontsize=10)
            if column == 0:
                axes.set_ylabel(f"{title}, × without", fontsize=9)
            if row == 1:
                axes.set_xlabel("requests at a time", fontsize=9)
    grid[0][0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--kv", default="bf16")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--at-a-time", default=",".join(map(str, AT_A_TIME)))
    parser.add_argument("--requests", type=int, default=8, help="of a kind in a run, at least")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer, at most, on average")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fixed-rounds", type=int, default=1, help="of those, with always four tokens, too")
    parser.add_argument("--draft-tokens", type=int, default=SpeculationConfig().draft_tokens)
    parser.add_argument("--draft-model", default="off")
    parser.add_argument("--kept", type=int, default=0, help="tokens of finished texts that drafts may come from")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    told = parser.parse_args()
    bench = Bench(told, [mode for mode in MODES if mode != "fixed" or told.fixed_rounds])
    print(f"{bench.checkpoint.name}, {bench.backend}; {told.rounds} rounds; ratios to off\n")
    print(_HEAD)
    print("|---" * 10 + "|", flush=True)
    cells = []
    for at_a_time in map(int, told.at_a_time.split(",")):
        for kind in told.kinds.split(","):
            cells.append(cell(bench, kind, at_a_time, told))
            print(line(cells[-1]), flush=True)
    if told.json is not None:
        told.json.write_text(json.dumps(cells, indent=1))
    if told.plot is not None:
        draw(cells, told.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
