"""A server under abuse for a long time: ``python -m scripts.soak [MODEL] [--minutes N] [--seed S]``.

Starts ``tenfold serve`` and asks it, in rounds of a quarter minute, all at once: users of all APIs; clients that leave
at any moment; clients that read slowly; nearly valid bodies; and, once a round, ten times as many requests as it takes.
In the first two fifths of the time its engine's process is killed in every second round. After each round everybody
waits for their answers, and then nothing may be running or waiting, nobody hold a KV block, free and cached blocks have
to be the pool, and the server has to have ended as many requests as were sent. Memory of the server and of the engine's
process is read then; from the end of warm-up on it may grow by --growth. The server's warm-up is 0.3 of the time but
five minutes at least, the engine's half of the time since its last start: its log of steps fills for some minutes.

Each request has to be answered exactly once: in full, with a refusal, or with an error that says so. What hangs is an
answer that does not end within --patience seconds. Prints a line for each round; exit code 1 where something was wrong.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.doctor import engine_of, free_port, serve, until_ready
from scripts.fuzz.bodies import BODIES
from scripts.fuzz.mutation import json_of
from tenfold.cache.map import CACHED, FREE

RUNNING, WAITING = 8, 16  # sequences that the server computes, and lets wait, at a time
ROUND = 15.0  # seconds of load
WARM = 300.0  # seconds until the server has met all it will meet, at least
KILLS = 0.4  # of the time, the first part, in which engines are killed
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
TOPICS = ("the sea", "a lighthouse", "bread", "tall trees", "an old clock", "winter", "maps", "two brothers")


@dataclass(slots=True)
class Books:
    """What became of requests, and what was wrong."""

    sent: int = 0
    unsure: int = 0  # that may not have reached the server: their clients left
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Note it, and tell at once."""
        self.wrong.append(what)
        print(f"  wrong: {what}", flush=True)


class Abuse:
    """Clients of one server. ``slow`` connections have little room for what has come and is not read."""

    def __init__(self, url: str, rng: random.Random, books: Books, patience: float) -> None:
        self._rng = rng
        self._books = books
        self._patience = patience
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(base_url=url, timeout=patience, limits=limits)
        narrow = httpx.AsyncHTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
        self._slow = httpx.AsyncClient(base_url=url, timeout=patience, transport=narrow)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._slow.aclose()

    async def round(self, until: float) -> None:
        """Everybody at once until then; returns when all have their answers."""
        overload = time.monotonic() + self._rng.uniform(0.2, 0.8) * ROUND
        kinds = (*[self.ask] * RUNNING, *[self.leave] * 4, *[self.read_slowly] * 2, self.send_nonsense)
        async with asyncio.TaskGroup() as group:
            for kind in kinds:
                group.create_task(self._again(kind, until))
            await asyncio.sleep(max(0.0, overload - time.monotonic()))
            for _ in range(10 * (RUNNING + WAITING)):
                group.create_task(self.ask())

    async def _again(self, kind: Any, until: float) -> None:
        while time.monotonic() < until:
            await self._in_time(kind())
            await asyncio.sleep(self._rng.uniform(0.0, 0.2))

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(2 * self._patience):
                await work
        except TimeoutError:
            self._books.fault("a request hangs")

    def _body(self) -> tuple[str, dict[str, Any]]:
        rng = self._rng
        path, text = (
            rng.choice(ROUTES),
            f"Tell me of {rng.choice(TOPICS)} and {rng.choice(TOPICS)}. " * rng.randint(1, 12),
        )
        said: dict[str, Any] = {"stream": rng.random() < 0.7, "temperature": rng.choice((0, 1))}
        limit = rng.choice((1, 8, 32, 64))
        if path == "/v1/completions":
            return path, {**said, "prompt": text, "max_tokens": limit, "n": rng.choice((1, 1, 2)), "timeline": True}
        if path == "/v1/responses":
            return path, {**said, "input": text, "max_output_tokens": limit}
        messages = [{"role": "user", "content": text}]
        more = (
            {"response_format": {"type": "json_object"}} if path.endswith("completions") and rng.random() < 0.1 else {}
        )
        return path, {**said, **more, "messages": messages, "max_tokens": limit}

    async def ask(self) -> None:
        """One request, to its end."""
        path, body = self._body()
        await self._answered(self._client, path, json.dumps(body).encode(), streams=bool(body["stream"]))

    async def read_slowly(self) -> None:
        """A long stream, read a little at a time, with pauses."""
        body = {"prompt": "A long story:", "stream": True, "max_tokens": 64, "ignore_eos": True, "logprobs": 5}
        body |= {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        pause = self._rng.uniform(0.01, 0.1)
        await self._answered(self._slow, "/v1/completions", json.dumps(body).encode(), streams=True, pause=pause)

    async def send_nonsense(self) -> None:
        """A nearly valid body: an answer or a refusal, never a fault of the server's."""
        path, body = self._rng.choice(BODIES)
        await self._answered(self._client, path, json_of(self._rng, body), streams=None)

    async def leave(self) -> None:
        """A request whose client goes at any moment."""
        path, body = self._body()
        self._books.sent += 1
        self._books.unsure += 1
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(self._rng.expovariate(2.0)):
                async with self._client.stream("POST", path, json=body) as answer:
                    async for _ in answer.aiter_bytes():
                        if self._rng.random() < 0.1:
                            break
        self._books.ends["left"] += 1

    async def _answered(
        self, client: httpx.AsyncClient, path: str, body: bytes, *, streams: bool | None, pause: float = 0.0
    ) -> None:
        books = self._books
        books.sent += 1
        try:
            async with client.stream(
                "POST", path, content=body, headers={"content-type": "application/json"}
            ) as answer:
                data = bytearray()
                async for piece in answer.aiter_bytes(512 if pause else None):
                    data += piece
                    if pause:
                        await asyncio.sleep(pause)
        except httpx.HTTPError as error:
            books.fault(f"{path}: {type(error).__name__}: {error}")
            return
        books.ends[self._end(path, answer, bytes(data), streams=streams)] += 1

    def _end(self, path: str, answer: httpx.Response, data: bytes, *, streams: bool | None) -> str:
        """What kind of answer it was."""
        status = answer.status_code
        if answer.headers["content-type"].startswith("text/event-stream"):
            return self._end_of_stream(path, data)
        told = json.loads(data)
        if status == 200:
            if streams:
                self._books.fault(f"{path}: no stream, but {data[:200]!r}")
            return "answered"
        if not told.get("error", {}).get("message"):
            self._books.fault(f"{path}: {status} without a reason: {data[:200]!r}")
        if status not in (429, 503) and not (streams is None and 400 <= status < 500):
            self._books.fault(f"{path}: {status} {data[:300]!r}")
        return str(status)

    def _end_of_stream(self, path: str, data: bytes) -> str:
        lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
        events = [json.loads(line) for line in lines if line != b"[DONE]"]
        if any("error" in event and event["error"] for event in events):
            return "error in stream"
        if path in ("/v1/completions", "/v1/chat/completions"):
            choices = [choice for event in events for choice in event["choices"]]
            asked = {choice["index"] for choice in choices}
            ended = sorted(choice["index"] for choice in choices if choice["finish_reason"] is not None)
            whole = ended == sorted(asked) and lines.count(b"[DONE]") == 1 and lines[-1] == b"[DONE]"
        else:
            last = ("message_stop", "response.completed", "response.incomplete")
            whole = [event["type"] in last for event in events] == [False] * (len(events) - 1) + [True]
        if not whole:
            self._books.fault(f"{path}: a stream that does not end exactly once: …{data[-300:]!r}")
        return "streamed"


class Server:
    """The process under test, seen from outside."""

    def __init__(self, model: str, threads: int) -> None:
        port, admin = free_port(), free_port()
        self.url, self._admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        options = {"--port": port, "--admin-port": admin, "--threads": threads, "--max-running": RUNNING}
        # On a busy machine a client may need long from connecting to asking: that is not what is tried here.
        options |= {"--head-timeout": 120, "--max-waiting": WAITING, "--kv-tokens": 4096, "--max-context": 1024}
        self._process = serve(model, *(str(part) for option in options.items() for part in option))
        until_ready(self.url, self._process)

    @property
    def engine(self) -> int:
        """The process id of its engine."""
        return engine_of(self._process.pid)

    def kill_engine(self) -> None:
        """At once, without a word."""
        if self.engine:
            os.kill(self.engine, signal.SIGKILL)

    def memory(self) -> tuple[float, float]:
        """Resident MB of the server and of its engine."""
        return resident(self._process.pid), resident(self.engine)

    async def ready(self, patience: float) -> float:
        """Wait until it serves; seconds that took. Raises TimeoutError."""
        began = time.monotonic()
        async with httpx.AsyncClient(timeout=patience) as client:
            while (await client.get(f"{self.url}/health")).status_code != 200:
                if time.monotonic() - began > patience:
                    raise TimeoutError(f"the server is not ready after {patience:g} s")
                await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def look(self) -> dict[str, Any]:
        """What it says of itself."""
        async with httpx.AsyncClient(base_url=self._admin, timeout=120) as client:
            report: dict[str, Any] = (await client.get("/debug/dashboard?pool=true")).json()
            metrics = (await client.get("/metrics")).text
        posts = re.findall(r'^tenfold_http_requests_total\{(?=[^}]*method="POST").*?\} (\S+)$', metrics, re.MULTILINE)
        report["posts"] = sum(map(float, posts))
        return report

    def stop(self) -> int:
        """End it as an operator does; its exit code."""
        self._process.terminate()
        return self._process.wait(60)


def resident(pid: int) -> float:
    """MB of memory that a process has."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found.group(1)) / 1024 if found else 0.0
    return 0.0


def _held(pool: dict[str, Any] | None) -> bool:
    """Whether anybody but the engine itself has blocks, or nobody knows whose they are."""
    if pool is None:
        return True
    strangers = any(not holder["id"].startswith("calibration ") for holder in pool["holders"])
    return strangers or (not pool["holders"] and any(kind not in (FREE, CACHED) for kind, _ in pool["runs"]))


async def conserved(server: Server, books: Books) -> None:
    """Once nobody asks any more: is everything given back? Those who left a moment ago may still be being aborted, and
    an idle engine measures steps of its own, with blocks."""
    for _ in range(50):
        seen = await server.look()
        stats, pool = seen["stats"], seen["pool"]
        if stats and not (stats["running"] or stats["waiting"] or _held(pool)):
            break
        await asyncio.sleep(0.2)
    else:
        books.fault(f"not given back: {pool}, {stats}")
        return
    told = stats["blocks_free"] + stats["blocks_cached"] + stats["blocks_held"]
    if not told == sum(length for _, length in pool["runs"]) == stats["blocks"]:
        books.fault(f"blocks lost: {pool}, {stats}")
    if not books.sent - books.unsure <= seen["posts"] <= books.sent:
        books.fault(
            f"{books.sent} requests were sent, {books.unsure} of them perhaps; the server ended {seen['posts']}"
        )


def grown(values: list[float]) -> float:
    """By how much the last third of values is above the first third, by medians."""
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) / statistics.median(values[:third]) - 1


async def soak(told: argparse.Namespace) -> int:
    """All rounds; how much was wrong."""
    rng, books = random.Random(told.seed), Books()
    server = Server(told.model, told.threads)
    began, seconds = time.monotonic(), 60 * told.minutes
    rounds: list[tuple[float, int, float, float]] = []  # when, which engine, MB of the server and the engine
    try:
        while (now := time.monotonic()) - began < seconds:
            abuse = Abuse(server.url, rng, books, told.patience)
            load = asyncio.ensure_future(abuse.round(now + ROUND))
            recovery = ""
            if len(rounds) % 2 and now - began < KILLS * seconds:
                await asyncio.sleep(rng.uniform(0.1, 0.9) * ROUND)
                server.kill_engine()
                await asyncio.sleep(0.5)
                recovery = f"; engine killed, serves again after {0.5 + await server.ready(told.patience):.1f} s"
            await load
            await abuse.close()
            await server.ready(told.patience)
            await conserved(server, books)
            rounds.append((time.monotonic() - began, server.engine, *server.memory()))
            ends = ", ".join(f"{count} {end}" for end, count in sorted(books.ends.items()))
            at, _, mine, engine = rounds[-1]
            print(f"{at:>7.0f} s  server {mine:.1f} MB, engine {engine:.1f} MB; {ends}{recovery}", flush=True)
    finally:
        if (code := server.stop()) != 0:
            books.fault(f"the server ended with code {code}")
    warm = [row for row in rounds if row[0] >= max(0.3 * seconds, WARM)]
    last = [row for row in rounds if row[1] == rounds[-1][1]]
    settled = last[len(last) // 2 :]
    for name, values in (("server", [row[2] for row in warm]), ("engine", [row[3] for row in settled])):
        if len(values) < 3:
            print(f"{name}: {len(values)} rounds after warm-up, too few to tell of memory")
            continue
        growth = grown(values)
        print(f"{name}: {growth:+.2%} over {len(values)} rounds, {min(values):.1f} to {max(values):.1f} MB")
        if growth > told.growth:
            books.fault(f"the {name}'s memory grows: {growth:+.2%}")
    kills = len({row[1] for row in rounds}) - 1
    print(f"{books.sent} requests, {kills} engines killed, {len(books.wrong)} things wrong")
    return len(books.wrong)


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds between two pieces of an answer")
    parser.add_argument("--growth", type=float, default=0.02)
    return 1 if asyncio.run(soak(parser.parse_args())) else 0


if __name__ == "__main__":
    sys.exit(main())
