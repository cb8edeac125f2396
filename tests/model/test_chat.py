"""Chat templates: what they render, and what they may not do."""

import json
from pathlib import Path

import pytest

from tenfold.core.errors import InvalidRequest
from tenfold.model.chat import ChatTemplate, require_template
from tenfold.model.checkpoint import load_text_model

HI = [{"role": "user", "content": " hi <é> "}]
ALTERNATE = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_the_real_template_gives_the_golden_prompts(smollm2_path: Path) -> None:
    golden = json.loads((Path(__file__).parent.parent / "golden" / "smollm2-135m.json").read_text())
    text = load_text_model(smollm2_path)
    template = require_template(text.chat_template, text.name)
    for case in golden["cases"]:
        prompt = template.render([{"role": "user", "content": case["prompt"]}])
        assert prompt == case["text"]
        assert text.tokenizer.encode(prompt, add_special=False) == case["prompt_ids"]


def test_marks_generation_prompt_and_extra_variables() -> None:
    template = ChatTemplate(ALTERNATE, "<s>", "</s>")
    assert template.render(HI) == "<s><user>hi <é></s><assistant>"
    assert template.render(HI, add_generation_prompt=False) == "<s><user>hi <é></s>"
    assert ChatTemplate("{{ tools | length }}").render(HI, tools=[1, 2]) == "2"


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": " hi <é> "}'),
        ("{{ messages | tojson(indent=1) | length > 0 }}", "True"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for i in [0, 1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}"
         "{% endfor %}",
         "013"),
        ("{% generation %}{{ 'a' ~ 1 ~ 'b' }}{% endgeneration %}", "a1b"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(2) * 2 }}", "[2][2]"),
        ("{{ '%s-%02d' % ('a', 3) }}{{ '{} {}'.format(1, 2) }}{{ 7 % 4 }}{{ 2 ** 3 }}", "a-031 238"),
        ("{{ 'a\nb' | indent(2) }}{{ 'x' | center(3) }}{{ missing is defined }}", "a\n  b x False"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% if tools is not none or documents is not none %}tools{% endif %}-", "-"),
    ],
)  # fmt: skip
def test_what_templates_use_works(source: str, wanted: str) -> None:
    assert ChatTemplate(source).render(HI) == wanted


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (ALTERNATE, "roles must alternate"),
        ("{{ x.y.z }}", "undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% include 'other' %}", "no loader"),
        ("{% for i in range(1000000000) %}{% endfor %}", "OverflowError"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "loops more than"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}", "more than"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' * 10 ** 9 }}", "characters"),
        ("{{ [1] * 10 ** 9 }}", "characters"),
        ("{{ 9 ** 9 ** 9 }}", "power"),
        ("{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "characters"),
        ("{% set n = namespace(s='aa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}", "characters"),
        (
            "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"
            "{% endfor %}",
            "characters",
        ),
        ("{{ '%999999999d' % 1 }}", "width"),
        ("{{ '{:999999999}'.format(1) }}", "width"),
        ("{{ 'a'.ljust(999999999) }}", "unsafe"),
        ("{{ 'a' | center(999999999) }}", "width"),
        ("{{ 'a' | indent(999999999) }}", "width"),
        ("{{ messages | tojson(indent=999999999) }}", "width"),
        ("{% for", "not valid Jinja"),
        ("x" * (1 << 21), "longer than"),
    ],
)  # fmt: skip
def test_refusals_are_the_requests_error(source: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        ChatTemplate(source).render([*HI, *HI])


def test_without_a_template_the_way_out_is_told() -> None:
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        require_template(None, "m")
