"""Invariant 1 on the real model and kernels: bit-equal outputs however a request is served."""

from pathlib import Path

import pytest

from tenfold.core.config import SchedulerConfig, SpeculationConfig
from tenfold.core.errors import ConfigError
from tenfold.core.sampling import SamplingParams
from tenfold.engine.llm import LLM, Completion

TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time there was a fox who",
    "List three colours: red,",
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen. " * 4,
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen. " * 4 + "Then",
]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=2),
    SamplingParams(temperature=0.9, top_p=0.9, seed=5, max_tokens=40, ignore_eos=True, logprobs=0),
    SamplingParams(temperature=1.2, top_k=40, seed=6, max_tokens=40, presence_penalty=0.5, ignore_eos=True),
]

DRAFTING = SchedulerConfig(speculation=SpeculationConfig(mode="fixed", draft_tokens=5))

BY_MODEL = SchedulerConfig(speculation=SpeculationConfig(mode="fixed", draft_tokens=3, kept=0))


def requests() -> tuple[list[str], list[SamplingParams]]:
    pairs = [(text, params) for text in TEXTS for params in PARAMS]
    return [text for text, _ in pairs], [params for _, params in pairs]


def content(completions: list[Completion]) -> list[object]:
    """All that must be equal: ids, text, and the logprobs' exact bits."""
    return [[(s.tokens, s.text, s.finish, s.logprobs) for s in c.samples] for c in completions]


@pytest.fixture(scope="module")
def alone(smollm2_path: Path) -> list[object]:
    """Each request by itself: no prefix cache, whole prompts, one thread, no speculation."""
    plain = SchedulerConfig(speculation=SpeculationConfig(mode="off"))
    llm = LLM(str(smollm2_path), prefix_sharing=False, threads=1, kv_tokens=2048, scheduler=plain)
    return [content(llm.generate(text, params))[0] for text, params in zip(*requests(), strict=True)]


@pytest.mark.parametrize(
    ("options", "preempts", "hits"),
    [
        pytest.param({}, False, True, id="batched"),
        pytest.param({"prefix_sharing": False, "threads": 3}, False, False, id="three threads, no prefix cache"),
        pytest.param({"scheduler": SchedulerConfig(max_step_tokens=23, max_running=9)}, False, True, id="chunked"),
        pytest.param({"kv_tokens": 256}, True, True, id="preempted"),
        pytest.param({"scheduler": DRAFTING}, False, True, id="drafted"),
        pytest.param({"scheduler": DRAFTING, "kv_tokens": 256}, True, True, id="drafted and preempted"),
    ],
)
def test_bits_do_not_depend_on_company(
    smollm2_path: Path, alone: list[object], options: dict[str, object], preempts: bool, hits: bool
) -> None:
    llm = LLM(str(smollm2_path), **{"kv_tokens": 4096, **options})
    completions = llm.generate(*requests())
    assert content(completions) == alone
    again = llm.generate(*requests())
    assert content(again) == alone
    stats = llm.stats()
    assert (sum(stats.preemptions_total.values()) > 0) == preempts
    assert (stats.cached_tokens_total > 0) == hits
    if options.get("scheduler") is DRAFTING:
        assert 0 < sum(stats.accepted_tokens_total.values()) < sum(stats.draft_tokens_total.values())
    assert stats.blocks_held == 0


def test_a_model_that_drafts_for_itself_is_always_right(smollm2_path: Path, alone: list[object]) -> None:
    """``--draft-model`` takes any model of the same vocabulary."""
    llm = LLM(str(smollm2_path), kv_tokens=4096, draft_model=str(smollm2_path), scheduler=BY_MODEL)
    prompts, params = requests()
    assert content(llm.generate(prompts[:3], params[:3])) == alone[:3]
    stats = llm.stats()
    assert stats.draft_tokens_total["model"] > 50
    # But for penalties, which the draft does not know of.
    assert stats.accepted_tokens_total["model"] > 0.7 * stats.draft_tokens_total["model"]


def test_a_draft_model_of_another_vocabulary_is_refused(smollm2_path: Path, gemma_path: Path) -> None:
    with pytest.raises(ConfigError, match="same vocabulary"):
        LLM(str(smollm2_path), kv_tokens=4096, draft_model=str(gemma_path))


def test_samples_of_one_request_differ_and_repeat(smollm2_path: Path) -> None:
    llm = LLM(str(smollm2_path), kv_tokens=4096)
    params = SamplingParams(n=4, seed=3, max_tokens=12, ignore_eos=True)
    first, second = (llm.generate("Here is a story about", params)[0] for _ in range(2))
    assert len({sample.tokens for sample in first.samples}) == 4
    assert content([first]) == content([second])
    lone = llm.generate("Here is a story about", SamplingParams(seed=5, max_tokens=12, ignore_eos=True))[0]
    assert lone.samples[0].tokens == first.samples[2].tokens


def test_chat_answers(smollm2_path: Path) -> None:
    llm = LLM(str(smollm2_path), kv_tokens=4096)
    messages = [{"role": "user", "content": "Summarize: The quick brown fox jumps over the lazy dog."}]
    answer = llm.chat(messages, SamplingParams(temperature=0, max_tokens=120))[0]
    assert "fox" in answer.text
    assert answer.samples[0].finish == "stop"
    assert "<|im_end|>" not in answer.text
