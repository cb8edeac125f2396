"""The whole of ``tenfold serve`` with the default model, as a user has it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

RUN = "from tenfold.cli import main; main()"
HELD = """
import tenfold.engine.hatch as hatch

class Child(hatch.Child):  # the first thing that is done
    def __init__(self):
        print("blocked", flush=True)
        super().__init__()

hatch.Child = Child
{}
"""


class Served:
    """A server in a process of its own."""

    def __init__(self, model: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, "serve", str(model), "--port", "0", "--max-context", "512", *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stderr is not None
        self.banner = ""
        while "docs:" not in self.banner:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {self.banner}"
            self.banner += line
        self.url = self.banner.split("docs:")[1].strip().removesuffix("/docs")

    def children(self) -> list[int]:
        """Process ids of the server's children: the engine's."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, what else it said)."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def served(smollm2_path: Path) -> Iterator[Served]:
    server = Served(smollm2_path, "--served-model-name", "smol")
    yield server
    if server.process.poll() is None:
        server.stop(signal.SIGKILL)
    assert server.process.stderr is not None
    server.process.stderr.close()


def test_it_says_what_to_do_next(served: Served) -> None:
    assert served.banner.count(served.url) == 5
    assert "curl" in served.banner
    assert "tenfold chat --url" in served.banner


def test_a_streamed_chat_equals_the_whole_answer(served: Served) -> None:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as api:
        messages = [{"role": "user", "content": "Name a colour of the sky."}]
        common = {"model": "smol", "messages": messages, "temperature": 0, "max_tokens": 24}
        whole = api.chat.completions.create(**common, logprobs=True, top_logprobs=2)  # type: ignore[call-overload]
        chunks = list(api.chat.completions.create(**common, stream=True))  # type: ignore[call-overload]
    choice = whole.choices[0]
    assert choice.message.content
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == choice.message.content
    assert len(chunks) <= whole.usage.completion_tokens
    again = ask_without_drafts(served, messages)
    assert again == [choice.message.content, whole.usage.completion_tokens]
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason
    tokens = choice.logprobs.content
    assert len(tokens) == whole.usage.completion_tokens
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in tokens)
    assert bytes(byte for entry in tokens for byte in entry.bytes).decode().startswith(choice.message.content)


def ask_without_drafts(served: Served, messages: list[dict[str, str]]) -> list[object]:
    """The text, and in how many events it came: one per token."""
    body = {"model": "smol", "messages": messages, "temperature": 0, "max_tokens": 24}
    body |= {"stream": True, "draft_tokens": 0}
    answer = httpx.post(served.url + "/v1/chat/completions", json=body)
    events = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:") and "{" in line]
    return ["".join(event["choices"][0]["delta"].get("content", "") for event in events), len(events)]


def test_tokens_and_back(served: Served) -> None:
    text = "Grüße, 東京 🙂 12345"
    answer = httpx.post(served.url + "/tokenize", json={"prompt": text}).json()
    assert answer["max_model_len"] == 512
    back = httpx.post(served.url + "/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text}


def test_a_repeated_prompt_is_found_in_the_cache(served: Served) -> None:
    body = {"prompt": "one two three four five six seven eight " * 8, "max_tokens": 4, "temperature": 0, "seed": 1}
    first = httpx.post(served.url + "/v1/completions", json=body, timeout=60).json()
    second = httpx.post(served.url + "/v1/completions", json=body, timeout=60).json()
    assert second["choices"][0]["text"] == first["choices"][0]["text"]
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert 0 < cached < second["usage"]["prompt_tokens"]


def test_a_stop_string_and_several_choices(served: Served) -> None:
    body = {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 24, "temperature": 0, "n": 2, "stop": [" 8"]}
    answer = httpx.post(served.url + "/v1/completions", json=body, timeout=60).json()
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop", "stop"]
    assert {choice["text"] for choice in answer["choices"]} == {" 6, 7,"}
    assert answer["choices"][0]["stop_reason"] == " 8"


def test_an_answer_may_fill_the_context_but_not_more(served: Served) -> None:
    over = httpx.post(served.url + "/v1/completions", json={"prompt": "word " * 600}, timeout=60)
    assert over.status_code == 400
    assert over.json()["error"]["code"] == "context_length_exceeded"
    body = {"prompt": "word " * 480, "max_tokens": 512, "temperature": 0}
    assert httpx.post(served.url + "/v1/completions", json=body).status_code == 400


def test_constrained_answers(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="x")
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 30},
            "population": {"type": "integer", "maximum": 99999},
        },
        "required": ["city", "population"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "Name a city, as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}},
        max_tokens=80,
        temperature=0,
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"city", "population"} and isinstance(found["population"], int)
    picked = client.completions.create(
        model="smol",
        prompt="The sky is",
        max_tokens=8,
        extra_body={"structured_outputs": {"choice": [" red", " green"]}},
    )
    assert picked.choices[0].text in (" red", " green")
    with pytest.raises(openai.BadRequestError, match="JSON schema cannot be used"):
        client.chat.completions.create(
            model="smol",
            messages=[{"role": "user", "content": "x"}],
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}},
        )


def test_forced_calls(served: Served) -> None:
    city = {"type": "string", "enum": ["Bern", "Basel"]}
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False}
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in ("rain", "sun")]
    with openai.OpenAI(base_url=served.url + "/v1", api_key="x", max_retries=0) as api:
        common: Any = {"model": "smol", "messages": [{"role": "user", "content": "Does it rain in Bern?"}]}
        common |= {"tools": tools, "max_tokens": 120, "temperature": 0}
        named = {"type": "function", "function": {"name": "sun"}}
        whole = api.chat.completions.create(**common, tool_choice=named).choices[0]
        with api.chat.completions.stream(**common, tool_choice="required", parallel_tool_calls=False) as stream:
            streamed = stream.get_final_completion().choices[0]
        with pytest.raises(openai.BadRequestError, match="the grammar of the tools") as caught:
            bad = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}
            tools[0]["function"]["parameters"] = bad
            api.chat.completions.create(**common, tool_choice="required")
    assert caught.value.param == "tools"
    for choice, names in ((whole, {"sun"}), (streamed, {"rain", "sun"})):
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or ()
        assert call.function.name in names
        assert json.loads(call.function.arguments)["city"] in ("Bern", "Basel")


def test_responses(served: Served) -> None:
    with openai.OpenAI(base_url=served.url + "/v1", api_key="x", max_retries=0) as api:
        ask: Any = {"model": "smol", "input": "Name a colour of the sky.", "temperature": 0, "max_output_tokens": 24}
        whole = api.responses.create(**ask)
        with api.responses.stream(**ask) as stream:
            pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert whole.output_text and "".join(pieces) == whole.output_text
    chat = httpx.post(
        served.url + "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": ask["input"]}], "temperature": 0, "max_tokens": 24},
    )
    assert chat.json()["choices"][0]["message"]["content"] == whole.output_text


def test_anthropics_client(served: Served) -> None:
    city = {"type": "object", "properties": {"city": {"enum": ["Bern", "Basel"]}}, "required": ["city"]}
    ask: Any = {"model": "smol", "max_tokens": 60, "messages": [{"role": "user", "content": "Does it rain in Bern?"}]}
    with anthropic.Anthropic(base_url=served.url, api_key="x", max_retries=0) as api:
        with api.messages.stream(**ask, extra_body={"temperature": 0}) as stream:
            text = "".join(stream.text_stream)
        whole = api.messages.create(**ask, extra_body={"temperature": 0})
        tools: Any = [{"name": "rain", "input_schema": {**city, "additionalProperties": False}}]
        called = api.messages.create(**ask, tools=tools, tool_choice={"type": "tool", "name": "rain"})
    assert whole.content[0].type == "text" and whole.content[0].text == text
    assert called.stop_reason == "tool_use"
    assert called.content[0].type == "tool_use" and called.content[0].input["city"] in ("Bern", "Basel")


def test_without_a_chat_template_it_says_what_else_to_ask(gemma_path: Path) -> None:
    server = Served(gemma_path)
    try:
        asked = server.banner.split("curl -N ")[1].splitlines()[0]
        url, body = asked.split()[0], asked.split("-d ")[1].strip("'")
        with httpx.stream("POST", url, json=json.loads(body), timeout=60) as answer:
            assert answer.status_code == 200 and next(answer.iter_lines()).startswith("data: {")
        assert "chat" not in server.banner
    finally:
        server.stop()


def test_chat_and_bench_talk_to_it(served: Served) -> None:
    def tenfold(*arguments: str) -> str:
        command = [sys.executable, "-c", RUN, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    assert tenfold("chat", "Hello!", "--url", served.url, "-t", "0", "--max-tokens", "8").strip()
    report = json.loads(tenfold("bench", "--url", served.url, "--workload", "short", "-n", "2", "-c", "2", "--json"))
    assert (report["all"]["errors"], report["all"]["short_out"]) == (0, 0)


def test_files_are_read_again_from_the_very_start_on(smollm2_path: Path, tmp_path: Path) -> None:
    """A SIGHUP ends nothing, however early, and what it asks for is done."""
    settings = tmp_path / "serve.toml"
    settings.write_text("max-waiting = 3\n")
    command = [
        sys.executable,
        "-c",
        HELD.format(RUN),
        "serve",
        str(smollm2_path),
        "--port",
        "0",
        "--config",
        str(settings),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None and server.stdout is not None
        assert server.stdout.readline() == "blocked\n"
        server.send_signal(signal.SIGHUP)
        lines = iter(server.stderr.readline, "")
        banner = ""
        while "docs:" not in banner or "settings read again" not in banner:
            banner += next(lines)
        settings.write_text("max-waiting = 2\nprofile = 'throughput'\n")
        server.send_signal(signal.SIGHUP)
        while "settings read again" not in (line := next(lines)):
            banner += line
        url = banner.split("docs:")[1].split("/docs")[0].strip()
        refused = httpx.post(url + "/v1/completions", json={"prompt": "x", "n": 3, "max_tokens": 1})
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert "max_waiting was 3 and is 2" in banner
    assert "--profile changed, too: that needs a restart" in banner
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")


def test_an_engine_that_dies_is_told_of_and_comes_back(served: Served) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", served.url + "/v1/completions", json=body, timeout=60) as answer:
        lines = (line for line in answer.iter_lines() if line)
        next(lines)
        for child in served.children():
            os.kill(child, signal.SIGKILL)
        last = list(lines)[-1]
    assert "engine_unavailable" in last
    deadline = time.monotonic() + 60
    while (health := httpx.get(served.url + "/health")).status_code != 200:
        assert health.json()["status"] == "restarting"
        assert time.monotonic() < deadline
    assert health.json()["restarts"] == 1
    again = httpx.post(served.url + "/v1/completions", json={"prompt": "Hi", "max_tokens": 2}, timeout=60)
    assert again.status_code == 200


# The last one: it ends the server of this file.
def test_a_stopping_server_ends_well(served: Served) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", served.url + "/v1/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        while (ready := httpx.get(served.url + "/health/ready")).status_code == 200:
            pass
        assert ready.json()["status"] == "stopping"
        assert httpx.get(served.url + "/health/live").status_code == 200
        late = httpx.post(served.url + "/v1/completions", json=body)
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert late.json()["error"]["code"] == "server_stopping"
        rest = list(lines)
    assert rest[-2] == "data: [DONE]"
    assert served.process.wait(timeout=60) == 0
