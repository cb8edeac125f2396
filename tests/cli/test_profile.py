"""``tenfold profile``: its JSON, its tables and its errors."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tenfold.cli.app import make_app
from tests.model.tiny import write_byte_level


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_byte_level(tmp_path / "tiny.gguf"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(make_app(), ("profile", *arguments))


def test_steps_as_json(model: str) -> None:
    result = run(model, "--batch", "1,3", "--context", "20", "--prefill", "32", "--repeats", "2", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [(s["phase"], s["rows"], s["context"]) for s in report["steps"]] == [
        ("decode", 1, 20),
        ("decode", 3, 20),
        ("prefill", 32, 32),
    ]
    assert report["limits"]["memory_bytes_s"] > 0
    assert "the best that this CPU" in report["level"][0]


def test_the_usual_sizes_are_cut_to_the_model(model: str) -> None:
    result = run(model, "--batch", "2", "--repeats", "1", "--level", "portable")
    assert result.exit_code == 0, result.output
    assert "decode 2 x 64" in result.stdout  # the model's context is 64
    assert "prefill 64" in result.stdout
    assert "prefill 512" not in result.stdout
    assert "level portable" in result.stdout


def test_the_engine_as_json_and_as_a_table(model: str) -> None:
    report = json.loads(run(model, "--engine", "--batch", "2", "--repeats", "1", "--json").stdout)
    assert report["decode"][0]["batch"] == 2
    shown = run(model, "--engine", "--batch", "2", "--repeats", "1", "--temperature", "0.5")
    assert "outside forward" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--batch", "0"), "--batch takes whole numbers"),
        (("--batch", "1,two"), "--batch takes whole numbers"),
        (("--batch", ""), "--batch takes whole numbers"),
        (("--prefill", "-3"), "--prefill takes whole numbers"),
        (("--context", "none"), "--context takes whole numbers"),
        (("--context", "65"), "does not fit this model's context of 64 tokens"),
        (("--level", "sse"), "no kernels of level 'sse'"),
        (("--temperature", "1"), "--temperature goes with --engine"),
        (("--engine", "--context", "5"), "--context does not go with --engine"),
        (("--engine", "--level", "avx2"), "--level does not go with --engine"),
    ],
)
def test_user_errors_are_one_line(model: str, arguments: tuple[str, ...], says: str) -> None:
    result = run(model, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
