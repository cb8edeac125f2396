"""Goodput against load, and overload. ``python -m benchmarks.slo.goodput``.

An open loop of requests at several rates under three policies in turn: first come, first served with whole prompts and
with chunks of 512 tokens, and by SLO. A request is good when it met both bounds; refused ones did not. For each policy
the greatest rate at which 90 % are good (interpolated), goodput at each, and how fast refusals came.

--workload mixed or chat; or --azure PATH, the Azure conversation trace: ten minutes of it, played --speed times as
fast, thinned to the rate, prompts and answers --scale times as long. --plot PATH draws the figures.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.slo.harness import (
    CHUNKS,
    OURS,
    WHOLE,
    Arrival,
    chat_sizes,
    engine,
    failures,
    generated,
    milliseconds,
    mixed_sizes,
    of_trace,
    options,
    policies,
    replay,
    table,
)
from tenfold.core.slo import Slo
from tenfold.traffic.shaping import faster, piece, scaled, thinned
from tenfold.traffic.traces import read_trace

ENOUGH = 0.9  # of the requests
PIECE = (600.0, 600.0)  # of the trace: from, for so many seconds


@dataclass(frozen=True)
class Point:
    """One run. Times in ms, rates per second."""

    policy: str
    rate: float
    requests: int
    attained: float  # of the requests
    goodput: float
    ttft_p50: float
    ttft_p95: float
    tpot_p50: float
    tpot_p95: float
    refused: float  # of the requests
    refusal_p50: float
    refusal_p99: float
    kinds: dict[str, tuple[float, float]]  # TTFT p95 and TPOT p95 of each kind of request


async def measure(
    model: str, kv: str, policy: str, slo: Slo, rate: float, arrivals: Callable[[int], list[Arrival]]
) -> Point:
    """One policy at one rate, in an engine of its own."""
    async with engine(model, kv, policies(slo)[policy]) as target:
        work = arrivals(target.info.vocab_size)
        records = await replay(target, work)
    assert not failures(records), failures(records)[:3]
    seconds = work[-1].at
    told = [r for r in records if not r.error]
    no = [r.e2e for r in records if r.refused]
    met = sum(r.good(slo) for r in records)
    return Point(
        policy,
        rate,
        len(records),
        met / len(records),
        met / seconds,
        milliseconds((r.ttft for r in told), 50),
        milliseconds((r.ttft for r in told), 95),
        milliseconds((r.tpot for r in told), 50),
        milliseconds((r.tpot for r in told), 95),
        len(no) / len(records),
        milliseconds(no, 50),
        milliseconds(no, 99),
        {
            kind: (
                milliseconds((r.ttft for r in told if r.kind == kind), 95),
                milliseconds((r.tpot for r in told if r.kind == kind), 95),
            )
            for kind in sorted({r.kind for r in told})
        },
    )


def greatest_rate(points: list[Point]) -> float:
    """The rate up to which 90 % are good: between the last that is and the first that is not, on a line."""
    rate = 0.0
    for before, after in zip([None, *points], points, strict=False):
        if after.attained >= ENOUGH:
            rate = after.rate
            continue
        if before is not None and before.attained > after.attained:
            rate += (after.rate - before.rate) * (before.attained - ENOUGH) / (before.attained - after.attained)
        return rate
    return rate


def draw(points: list[Point], slo: Slo, title: str, path: Path) -> None:
    """Goodput, TTFT and TPOT against the rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: list[tuple[str, Callable[[Point], float | None], float | None]] = [
        ("good requests per second", lambda p: p.goodput, None),
        ("part of requests that met both bounds", lambda p: p.attained, ENOUGH),
    ]
    for at, name, limit in ((0, "TTFT", slo.ttft), (1, "TPOT", slo.tpot)):
        bound = limit * 1000 if limit is not None else None
        panels += [
            (f"{name} p95 of those served, {kind}, ms", lambda p, k=kind, i=at: p.kinds.get(k, (None, None))[i], bound)
            for kind in sorted({kind for point in points for kind in point.kinds})
        ]
    figure, grid = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8))
    for axes, (label, value, bound) in zip(grid, panels, strict=True):
        for policy, colour in ((WHOLE, "#b0763a"), (CHUNKS, "#8c8c8c"), (OURS, "#1f5fa8")):
            mine = [p for p in points if p.policy == policy]
            axes.plot([p.rate for p in mine], [value(p) for p in mine], "o-", color=colour, label=policy)
        if bound is not None:
            axes.axhline(bound, color="#222222", linewidth=0.8, linestyle=":")
        axes.set_xlabel("requests per second")
        axes.set_title(label, fontsize=9)
        if label.endswith("ms"):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    grid[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


async def main() -> None:
    """See above."""
    parser = options(__doc__, "ttft=1s,tpot=40ms")
    parser.add_argument("--workload", choices=("mixed", "chat"), default="mixed")
    parser.add_argument("--azure", type=Path, help="the trace's CSV, instead of a workload")
    parser.add_argument("--rates", default="1,1.5,2,2.5,3,6", help="requests per second, from small to large")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run of a workload")
    parser.add_argument("--speed", type=float, default=5.0)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--longest", type=int, default=4096, help="tokens of a prompt, of a trace")
    parser.add_argument("--policies", nargs="+", default=[WHOLE, CHUNKS, OURS])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    told = parser.parse_args()
    rates = [float(rate) for rate in told.rates.split(",")]

    def arrivals(rate: float, vocab: int) -> list[Arrival]:
        if told.azure is not None:
            rows = faster(piece(read_trace(told.azure).rows, *PIECE), told.speed)
            rows = scaled(thinned(rows, rate, told.seed), told.scale, told.longest)
            return of_trace(rows, told.seed, vocab, "azure")
        sizes = mixed_sizes if told.workload == "mixed" else chat_sizes
        return generated(sizes, rate, told.seconds, told.seed, vocab)

    points: list[Point] = []
    for rate in rates:
        for policy in told.policies:
            point = await measure(
                told.model, told.kv, policy, told.slo, rate, lambda vocab, rate=rate: arrivals(rate, vocab)
            )
            points.append(point)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(point).items()}, flush=True)
            if told.json is not None:
                told.json.write_text(json.dumps([asdict(p) for p in points], indent=1))
    names = (
        "attained",
        "goodput",
        "ttft_p50",
        "ttft_p95",
        "tpot_p50",
        "tpot_p95",
        "refused",
        "refusal_p50",
        "refusal_p99",
    )
    print(
        table(("rate", "policy", *names), [(p.rate, p.policy, *(float(getattr(p, n)) for n in names)) for p in points])
    )
    reached = {policy: greatest_rate([p for p in points if p.policy == policy]) for policy in told.policies}
    print("greatest rate at which 90 % are good: " + ", ".join(f"{k}: {v:.2f}/s" for k, v in reached.items()))
    ours = [p for p in points if p.policy == OURS]
    if ours:
        peak = max(p.goodput for p in ours)
        print(f"by SLO: goodput at the greatest load is {ours[-1].goodput / peak:.0%} of its peak")
    if told.plot is not None:
        name = f"Azure conversations x {told.scale:g}" if told.azure else told.workload
        draw(points, told.slo, f"{name}; TTFT {told.slo.ttft:g} s, TPOT {told.slo.tpot:g} s", told.plot)


if __name__ == "__main__":
    asyncio.run(main())
