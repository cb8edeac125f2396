"""JSON lines between the shootout and a worker, and the loop that times an engine step by step.

Standard library only: it runs under each peer's own Python. First line in: the settings. Then one line per run,
``{"requests": [{"ids": [...], "wanted": n}, ...], "users": n}``, answered by one line: per request ``began``, the
``times`` at which output tokens came and the ``tokens``, all in seconds from the start of the run; ``cpu_s`` is what
the process used meanwhile. A failure is answered with ``{"error": ...}``.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """An engine that is advanced one step at a time."""

    def describe(self) -> str:
        """A line that names it."""
        ...

    def submit(self, number: int, ids: Sequence[int], wanted: int) -> None:
        """Queue a request: continue ``ids`` greedily by exactly ``wanted`` tokens."""
        ...

    def step(self) -> Iterable[tuple[int, Sequence[int]]]:
        """Compute a step; (request number, its new token ids) for each request that got some."""
        ...


def run(engine: Engine, requests: Sequence[dict[str, Any]], users: int) -> list[dict[str, Any]]:
    """Put all requests on the engine, ``users`` at a time, and time their tokens."""
    records: list[dict[str, Any]] = []
    zero = time.perf_counter()

    def start() -> None:
        number = len(records)
        request = requests[number]
        records.append({"began": time.perf_counter() - zero, "times": [], "tokens": []})
        engine.submit(number, request["ids"], request["wanted"])

    for _ in range(min(users, len(requests))):
        start()
    left = len(requests)
    while left:
        for number, tokens in engine.step():
            now = time.perf_counter() - zero
            record = records[number]
            record["times"] += [now] * len(tokens)
            record["tokens"] += tokens
            if len(record["tokens"]) >= requests[number]["wanted"]:
                left -= 1
                if len(records) < len(requests):
                    start()
    return records


def serve(load: Callable[[dict[str, Any]], Engine]) -> None:
    """Load the engine the first line asks for, then answer each further line, until there are no more."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come between the answers

    def answer(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    try:
        engine = load(json.loads(sys.stdin.readline()))
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    answer({"ready": engine.describe()})
    for line in sys.stdin:
        ask = json.loads(line)
        cpu = time.process_time()
        try:
            records = run(engine, ask["requests"], ask["users"])
        except Exception as error:
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})
            return
        answer({"records": records, "cpu_s": time.process_time() - cpu})
