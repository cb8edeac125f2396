"""Constrained answers of the default model: always of the form, the same with drafts and without, batched or alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenfold.core.config import EngineConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.constraint import ANY_OBJECT, Constraint
from tenfold.core.errors import InvalidRequest
from tenfold.core.request import EngineRequest, RequestOutput
from tenfold.core.sampling import SamplingParams
from tenfold.engine.build import Engine, build_engine

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "author": {"type": "string", "maxLength": 30},
        "year": {"type": "integer", "minimum": 1000, "maximum": 2030},
        "language": {"enum": ["English", "German", "French"]},
    },
    "required": ["title", "author", "year", "language"],
    "additionalProperties": False,
}
CONSTRAINTS = [
    Constraint("json", json.dumps(SCHEMA)),
    Constraint("regex", r"(yes|no), because [a-z ]{5,60}\."),
    Constraint("choice", '["Paris", "Parma", "Rome"]'),
    None,
]


def engine_of(path: Path, speculation: SpeculationConfig) -> Engine:
    scheduler = SchedulerConfig(speculation=speculation)
    return build_engine(EngineConfig(model=str(path), kv_tokens=4096, threads=2, scheduler=scheduler))


@pytest.fixture(scope="module")
def plain(smollm2_path: Path) -> Iterator[Engine]:
    yield engine_of(smollm2_path, SpeculationConfig(mode="off"))


@pytest.fixture(scope="module")
def drafting(smollm2_path: Path) -> Iterator[Engine]:
    yield engine_of(smollm2_path, SpeculationConfig(mode="fixed", draft_tokens=6))


def prompt(engine: Engine, text: str) -> tuple[int, ...]:
    template = engine.checkpoint.chat_template
    assert template is not None
    rendered = template.render([{"role": "user", "content": text}])
    return tuple(engine.checkpoint.tokenizer().encode(rendered, add_special=False))


def answers(engine: Engine, wanted: list[tuple[str, SamplingParams]]) -> list[tuple[str, tuple[int, ...], str | None]]:
    for number, (text, params) in enumerate(wanted):
        engine.core.submit(EngineRequest(id=str(number), prompt_ids=prompt(engine, text), params=params, arrival=0.0))
    found: dict[str, list[RequestOutput]] = {}
    while not engine.core.idle:
        for output in engine.core.step():
            found.setdefault(output.id, []).append(output)
    return [
        (
            "".join(output.text for output in found[str(number)]),
            tuple(token for output in found[str(number)] for token in output.tokens),
            found[str(number)][-1].finish,
        )
        for number in range(len(wanted))
    ]


def work(temperature: float) -> list[tuple[str, SamplingParams]]:
    texts = ("Describe the book Faust as JSON.", "Is the sky blue?", "What is the capital of France?", "Say hello.")
    return [
        (text, SamplingParams(temperature=temperature, seed=seed, max_tokens=90, constraint=constraint))
        for seed, (text, constraint) in enumerate(zip(texts, CONSTRAINTS, strict=True))
    ]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_are_of_the_form_with_drafts_and_without(plain: Engine, drafting: Engine, temperature: float) -> None:
    wanted = work(temperature)
    without = answers(plain, wanted)
    assert answers(drafting, wanted) == without
    assert [answers(plain, [one])[0] for one in wanted] == without
    book = json.loads(without[0][0])
    assert set(book) == set(SCHEMA["properties"]) and book["language"] in ("English", "German", "French")
    assert 1000 <= book["year"] <= 2030 and len(book["title"]) <= 40
    assert without[1][0].startswith(("yes, because ", "no, because ")) and without[1][0].endswith(".")
    assert without[2][0] in ("Paris", "Parma", "Rome")
    assert [finish for _, _, finish in without[:3]] == ["stop"] * 3


def test_what_must_come_is_drafted_and_right(drafting: Engine) -> None:
    answers(drafting, [("A book as JSON.", SamplingParams(temperature=0.0, max_tokens=90, constraint=CONSTRAINTS[0]))])
    stats = drafting.core.stats()
    drafted, accepted = stats.draft_tokens_total["grammar"], stats.accepted_tokens_total["grammar"]
    assert drafted > 5 and accepted >= 0.8 * drafted


def test_logprobs_are_the_models_own(plain: Engine) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8, logprobs=2, constraint=CONSTRAINTS[2])
    plain.core.submit(EngineRequest(id="x", prompt_ids=prompt(plain, "Where?"), params=params, arrival=0.0))
    rows = []
    while not plain.core.idle:
        for output in plain.core.step():
            rows += output.logprobs or []
    assert rows and all(row.sampled.logprob <= 0 for row in rows)
    assert sum(row.sampled.logprob for row in rows) < -1  # nothing was made likelier by what is not allowed


def test_json_mode_gives_an_object(plain: Engine) -> None:
    params = SamplingParams(temperature=0.8, seed=4, max_tokens=200, constraint=ANY_OBJECT)
    text, _, finish = answers(plain, [("A small JSON object about a cat.", params)])[0]
    assert text.startswith("{")
    if finish == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_bad_one_is_refused_and_nothing_is_left(plain: Engine) -> None:
    params = SamplingParams(constraint=Constraint("regex", "(a"))
    with pytest.raises(InvalidRequest, match="regular expression"):
        plain.core.submit(EngineRequest(id="bad", prompt_ids=(1, 2), params=params, arrival=0.0))
    assert plain.core.idle
