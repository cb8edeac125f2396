"""Distil the draft model of smollm2-135m: ``python scripts/distill.py``; needs torch and safetensors.

The target answers prompts made here and tells its 20 best log-probabilities at every position; a Llama of two layers
learns them, over the target's own embedding and, as its head, the embedding's rows of the 8,192 tokens that came most
often. The file holds the layers, the last norm and ``draft_vocab``. Answers are kept beside it: another run with other
settings begins with them.
"""

import argparse
import dataclasses
import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.clock import WallClock
from tenfold.core.config import EngineConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.request import EngineRequest, RequestOutput
from tenfold.core.sampling import MAX_LOGPROBS, SamplingParams, uniform
from tenfold.engine.build import Engine, build_engine, draft_path
from tenfold.model.checkpoint import Checkpoint, load_checkpoint
from tenfold.model.gguf_file import open_gguf
from tenfold.model.store import resolve
from tenfold.ops.spec import ModelSpec

try:
    import torch
    from safetensors.torch import save_file
except ModuleNotFoundError:  # the rest can be imported and tested without; main() tells
    torch = None  # type: ignore[assignment]

TARGET = "smollm2-135m"
FORMAT = "tenfold-draft-1"
VOCABULARY = 8192
CONTEXT = 1024
TOGETHER = 64  # sequences that the target answers at a time
LONGEST_STEP = 15.0  # seconds; beyond that the process was paused
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}  # Hugging Face's names and ours


# Prompts


@dataclass(frozen=True, slots=True)
class Corpus:
    """What prompts are made of; ``{}`` in a template is a topic, ``{code}`` a task, ``{text}`` a few sentences."""

    topics: tuple[str, ...]
    tasks: tuple[str, ...]
    templates: tuple[str, ...]
    openings: tuple[str, ...]
    systems: tuple[str, ...]
    followups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation, or a text to continue, and how to answer it."""

    messages: tuple[tuple[str, str], ...]  # role and text; one without a role is continued as it is
    temperature: float
    max_tokens: int
    seed: int


def _items(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


TRAINING = Corpus(
    topics=_items(
        "photosynthesis|the water cycle|volcanoes|earthquakes|the moon|black holes|gravity|magnets|electric cars|"
        "solar panels|wind turbines|nuclear power|batteries|bridges|railways|airplanes|sailing ships|submarines|"
        "bicycles|the printing press|the steam engine|the telephone|radio|computers|the internet|search engines|"
        "databases|operating systems|programming languages|machine learning|neural networks|robots|cryptography|"
        "passwords|open source software|video games|chess|football|tennis|swimming|running a marathon|yoga|"
        "meditation|sleep|healthy breakfasts|vegetables|bread baking|coffee|tea|chocolate|cheese|pasta|soup|street "
        "food|cooking for two|gardening|roses|oak trees|mushrooms|bees|ants|butterflies|spiders|frogs|snakes|sharks|"
        "whales|dolphins|penguins|owls|eagles|horses|dogs|cats|elephants|wolves|dinosaurs|fossils|rain forests|"
        "deserts|glaciers|coral reefs|rivers|recycling|climate change|air pollution|city parks|public libraries|"
        "museums|schools|homework|learning a language|reading books|poetry|fairy tales|detective novels|science "
        "fiction|theatre|painting|photography|sculpture|architecture|jazz|classical music|guitars|the piano|dancing|"
        "film making|ancient Egypt|ancient Rome|the Vikings|the Silk Road|the Renaissance|the French Revolution|the "
        "Industrial Revolution|the space race|democracy|elections|taxes|inflation|saving money|the stock market|"
        "small businesses|marketing|job interviews|remote work|meetings|time management|teamwork|leadership|"
        "friendship|kindness|honesty|courage|patience|travelling by train|camping|mountain hiking|the beach|winter|"
        "spring|thunderstorms|rainbows|the stars|maps|clocks|calendars|mathematics|fractions|prime numbers|"
        "probability|geometry|the human heart|the brain|vaccines|antibiotics|teeth|eyesight|first aid|exercise|"
        "stress|vitamins|birthdays|weddings|moving to a new city|renting a flat|a broken laptop|a lost suitcase|a "
        "late parcel|a noisy neighbour|a school trip|a charity run|a new restaurant|a used car"
    ),
    tasks=_items(
        "reverses a string|checks whether a word is a palindrome|computes the factorial of a number|returns the n-th "
        "Fibonacci number|sorts a list of numbers with bubble sort|sorts a list with merge sort|searches a sorted "
        "list by bisection|counts the words of a text|counts the vowels of a string|finds the largest number of a "
        "list|removes duplicates from a list|merges two dictionaries|reads a CSV file and prints its rows|writes a "
        "list of lines to a file|converts Celsius to Fahrenheit|checks whether a number is prime|lists all primes "
        "below n|computes the greatest common divisor|flattens a nested list|groups words by their first letter|"
        "parses a date string|downloads a web page|validates an email address|generates a random password|rolls two "
        "dice|plays rock, paper, scissors|transposes a matrix|multiplies two matrices|computes the mean and the "
        "median|inverts a dictionary|implements a stack|implements a queue with two stacks|walks a binary tree|"
        "measures how long a function takes|retries a function three times|splits a list into chunks|formats a "
        "number with commas|converts a number to Roman numerals|finds the longest word|encodes a string with a "
        "Caesar cipher"
    ),
    templates=(
        "Explain {} in simple words.",
        "Explain {} to a ten year old child.",
        "What is the most important thing to know about {}?",
        "Write a short story about {}.",
        "Write a story about a girl who learns something about {}.",
        "Write a poem about {}.",
        "Write a letter to a friend about {}.",
        "Write a polite email to a customer about {}.",
        "Write an email to my boss about {}.",
        "List ten facts about {}.",
        "Give me five tips on {}.",
        "List the advantages and disadvantages of {}.",
        "What are common misunderstandings about {}?",
        "Why do people care about {}?",
        "How did {} change over time?",
        "Compare {} and {}.",
        "What do {} and {} have in common?",
        "Describe {} in one paragraph.",
        "Write an introduction for an essay about {}.",
        "Write a dialogue between a teacher and a student about {}.",
        "Write a conversation between two friends about {}.",
        "Make a quiz of five questions with answers about {}.",
        "Answer three frequently asked questions about {}.",
        "Write a JSON object that describes {}.",
        "Return a JSON array of five objects with the keys name and description about {}.",
        "Make a table of facts about {} in Markdown.",
        "Plan a lesson about {}, step by step.",
        "Give step by step instructions for a beginner in {}.",
        "Write a product description for something to do with {}.",
        "Write a news article about {}.",
        "Who are famous people to do with {}?",
        "Tell me something surprising about {}.",
        "Write a speech about {}.",
        "I know nothing about {}. Where should I begin?",
        "Write a Python function that {code}.",
        "Write Python code that {code}, with comments.",
        "Write a Python program that {code} and explain how it works.",
        "How do I write a function in Python that {code}? Add a test.",
        "Write a class in Python that {code}.",
        "Write a JavaScript function that {code}.",
        "Summarize this text in one sentence: {text}",
        "Summarize the following text.\n\n{text}",
        "Rewrite this text so that it is more formal.\n\n{text}",
        "Correct and improve this text: {text}",
        "Make a list of the key points of this text: {text}",
        "Read this text and answer the question after it.\n\n{text}\n\nQuestion: What is it about, and who is named?",
        "Turn this into a JSON object: {text}",
        "Continue this text: {text}",
    ),
    openings=(
        "Once upon a time, there was a {topic_word}",
        "The history of {} begins",
        "The best way to learn about {} is",
        "{} is one of the",
        "Today we talk about {}. First,",
        "Dear Sir or Madam,\n\nI write to you because of {}.",
        "Chapter 1: {}\n\n",
        "Question: What is special about {}?\nAnswer:",
        "# {}\n\n## Introduction\n\n",
        "def main():\n    # a program about {}\n",
        "In a small town near the sea, people talked about {}.",
        "Ten things to know about {}:\n\n1.",
    ),
    systems=(
        "You are a helpful assistant.",
        "You answer briefly and clearly.",
        "You are a patient teacher.",
        "You are an expert programmer.",
        "You are a friendly customer support agent.",
        "You are a writer of stories for children.",
    ),
    followups=(
        "Tell me more about {}.",
        "Can you give an example?",
        "Why is that?",
        "And what about {}?",
        "Thank you! How would you explain it to a child?",
        "Make a short list of it.",
    ),
)
HELD_OUT = Corpus(
    topics=_items(
        "lighthouses|honey|the kidneys|comets|knitting|the Aztecs|elevators|bamboo|the violin|traffic lights|"
        "jellyfish|minimum wage|origami|hot air balloons|rice farming|the periodic table|a delayed flight|umbrellas|"
        "folk songs|beavers|insurance|the Great Wall of China|microscopes|pizza|kites"
    ),
    tasks=_items(
        "rotates a list by k places|finds all anagrams in a list of words|converts a number to binary|counts how "
        "often each letter occurs|computes compound interest|checks balanced brackets|shuffles a deck of cards|"
        "removes punctuation from a text"
    ),
    templates=(
        "How does one get started with {}?",
        "What would the world be like without {}?",
        "Please describe how {} works or works out.",
        "Tell a bedtime story in which {} plays a part.",
        "Draft a message to my landlord that mentions {}.",
        "Name seven things that have to do with {} and say why.",
        "Interview an expert on {}: questions and answers.",
        "What is the difference between {} and {}?",
        "Create a JSON document with three entries about {}.",
        "Implement in Python: something that {code}.",
        "Show me a short Python script that {code}.",
        "Shorten this: {text}",
        "What does this text say? {text}",
    ),
    openings=("People often forget that {}", "My grandmother told me about {}.", "Lecture notes on {}\n\n1."),
    systems=("You are a concise and careful assistant.",),
    followups=("Go on.", "Could you say that in other words?"),
)
_NAMES = _items("Anna|Tom|Maria|David|Leila|Kenji|Sofia|Omar|Grace|Peter|Ines|Ravi")
_PLACES = _items("Lisbon|Oslo|Nairobi|Boston|Kyoto|a small village|Prague|Lima|Dublin|the harbour|Vienna|Chicago")
_SENTENCES = (
    "{name} has worked on {topic} in {place} for {number} years.",
    "Last {day}, more than {number} people came to {place} to hear about {topic}.",
    "The event costs {number} dollars and starts at {hour} o'clock.",
    "{name} said that {topic} had never been so important.",
    "Not everybody agrees: some think that {other} matters more.",
    "A report of {number} pages, published in {year}, looks at what changed since.",
    "The team plans to open a second office in {place} next year.",
    "It rained all day, but nobody seemed to mind.",
    "In the end, {name} and {friend} decided to try it again on {day}.",
    "The first attempt failed because there was not enough money for {other}.",
)


def prompts(corpus: Corpus, seed: int) -> Iterator[Prompt]:
    """Prompts without end, always the same for a seed; every second is to be answered greedily."""
    rng = random.Random(seed)
    for index in itertools.count():
        warm = 0.7 if corpus is HELD_OUT else round(rng.uniform(0.7, 1.0), 2)
        messages = tuple(_messages(corpus, rng))
        yield Prompt(messages, warm if index % 2 else 0.0, rng.randint(100, 250), seed * 1_000_003 + index)


def _messages(corpus: Corpus, rng: random.Random) -> Iterator[tuple[str, str]]:
    kind = rng.random()
    topic = rng.choice(corpus.topics)
    if kind < 0.1:
        opening = rng.choice(corpus.openings)
        yield "", opening.replace("{topic_word}", topic.split()[-1]).replace("{}", topic)
        return
    if kind < 0.35:
        yield "system", rng.choice(corpus.systems)
    if 0.25 < kind < 0.4:
        yield "user", _filled(rng.choice(corpus.templates), corpus, rng, topic)
        yield "assistant", _text(corpus, rng, topic)
        yield "user", rng.choice(corpus.followups).replace("{}", rng.choice(corpus.topics))
        return
    yield "user", _filled(rng.choice(corpus.templates), corpus, rng, topic)


def _filled(template: str, corpus: Corpus, rng: random.Random, topic: str) -> str:
    text = template.replace("{}", topic, 1).replace("{}", rng.choice(corpus.topics))
    return text.replace("{code}", rng.choice(corpus.tasks)).replace("{text}", _text(corpus, rng, topic))


def _text(corpus: Corpus, rng: random.Random, topic: str) -> str:
    """Three to five sentences."""
    name, friend = rng.sample(_NAMES, 2)
    return " ".join(
        sentence.format(
            name=name,
            friend=friend,
            topic=topic,
            other=rng.choice(corpus.topics),
            place=rng.choice(_PLACES),
            number=rng.randint(3, 400),
            year=rng.randint(1950, 2024),
            hour=rng.randint(1, 12),
            day=rng.choice(("Monday", "Wednesday", "Friday", "Sunday")),
        )
        for sentence in rng.sample(_SENTENCES, rng.randint(3, 5))
    )


# Answers


@dataclass(frozen=True, slots=True)
class Answer:
    """``tokens`` [n] after ``prompt``, and at each the target's best: ``top`` and ``logprobs`` [n, 20]."""

    prompt: NDArray[np.int32]
    tokens: NDArray[np.int32]
    top: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    temperature: float
    seed: int


def collect(path: Path, corpus: Corpus, seed: int, tokens: int) -> list[Answer]:
    """The target's answers to the first prompts, to at least so many tokens: from ``path`` and, what is missing there,
    generated and added.
    """
    known = load_answers(path) if path.is_file() else []
    have = sum(len(answer.tokens) for answer in known)
    if have < tokens:
        scheduler = SchedulerConfig(max_running=TOGETHER, speculation=SpeculationConfig(mode="off"))
        engine = build_engine(EngineConfig(model=TARGET, max_context=CONTEXT, scheduler=scheduler))
        known += generate(engine, itertools.islice(prompts(corpus, seed), len(known), None), tokens - have)
        save_answers(path, known)
    ends = np.cumsum([len(answer.tokens) for answer in known])
    return known[: int(np.searchsorted(ends, tokens)) + 1]


def generate(engine: Engine, wanted: Iterator[Prompt], tokens: int) -> list[Answer]:
    """Answers to the first of ``wanted``, until they hold so many tokens."""
    running: dict[str, tuple[int, Prompt, tuple[int, ...], list[RequestOutput]]] = {}
    done: dict[int, Answer] = {}
    have, told, started, clock, count = 0, 0, time.monotonic(), WallClock(), 0
    while have < tokens or running:
        while have < tokens and len(running) < TOGETHER + 8:
            prompt = next(wanted)
            ids = _encoded(engine, prompt)
            params = SamplingParams(
                temperature=prompt.temperature, max_tokens=prompt.max_tokens, seed=prompt.seed, logprobs=MAX_LOGPROBS
            )
            engine.core.submit(EngineRequest(id=str(count), prompt_ids=ids, params=params, arrival=clock.now()))
            running[str(count)] = (count, prompt, ids, [])
            count += 1
        for output in engine.core.step():
            index, prompt, ids, outputs = running[output.id]
            outputs.append(output)
            if output.finish in ("stop", "length"):
                done[index] = _answer(prompt, ids, outputs)
                have += len(done[index].tokens)
                del running[output.id]
            elif output.finish is not None:
                raise SystemExit(f"the target failed: {output.error or output.finish}")
        if have - told >= 20_000:
            told = have
            print(f"  {have:,} of {tokens:,} tokens, {have / (time.monotonic() - started):.0f}/s", flush=True)
    return [done[index] for index in range(count)]


def _encoded(engine: Engine, prompt: Prompt) -> tuple[int, ...]:
    tokenizer, template = engine.checkpoint.tokenizer(), engine.checkpoint.chat_template
    role, text = prompt.messages[0]
    if not role:
        return tuple(tokenizer.encode(text, add_special=True))
    assert template is not None, "the target is a chat model"
    messages = [{"role": role, "content": text} for role, text in prompt.messages]
    return tuple(tokenizer.encode(template.render(messages), add_special=False))


def _answer(prompt: Prompt, ids: tuple[int, ...], outputs: Sequence[RequestOutput]) -> Answer:
    known = [entry for output in outputs for entry in output.logprobs or ()]
    tokens = [token for output in outputs for token in output.tokens]
    assert len(known) == len(tokens), "a position without logprobs"
    return Answer(
        np.array(ids, np.int32),
        np.array(tokens, np.int32),
        np.array([[best.token for best in entry.top] for entry in known], np.int32),
        np.array([[best.logprob for best in entry.top] for entry in known], np.float32),
        prompt.temperature,
        prompt.seed,
    )


def save_answers(path: Path, answers: Sequence[Answer]) -> None:
    """All in one file, end to end."""
    np.savez(
        path,
        prompts=np.concatenate([answer.prompt for answer in answers]),
        prompt_lengths=np.array([len(answer.prompt) for answer in answers]),
        tokens=np.concatenate([answer.tokens for answer in answers]),
        lengths=np.array([len(answer.tokens) for answer in answers]),
        top=np.concatenate([answer.top for answer in answers]),
        logprobs=np.concatenate([answer.logprobs for answer in answers]).astype(np.float16),
        temperatures=np.array([answer.temperature for answer in answers]),
        seeds=np.array([answer.seed for answer in answers]),
    )


def load_answers(path: Path) -> list[Answer]:
    """What ``save_answers`` wrote."""
    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    heads = np.split(stored["prompts"], np.cumsum(stored["prompt_lengths"])[:-1])
    cuts = np.cumsum(stored["lengths"])[:-1]
    parts = [np.split(stored[name], cuts) for name in ("tokens", "top", "logprobs")]
    return [
        Answer(head, tokens, top, logprobs.astype(np.float32), float(temperature), int(seed))
        for head, tokens, top, logprobs, temperature, seed in zip(
            heads, *parts, stored["temperatures"], stored["seeds"], strict=True
        )
    ]


def draft_vocabulary(answers: Sequence[Answer], always: Sequence[int], vocab: int, size: int) -> NDArray[np.int32]:
    """The ``size`` tokens that the target most expects and most says, ascending; ``always`` among them."""
    weight = np.zeros(vocab)
    for answer in answers:
        np.add.at(weight, answer.tokens, 1.0)
        np.add.at(weight, answer.top, np.exp(answer.logprobs))
    weight[list(always)] = np.inf
    return np.sort(np.argsort(-weight, kind="stable")[:size]).astype(np.int32)


# The draft


class Draft:
    """A Llama of few layers: ``parameters`` under Hugging Face's names, ``embed`` and ``head`` of the target's."""

    def __init__(self, checkpoint: Checkpoint, layers: Sequence[int], vocabulary: NDArray[np.int32]) -> None:
        spec, weights = checkpoint.spec, checkpoint.weights
        self.spec = dataclasses.replace(spec, layers=len(layers))
        self.vocabulary = vocabulary
        self.embed = torch.from_numpy(weights["embed"].decode().copy())
        self.head = self.embed[torch.from_numpy(vocabulary).long()].contiguous()
        self.parameters = {
            f"model.layers.{index}.{name}.weight": torch.from_numpy(weights[f"layers.{layer}.{part}"].decode().copy())
            for index, layer in enumerate(layers)
            for name, part in PARTS.items()
        }
        # Of what so few layers give the target's own norm would make far too certain predictions.
        self.parameters["model.norm.weight"] = torch.from_numpy(weights["norm"].decode() * np.float32(0.25))
        for name, tensor in self.parameters.items():
            self.parameters[name] = tensor.requires_grad_()
        angles = torch.outer(torch.arange(CONTEXT).float(), torch.tensor(spec.rope.inv_freq))
        self._cos, self._sin = (torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))

    def hidden(self, ids: "torch.Tensor") -> "torch.Tensor":
        """[B, T] token ids to [B, T, hidden], normed: what the head multiplies."""
        x = self.embed[ids]
        for index in range(self.spec.layers):
            x = x + self._attention(index, self._norm(x, f"layers.{index}.input_layernorm"))
            x = x + self._mlp(index, self._norm(x, f"layers.{index}.post_attention_layernorm"))
        return self._norm(x, "norm")

    def logits(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """[N, hidden] to [N, draft vocabulary]."""
        return hidden @ self.head.T

    def _norm(self, x: "torch.Tensor", name: str) -> "torch.Tensor":
        return torch.nn.functional.rms_norm(
            x, x.shape[-1:], self.parameters[f"model.{name}.weight"], self.spec.norm_eps
        )

    def _linear(self, x: "torch.Tensor", index: int, name: str) -> "torch.Tensor":
        return torch.nn.functional.linear(x, self.parameters[f"model.layers.{index}.{name}.weight"])

    def _attention(self, index: int, x: "torch.Tensor") -> "torch.Tensor":
        batch, length, _ = x.shape
        q, k, v = (
            self._linear(x, index, f"self_attn.{name}_proj").view(batch, length, -1, self.spec.head_dim).transpose(1, 2)
            for name in "qkv"
        )
        q, k = self._rotated(q), self._rotated(k)
        shared = self.spec.heads // self.spec.kv_heads
        k, v = (part.repeat_interleave(shared, dim=1) for part in (k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.spec.query_scale)
        return self._linear(out.transpose(1, 2).reshape(batch, length, -1), index, "self_attn.o_proj")

    def _rotated(self, x: "torch.Tensor") -> "torch.Tensor":
        first, second = x.chunk(2, dim=-1)
        length = x.shape[2]
        return x * self._cos[:length] + torch.cat([-second, first], dim=-1) * self._sin[:length]

    def _mlp(self, index: int, x: "torch.Tensor") -> "torch.Tensor":
        gate = torch.nn.functional.silu(self._linear(x, index, "mlp.gate_proj"))
        return self._linear(gate * self._linear(x, index, "mlp.up_proj"), index, "mlp.down_proj")


@dataclass(frozen=True, slots=True)
class Batch:
    """``ids`` [B, T], padded at the end; ``at`` [N]: flat positions in front of an answer's token, and of each what
    comes: ``hard`` [N] and ``soft`` [N, 20] with ``weight`` [N, 20], rows of the head, -1 and 0 where it has none.
    """

    ids: "torch.Tensor"
    at: "torch.Tensor"
    hard: "torch.Tensor"
    soft: "torch.Tensor"
    weight: "torch.Tensor"


def batch_of(answers: Sequence[Answer], rows: NDArray[np.int64]) -> Batch:
    """``rows`` [vocab] gives a token's row of the head, or -1."""
    length = max(len(answer.prompt) + len(answer.tokens) for answer in answers)
    ids = np.zeros((len(answers), length), np.int64)
    at = []
    for index, answer in enumerate(answers):
        start, end = len(answer.prompt), len(answer.prompt) + len(answer.tokens)
        ids[index, :start], ids[index, start:end] = answer.prompt, answer.tokens
        at.append(index * length + np.arange(start - 1, end - 1))
    soft = rows[np.concatenate([answer.top for answer in answers])]
    weight = np.exp(np.concatenate([answer.logprobs for answer in answers])) * (soft >= 0)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    hard = rows[np.concatenate([answer.tokens for answer in answers])]
    arrays = (ids, np.concatenate(at), hard, soft, weight.astype(np.float32))
    return Batch(*(torch.from_numpy(array) for array in arrays))


def batches(answers: Sequence[Answer], tokens: int, rng: random.Random) -> list[list[Answer]]:
    """All answers, those of like length together, up to so many tokens with padding; in random order."""
    jittered = sorted(answers, key=lambda answer: (len(answer.prompt) + len(answer.tokens)) * rng.uniform(0.95, 1.05))
    out: list[list[Answer]] = []
    longest = 0
    for answer in jittered:
        longest = max(longest, len(answer.prompt) + len(answer.tokens))
        if out and longest * (len(out[-1]) + 1) <= tokens:
            out[-1].append(answer)
        else:
            out.append([answer])
            longest = len(answer.prompt) + len(answer.tokens)
    rng.shuffle(out)
    return out


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: ``rate`` falls to zero after ``epochs`` or ``minutes``, whichever is sooner."""

    layers: tuple[int, ...] = (0, 1)
    epochs: float = 2.0
    minutes: float = 16.0
    rate: float = 2e-3
    batch_tokens: int = 2048
    hard: float = 0.2  # share of the token that came in what is to be predicted
    warmup: float = 0.03
    decay: float = 0.01
    bf16: bool = False


def train(draft: Draft, answers: Sequence[Answer], recipe: Recipe, seed: int) -> None:
    """Change ``draft`` so that it predicts ``answers``."""
    rng = random.Random(seed)
    rows = head_rows(draft)
    plan = [batch for _ in range(math.ceil(recipe.epochs)) for batch in batches(answers, recipe.batch_tokens, rng)]
    plan = plan[: round(len(plan) * recipe.epochs / math.ceil(recipe.epochs))]
    matrices = [tensor for tensor in draft.parameters.values() if tensor.ndim == 2]
    vectors = [tensor for tensor in draft.parameters.values() if tensor.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95), fused=True)
    spent, loss_sum, seen, positions = 0.0, 0.0, 0, 0
    for step, part in enumerate(plan):
        began = time.monotonic()
        done = max(step / len(plan), spent / (recipe.minutes * 60))
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1.0, done / recipe.warmup + 0.02) * 0.5 * (1 + math.cos(math.pi * done))
        batch = batch_of(part, rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            loss = loss_of(draft, batch, recipe.hard)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*matrices, *vectors], 1.0)
        optimizer.step()
        loss_sum, seen, positions = loss_sum + loss.item(), seen + 1, positions + len(batch.at)
        spent += min(time.monotonic() - began, LONGEST_STEP)
        if seen == 50:
            rate = positions / spent
            print(
                f"  {done:4.0%}  step {step + 1} of {len(plan)}  loss {loss_sum / seen:.3f}  {rate:.0f}/s", flush=True
            )
            loss_sum, seen = 0.0, 0


def loss_of(draft: Draft, batch: Batch, hard: float) -> "torch.Tensor":
    """Cross-entropy with what the target expects, and with what came, where the head has that."""
    hidden = draft.hidden(batch.ids)
    logits = draft.logits(hidden.flatten(0, 1)[batch.at]).float()
    log_sum = logits.logsumexp(dim=-1)
    weight = batch.weight.sum(dim=-1)
    soft = log_sum * weight - (logits.gather(1, batch.soft.clamp(min=0)) * batch.weight).sum(dim=-1)
    known = (batch.hard >= 0).float()
    came = (log_sum - logits.gather(1, batch.hard.clamp(min=0)[:, None])[:, 0]) * known
    return ((1 - hard) * soft + hard * came).mean()


def head_rows(draft: Draft) -> NDArray[np.int64]:
    """[vocab]: a token's row of the draft's head, or -1."""
    rows = np.full(draft.spec.vocab, -1, np.int64)
    rows[draft.vocabulary] = np.arange(len(draft.vocabulary))
    return rows


# What it is worth


def accepted(hits: Sequence[bool], most: int) -> list[int]:
    """Tokens that hold of each draft of up to ``most``, where one begins after the token that follows the last one."""
    out, at = [], 0
    while at < len(hits):
        run = 0
        while run < most and at + run < len(hits) and hits[at + run]:
            run += 1
        out.append(run)
        at += run + 1
    return out


def drawn(draft: Draft, answer: Answer) -> tuple[NDArray[np.int32], float]:
    """What the draft would have said at each of ``answer``'s positions, by the same draws as the target; and the share
    of tokens that could be the same under the best coupling of draws there is.
    """
    with torch.inference_mode():
        batch = batch_of([answer], head_rows(draft))
        logits = draft.logits(draft.hidden(batch.ids).flatten(0, 1)[batch.at]).double().numpy()
    if answer.temperature == 0.0:
        best = draft.vocabulary[logits.argmax(axis=1)]
        return best, float((best == answer.tokens).mean())
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)) / answer.temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    sums = np.cumsum(weights, axis=1)
    at = [uniform(answer.seed, position) for position in range(len(answer.tokens))]
    picks = [min(int(np.searchsorted(row, u, side="right")), len(row) - 1) for row, u in zip(sums, at, strict=True)]
    target = np.exp(answer.logprobs.astype(np.float64) / answer.temperature)
    target /= target.sum(axis=1, keepdims=True)  # beyond the 20 best there is next to nothing at 0.7
    rows = batch.soft.numpy()
    same = np.minimum(target, np.take_along_axis(weights, np.maximum(rows, 0), axis=1) * (rows >= 0))
    return draft.vocabulary[np.array(picks)], float(same.sum(axis=1).mean())


def report(draft: Draft, answers: Sequence[Answer]) -> None:
    """Print how often the draft is right, on answers that it was not trained on."""
    for greedy in (True, False):
        part = [answer for answer in answers if (answer.temperature == 0.0) == greedy]
        results = [drawn(draft, answer) for answer in part]
        hits = [result[0] == answer.tokens for result, answer in zip(results, part, strict=True)]
        share = np.concatenate(hits).mean()
        lengths = (np.mean([run for hit in hits for run in accepted(hit.tolist(), most)]) for most in (1, 2, 3, 4))
        inside = np.isin(np.concatenate([answer.tokens for answer in part]), draft.vocabulary).mean()
        print(
            f"{'greedy' if greedy else 'temperature 0.7'}: {share:.1%} the same, accepted of 1, 2, 3, 4: "
            f"{', '.join(f'{length:.2f}' for length in lengths)}; {inside:.1%} in the draft's vocabulary"
        )
        if not greedy:
            sizes = [len(answer.tokens) for answer in part]
            print(f"  the best coupling would give {np.average([result[1] for result in results], weights=sizes):.1%}")


def save(path: Path, draft: Draft, target: Path, seed: int, tokens: int, recipe: Recipe) -> None:
    """The file that the engine reads."""
    spec: ModelSpec = draft.spec
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in draft.parameters.items()}
    tensors["draft_vocab"] = torch.from_numpy(draft.vocabulary)
    metadata = {
        "format": FORMAT,
        "target": TARGET,
        "layers": spec.layers,
        "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.ffn,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": open_gguf(target).metadata["llama.rope.freq_base"],
        "seed": seed,
        "tokens": tokens,
        "recipe": f"the target's answers and 20 best logprobs; {recipe}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={name: str(value) for name, value in metadata.items()})
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Generate, train, measure, save."""
    parser = argparse.ArgumentParser(description="Distil the draft model of smollm2-135m.")
    parser.add_argument("--out", type=Path, help="the file to write; default: where the engine looks for it")
    parser.add_argument("--tokens", type=int, default=480_000, help="of answers to train on")
    parser.add_argument("--minutes", type=float, default=Recipe().minutes, help="of training, at most")
    parser.add_argument("--epochs", type=float, default=Recipe().epochs, help="over the answers, at most")
    parser.add_argument("--rate", type=float, default=Recipe().rate, help="the highest learning rate")
    parser.add_argument("--layers", default="0,1", help="of the target, that the draft's begin as")
    parser.add_argument("--answers", type=Path, help="where answers are kept; default: beside --out")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if torch is None:
        raise SystemExit("torch and safetensors are needed to train: pip install torch safetensors")
    torch.manual_seed(options.seed)
    target = resolve(TARGET)
    checkpoint = load_checkpoint(target)
    out: Path = options.out or draft_path(checkpoint.name)
    started = time.monotonic()
    folder = options.answers or out.parent
    folder.mkdir(parents=True, exist_ok=True)
    print("generating")
    held_out = collect(folder / f"held-out-{options.seed}.npz", HELD_OUT, options.seed, 20_000)
    answers = collect(folder / f"answers-{options.seed}.npz", TRAINING, options.seed, options.tokens)
    tokens = sum(len(answer.tokens) for answer in answers)
    print(f"{len(answers):,} answers, {tokens:,} tokens after {time.monotonic() - started:.0f} s; training", flush=True)
    layers = tuple(int(layer) for layer in options.layers.split(","))
    recipe = Recipe(layers=layers, epochs=options.epochs, minutes=options.minutes, rate=options.rate)
    vocabulary = draft_vocabulary(answers, checkpoint.eos_ids, checkpoint.spec.vocab, VOCABULARY)
    draft = Draft(checkpoint, layers, vocabulary)
    train(draft, answers, recipe, options.seed)
    save(out, draft, target, options.seed, tokens, recipe)
    report(draft, held_out)
    print(f"done after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
