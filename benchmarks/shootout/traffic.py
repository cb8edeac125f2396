"""A serving row on one system: through HTTP where it has a server, else in process."""

import asyncio
from typing import Any

from benchmarks.shootout.peers.base import Measured, Model, Peer, PeerError, Records, Server
from benchmarks.shootout.quiet import Watch
from benchmarks.shootout.rows import Traffic
from benchmarks.shootout.servers import free_port, running, server_log
from tenfold.bench.http_target import HttpTarget
from tenfold.bench.load import Load, Outcome, closed, run_load
from tenfold.bench.record import Record
from tenfold.bench.report import summary
from tenfold.core.errors import TenfoldError

TOKENS_PER_USER = 2048


def measure(peer: Peer, model: Model, row: Traffic, seed: int) -> Measured:
    """Run the row once, on a fresh server. Raises PeerError."""
    load = closed(row.workload, row.count, row.users, seed)
    server = peer.server(model, row.users, row.users * TOKENS_PER_USER, free_port())
    if server is None:
        session = peer.open(model)
        try:
            requests = row.requests(model.encode, seed)
            session.serve(requests[:2], 2)  # warm
            watch = Watch()
            answers = session.serve(requests, row.users)
            others = watch.share()
        finally:
            session.close()
        outcome = in_process(load, [len(r.ids) for r in requests], answers)
        return measured(outcome, others, note="in process, no HTTP")
    with running(server, server_log(peer.name)):
        watch = Watch()
        try:
            outcome = asyncio.run(_through_http(server, load))
        except TenfoldError as error:
            raise PeerError(str(error)) from None
        others = watch.share()
    return measured(outcome, others)


def measured(outcome: Outcome, others: float, note: str = "") -> Measured:
    """The row's figures. Raises PeerError where requests failed or answers were short."""
    report: dict[str, Any] = summary(outcome, "")
    every = report["all"]
    if every["errors"] or every["short_out"]:
        raise PeerError(
            f"{every['errors']} requests failed, {every['short_out']} answers were short: {report.get('first_error')}"
        )
    values = {
        "output tok/s": report["out_tok_s"],
        "TTFT p95, s": every["ttft_ms"]["p95"] / 1000,
        "TPOT p50, ms": every["tpot_ms"]["p50"],
    }
    records = outcome.records
    return Measured(values, sum(r.prompt_tokens for r in records), sum(r.output_tokens for r in records), note, others)


def in_process(load: Load, prompts: list[int], answers: Records) -> Outcome:
    """A worker's times as the load client's records. ``prompts``: tokens of each."""
    records = []
    for tokens, answer in zip(prompts, answers, strict=True):
        times = answer["times"]
        record = Record(load.workload, len(times), answer["began"])
        for at in times:
            record.output(at)
        record.ended = times[-1]
        record.prompt_tokens, record.output_tokens = tokens, len(times)
        records.append(record)
    wall = max(r.ended or 0.0 for r in records) - min(r.began for r in records)
    return Outcome(load, tuple(records), wall)


async def _through_http(server: Server, load: Load) -> Outcome:
    target = HttpTarget(server.url, model=server.model)
    try:
        await target.start()
        return await run_load(target, load)
    finally:
        await target.stop()
