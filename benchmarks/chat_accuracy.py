"""What number formats cost in answers to chats: ``python -m benchmarks.chat_accuracy [--kv bf16 --kv int8]``.

The reference backend answers each chat greedily. Every other backend is given chat and answer; compared are its
distributions of each of the answer's tokens: mean and largest KL divergence (nats per token), and how often its most
likely token is the reference's. ``benchmarks.accuracy`` does the same over running text.
"""

import argparse
from collections.abc import Sequence
from itertools import product

import numpy as np

from benchmarks.accuracy import MODELS, cpu_ops, progress
from benchmarks.golden import FOLDER, Float64, Sequences, kl
from tenfold.core.config import KV_TYPES, WEIGHTS
from tenfold.model.chat import Message, require_template
from tenfold.model.checkpoint import Checkpoint, load_checkpoint
from tenfold.model.store import resolve
from tenfold.ops.base import Float32, Ops
from tenfold.ops.reference import ReferenceOps

QUESTIONS = (
    "What is the capital of Portugal, and what is it known for?",
    "Write a Python function that tells whether a string is a palindrome.",
    "My flight was cancelled. Write a short, polite email that asks for a refund.",
    "Explain to a ten-year-old why the sky is blue.",
    "Give me five names for a bakery that sells sourdough bread.",
    "If a train travels 120 km in 90 minutes, what is its average speed in km/h? Show your steps.",
)
SYSTEM = "You are a helpful assistant who answers in plain words."
FOLLOW_UP = "Thank you. Say the same again in two sentences."
LONG = 3000  # characters of a text to be summed up


def chats() -> list[list[Message]]:
    """Single questions, one after an earlier turn, and one about a page of text."""
    text = (FOLDER / "perplexity.txt").read_text()[:LONG]
    found: list[list[Message]] = [[{"role": "user", "content": question}] for question in QUESTIONS]
    found.append(
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": QUESTIONS[3]},
            {"role": "assistant", "content": "Sunlight holds all colours. Air scatters blue light the most."},
            {"role": "user", "content": FOLLOW_UP},
        ]
    )
    found.append([{"role": "user", "content": f"Sum up this text:\n\n{text}"}])
    return found


def prompts_of(checkpoint: Checkpoint, name: str) -> list[list[int]]:
    """The chats as the server would give them to the model."""
    template, tokenizer = require_template(checkpoint.chat_template, name), checkpoint.tokenizer()
    return [tokenizer.encode(template.render(chat), add_special=False) for chat in chats()]


def answers(reference: Ops, prompts: Sequence[list[int]], count: int, ends: Sequence[int]) -> list[Float32]:
    """Per prompt, the logits [n, vocab] that a greedy answer is chosen from, up to its end or ``count`` tokens."""
    sequences = Sequences(reference, len(prompts), max(map(len, prompts)) + count)
    steps, given = [], list(prompts)
    for number in range(count):
        progress(f"reference: token {number + 1} of {count}")
        steps.append(sequences.step(given).copy())
        given = [[int(token)] for token in steps[-1].argmax(axis=-1)]
    found = []
    for logits in np.stack(steps, axis=1):
        ended = np.flatnonzero(np.isin(logits.argmax(axis=-1), ends))
        found.append(logits[: ended[0] + 1] if len(ended) else logits)
    return found


def compare(ops: Ops, prompts: Sequence[list[int]], wanted: Sequence[Float32]) -> tuple[Float64, float]:
    """KL divergence at each token of the answers, and the share of tokens that would be the same."""
    divergence, agree = [], []
    for prompt, expected in zip(prompts, wanted, strict=True):
        text = [*prompt, *expected[:-1].argmax(axis=-1).tolist()]
        got = Sequences(ops, 1, len(text)).step([text], wanted=len(expected))
        divergence.append(kl(expected, got))
        agree.append(got.argmax(axis=-1) == expected.argmax(axis=-1))
    return np.concatenate(divergence), float(np.mean(np.concatenate(agree)))


def main() -> None:
    """Parse the command line, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat_accuracy", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--tokens", type=int, default=48, help="of each answer, at most")
    parser.add_argument("--threads", type=int, default=0, help="of the cpu backend (0: all cores)")
    parser.add_argument("--kv", action="append", choices=KV_TYPES["cpu"], help="KV types (default: all)")
    parser.add_argument("--weights", action="append", choices=WEIGHTS["cpu"], help="forms (default: auto)")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(resolve(arguments.model))
    prompts = prompts_of(checkpoint, arguments.model)
    wanted = answers(ReferenceOps(checkpoint.weights), prompts, arguments.tokens, checkpoint.eos_ids)
    rows = ["| backend | mean KL | largest | top-1 |", "|---|---|---|---|"]
    for form, kv_type in product(arguments.weights or ("auto",), arguments.kv or KV_TYPES["cpu"]):
        ops = cpu_ops(checkpoint.weights, form, kv_type, arguments.threads)
        progress(ops.describe())
        divergence, agreement = compare(ops, prompts, wanted)
        rows.append(f"| {ops.describe()} | {divergence.mean():.4f} | {divergence.max():.3f} | {agreement:.1%} |")
    progress("")
    lengths = sorted(map(len, prompts))
    answered = sum(map(len, wanted))
    print(f"{arguments.model}: {len(prompts)} chats of {lengths[0]} to {lengths[-1]} tokens, {answered} answered")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
