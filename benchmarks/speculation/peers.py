"""Peers with their n-gram or prompt lookup, one request at a time: ``python -m benchmarks.speculation.peers``.

Each system answers the same requests twice, without and with what it has for drafting from text, and so does Tenfold.
Prints, by kind of work, decode speed (tokens per second after the first one) without, and the ratio of with to without.
The systems are those that ``python -m benchmarks.shootout install`` has put in place.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.shootout.peers.base import Model, PeerError, Server, shootout_folder
from benchmarks.shootout.peers.environment import python_of
from benchmarks.shootout.peers.llamacpp import LlamaCpp
from benchmarks.shootout.peers.openvino import OpenVino
from benchmarks.shootout.peers.vllm import Vllm
from benchmarks.shootout.servers import free_port, running, server_log
from benchmarks.speculation.work import KINDS, Ask, asks
from tenfold.core.config import DEFAULT_MODEL
from tenfold.model.chat import require_template
from tenfold.model.checkpoint import load_text_model
from tenfold.model.store import resolve

Spans = list[tuple[int, float]]  # tokens of an answer, and seconds from the first to the last
KV_TOKENS = 16_384
LLAMA = {
    "llama.cpp ngram-simple": ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3",
                               "--spec-ngram-simple-size-m", "8"),
    "llama.cpp ngram-cache": ("--spec-type", "ngram-cache", "--spec-draft-n-max", "8"),
}  # fmt: skip
VLLM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}


def stream(server: Server, text: str, ask: Ask) -> tuple[int, float]:
    """One completion."""
    body = {
        "model": server.model, "prompt": text, "stream": True, "max_tokens": ask.tokens, "temperature": ask.temperature,
        "seed": ask.seed, "stream_options": {"include_usage": True},
    }  # fmt: skip
    request = urllib.request.Request(
        f"{server.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    first = last = 0.0
    count = 0
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data:") or b"[DONE]" in line:
                continue
            event: dict[str, Any] = json.loads(line[5:])
            if event.get("choices") and event["choices"][0].get("text"):
                last = time.perf_counter()
                first = first or last
            if event.get("usage"):
                count = event["usage"]["completion_tokens"]
    return count, last - first


def through_http(server: Server, log: str, wanted: Sequence[tuple[str, Ask]]) -> Spans:
    """All of them, one after the other."""
    with running(server, server_log(log)):
        stream(server, "Hello", Ask("", 8, 0.0, 0))
        return [stream(server, *one) for one in wanted]


def openvino(model: Model, wanted: Sequence[tuple[str, Ask]], *, lookup: bool) -> Spans:
    """The same, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings, result = Path(folder) / "settings.json", Path(folder) / "result.json"
        asked = [[text, ask.tokens, ask.temperature, ask.seed] for text, ask in wanted]
        settings.write_text(
            json.dumps(
                {"model": str(model.openvino), "lookup": lookup, "tokens": 5, "asks": [["Hello", 8, 0.0, 0], *asked]}
            )
        )
        script = Path(__file__).with_name("openvino_lookup.py")
        python = python_of(shootout_folder() / "openvino")
        subprocess.run([str(python), str(script), str(settings), str(result)], check=True, capture_output=True)
        return [(count, seconds) for count, seconds in json.loads(result.read_text())[1:]]


def systems(model: Model) -> dict[str, tuple[Callable[..., Spans], Callable[..., Spans]]]:
    """By name: how to answer without drafts, and with them."""

    def ours(mode: str) -> Callable[..., Spans]:
        port = free_port()
        options = ("--speculation", mode, "--draft-model", "off", "--port", str(port))
        argv = [sys.executable, "-m", "tenfold.cli", "serve", str(model.gguf), *options]
        return lambda wanted: through_http(
            Server([*argv, "--served-model-name", "default", "--no-prefix-sharing"], port), f"tenfold-{mode}", wanted
        )

    def llama(*options: str) -> Callable[..., Spans]:
        plain = LlamaCpp().server(model, 1, KV_TOKENS, free_port())
        return lambda wanted: through_http(Server([*plain.argv, *options], plain.port), "llamacpp-spec", wanted)

    def vllm(*options: str) -> Callable[..., Spans]:
        plain = Vllm().server(model, 1, KV_TOKENS, free_port())
        server = Server([*plain.argv, *options], plain.port, plain.env, patience=plain.patience)
        return lambda wanted: through_http(server, "vllm-spec", wanted)

    found = {"Tenfold": (ours("off"), ours("auto"))}
    if LlamaCpp().missing() is None:
        for name, options in LLAMA.items():
            found[name] = llama(), llama(*options)
    if OpenVino("bf16").missing() is None:
        found["OpenVINO GenAI prompt lookup"] = (
            lambda wanted: openvino(model, wanted, lookup=False),
            lambda wanted: openvino(model, wanted, lookup=True),
        )
    if Vllm().missing() is None:
        found["vLLM ngram"] = vllm(), vllm("--speculative-config", json.dumps(VLLM))
    return found


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4, help="of each kind; of more, some are about the same texts")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--only", help="systems whose names contain this")
    told = parser.parse_args()
    path = resolve(DEFAULT_MODEL)
    text = load_text_model(path)
    template = require_template(text.chat_template, DEFAULT_MODEL)
    kinds = told.kinds.split(",")
    wanted = [
        (template.render([{"role": "user", "content": ask.text}]), ask)
        for kind in kinds
        for ask in asks(kind, told.requests, told.tokens)
    ]
    print(f"| system | {' | '.join(f'{kind}: tok/s without, with ÷ without' for kind in kinds)} |", flush=True)
    print("|---" * (1 + len(kinds)) + "|")
    known = model_of(path)
    for name, (plain, drafting) in systems(known).items():
        if told.only and told.only not in name:
            continue
        cells = ["failed"] * len(kinds)
        try:
            off, on = plain(wanted), drafting(wanted)
        except (PeerError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
        else:
            for at in range(len(kinds)):
                part = slice(at * told.requests, (at + 1) * told.requests)
                before, after = speed(off[part]), speed(on[part])
                cells[at] = f"{before:.0f}, {after / before:.2f} ×"
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


def model_of(path: Path) -> Model:
    """The default model, in all the forms that the shootout has made."""
    return Model(DEFAULT_MODEL, path, None, None)  # type: ignore[arg-type]  # nothing is encoded here


def speed(spans: Spans) -> float:
    """Tokens per second after the first ones."""
    long = [(count, seconds) for count, seconds in spans if count > 8]
    return sum(count - 1 for count, _ in long) / sum(seconds for _, seconds in long)


if __name__ == "__main__":
    sys.exit(main())
