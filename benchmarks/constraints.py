"""What holding answers to a form costs, and what jump-ahead brings: ``python -m benchmarks.constraints``.

The same chats by schedulers over one model in this process, in turns of a fifth of a second as in
``benchmarks.speculation``: ``free`` (no constraint, ends ignored, each answer as long as the held one: prompts that
come in between cost all the same), ``held`` (to a JSON schema, no drafts) and ``ahead`` (with speculation). All answers
of ``held`` and ``ahead`` have to be JSON of the schema, and the same ones. Prints output tokens per second of decode (1
over the mean time per token), as ratios to ``free``; medians over the rounds.
"""

import argparse
import json
import statistics
import sys
from typing import Any

from benchmarks.turns import TurnClock, take_turns
from tenfold.cache.manager import CacheManager
from tenfold.core.clock import WallClock
from tenfold.core.config import DEFAULT_MODEL, CacheConfig, EngineConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.constraint import Constraint
from tenfold.core.sampling import SamplingParams
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention
from tenfold.engine.build import make_ops, proposers_of, spare_core
from tenfold.engine.calibration import Calibration
from tenfold.engine.core import EngineCore
from tenfold.exec.runner import ModelRunner
from tenfold.grammar.grammars import Grammars
from tenfold.model.chat import require_template
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.sched.scheduler import Scheduler

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 60},
        "author": {"type": "string", "maxLength": 40},
        "publication_year": {"type": "integer", "minimum": 1000, "maximum": 2030},
        "original_language": {"enum": ["English", "German", "French", "Spanish"]},
        "characters": {"type": "array", "items": {"type": "string", "maxLength": 24}, "minItems": 3, "maxItems": 3},
        "available_as_audiobook": {"type": "boolean"},
    },
    "additionalProperties": False,
}
SCHEMA["required"] = list(SCHEMA["properties"])
BOOKS = ("Faust", "Hamlet", "Emma", "Candide", "Don Quixote", "Dracula", "Walden", "Ulysses")
MODES = ("free", "held", "ahead")
TOKENS = 160
BLOCK, BLOCKS = 16, 1536


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--at-a-time", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="of the kernels; default: all")
    parser.add_argument("--temperature", type=float, default=0.0, help="above 0, tokens are drawn")
    told = parser.parse_args()
    checkpoint = load_checkpoint(resolve(told.model))
    ops, spec = make_ops(EngineConfig(model=told.model, threads=told.threads), checkpoint), checkpoint.spec
    grammars = Grammars(checkpoint.tokenizer, spec.vocab)
    spare = spare_core(ops)
    runners = {mode: ModelRunner(ops, BLOCKS, BLOCK, grammars=grammars, spare_core=spare) for mode in MODES}
    attention, cost = Attention(spec.windows), StepCost()
    calibration = Calibration(
        CacheManager(CacheConfig(BLOCKS, BLOCK)),
        runners["ahead"],
        cost,
        attention,
        WallClock(),
        SchedulerConfig(),
        spec.max_context,
    )
    while not calibration.done:
        calibration.step()
    cores, clocks = {}, {mode: TurnClock() for mode in MODES}
    for mode in MODES:
        limits = SchedulerConfig(speculation=SpeculationConfig(mode="auto" if mode == "ahead" else "off", kept=0))
        cache = CacheManager(CacheConfig(BLOCKS, BLOCK, prefix_sharing=False))
        proposers = proposers_of(limits.speculation, grammars)
        scheduler = Scheduler(limits, cache, StepCost(cost.fit), attention, proposers)
        cores[mode] = EngineCore(
            scheduler,
            cache,
            runners[mode],
            checkpoint.vocabulary(),
            clocks[mode],
            spec.max_context,
            spec.vocab,
            grammars=grammars,
        )
    held = SamplingParams(
        temperature=told.temperature, seed=7, max_tokens=TOKENS, constraint=Constraint("json", json.dumps(SCHEMA))
    )
    template, tokenizer = require_template(checkpoint.chat_template, checkpoint.name), checkpoint.tokenizer()
    print(f"{checkpoint.name}, {ops.describe()}; {told.rounds} rounds; decode, ratios to free\n")
    print(
        "| at a time | free, tok/s | held | ahead | drafted by the grammar, right |\n|---|---|---|---|---|", flush=True
    )
    for at_a_time in map(int, told.at_a_time.split(",")):
        count = max(8, 2 * at_a_time)
        texts = [f"{n + 1}. Describe the book {BOOKS[n % len(BOOKS)]} as a JSON object." for n in range(count)]
        prompts = [
            tuple(tokenizer.encode(template.render([{"role": "user", "content": text}]), add_special=False))
            for text in texts
        ]
        rates: dict[str, list[float]] = {mode: [] for mode in MODES}
        lengths = take_turns(cores, clocks, {"held": [(ids, held) for ids in prompts]}, at_a_time)["held"].tokens
        free = [
            SamplingParams(temperature=told.temperature, seed=7, max_tokens=len(lengths[i]), ignore_eos=True)
            for i in range(len(prompts))
        ]
        before = cores["ahead"].stats()
        for turn in range(told.rounds):
            order = MODES if turn % 2 == 0 else MODES[::-1]
            wanted = {
                mode: [(ids, held if mode != "free" else free[i]) for i, ids in enumerate(prompts)] for mode in order
            }
            runs = take_turns(cores, clocks, wanted, at_a_time)
            for mode, run in runs.items():
                rates[mode].append(run.decode)
            if runs["held"].tokens != runs["ahead"].tokens:
                raise SystemExit(f"{at_a_time} at a time: other answers with drafts than without")
            for ids in runs["held"].tokens.values():
                if len(ids) < TOKENS:
                    found = json.loads(tokenizer.decode(ids))
                    assert set(found) == set(SCHEMA["properties"]), found
        after = cores["ahead"].stats()
        drafted, right = (
            after_.get("grammar", 0) - before_.get("grammar", 0)
            for after_, before_ in (
                (after.draft_tokens_total, before.draft_tokens_total),
                (after.accepted_tokens_total, before.accepted_tokens_total),
            )
        )
        ratio_held, ratio_ahead = (
            statistics.median(a / b for a, b in zip(rates[mode], rates["free"], strict=True)) for mode in MODES[1:]
        )
        rate = statistics.median(rates["free"])
        print(f"| {at_a_time} | {rate:.0f} | {ratio_held:.3f} | {ratio_ahead:.3f} | {drafted}, {right} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
