"""``tenfold generate`` on the real model."""

import json
from pathlib import Path

from typer.testing import CliRunner

from tenfold.cli.app import make_app


def run(*args: str) -> str:
    result = CliRunner().invoke(make_app(), ["generate", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_has_a_line_per_continuation(smollm2_path: Path) -> None:
    options = (
        "--model",
        str(smollm2_path),
        "-n",
        "2",
        "--max-tokens",
        "4",
        "--seed",
        "1",
        "--kv-tokens",
        "1024",
        "--json",
    )
    rows = [json.loads(line) for line in run("The sky is", "2 + 2 =", *options).splitlines()]
    assert [(row["prompt"], row["index"]) for row in rows] == [
        ("The sky is", 0),
        ("The sky is", 1),
        ("2 + 2 =", 0),
        ("2 + 2 =", 1),
    ]
    assert all(row["completion_tokens"] == 4 and row["finish_reason"] == "length" for row in rows)
    assert rows[0]["text"] != rows[1]["text"]


def test_text_and_chat(smollm2_path: Path, tmp_path: Path) -> None:
    options = ("--model", str(smollm2_path), "--temperature", "0", "--max-tokens", "60", "--kv-tokens", "1024")
    assert run("The capital of France is", *options).startswith("The capital of France is Paris")
    file = tmp_path / "prompts.txt"
    file.write_text("Summarize: The quick brown fox jumps over the lazy dog.\n\n")
    assert "fox" in run("--chat", "--file", str(file), *options)
