"""Tenants beside a greedy one. ``python -m benchmarks.slo.fairness --trace PATH``.

The VTC artifact's trace of 27 tenants at a part of the engine's capacity, as it is and with one tenant sending ten
times as much, by SLO (with fairness between tenants) and first come, first served. Prints the other tenants' TTFT, by
how much the greedy one changed it, and Jain's index of service within the bounds. Runs take turns.
"""

import asyncio
import statistics
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from benchmarks.slo.harness import (
    CHUNKS,
    OURS,
    engine,
    failures,
    milliseconds,
    of_trace,
    options,
    policies,
    replay,
    table,
)
from tenfold.bench.record import Record
from tenfold.core.slo import Slo
from tenfold.traffic.row import Row
from tenfold.traffic.shaping import faster, scaled, thinned
from tenfold.traffic.traces import read_trace

TIMES = 10


def greedy(trace: list[Row], tenant: str) -> list[Row]:
    """The trace with each of the tenant's requests ten times, in the time to its next one."""
    found = []
    mine = [row.at for row in trace if row.tenant == tenant]
    after = dict(zip(mine, [*mine[1:], trace[-1].at + 1], strict=True))
    for row in trace:
        copies = TIMES if row.tenant == tenant else 1
        gap = (after[row.at] - row.at) / copies if copies > 1 else 0.0
        found += [replace(row, at=row.at + i * gap) for i in range(copies)]
    return sorted(found, key=lambda row: row.at)


def jain(values: list[float]) -> float:
    """Jain's index: 1 where all are equal, 1/n where one has all (Jain, Chiu, Hawe, 1984)."""
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values)) if any(values) else 1.0


def served_share(pairs: list[tuple[Record, Row]], slo: Slo) -> list[float]:
    """What came within the bounds, by tenant, to what of it were the tenant's by max-min fairness."""
    asked: Counter[str] = Counter()
    served: Counter[str] = Counter()
    for record, row in pairs:
        asked[row.tenant] += row.prompt + 2 * row.outputs
        served[row.tenant] += (row.prompt + 2 * row.outputs) * record.good(slo)
    level = max_min(list(asked.values()), served.total())
    return [served[tenant] / min(asked[tenant], level) for tenant in asked]


def max_min(wants: list[int], total: float) -> float:
    """The level up to which each want is met when ``total`` is shared so that the least is as much as can be."""
    left = sorted(wants)
    while left and left[0] * len(left) <= total:
        total -= left.pop(0)
    return total / len(left) if left else float("inf")


async def main() -> None:
    """See above."""
    parser = options(__doc__, "ttft=10s,tpot=100ms", rounds=3)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=3.0, help="requests per second of all tenants, as they are")
    parser.add_argument("--speed", type=float, default=10.0)
    told = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
    for seed in range(told.rounds):
        trace = scaled(thinned(faster(read_trace(told.trace).rows, told.speed), told.rate, told.seed + seed), 1.0, 4096)
        name = Counter(row.tenant for row in trace).most_common(1)[0][0]
        for policy in (OURS, CHUNKS):
            for load, rows in (("as it is", trace), (f"one tenant x {TIMES}", greedy(trace, name))):
                async with engine(told.model, told.kv, policies(told.slo)[policy]) as target:
                    work = of_trace(rows, seed, target.info.vocab_size, "chat")
                    records = await replay(target, work)
                assert not failures(records), failures(records)[:3]
                pairs = list(zip(records, rows, strict=True))
                others = [record for record, row in pairs if row.tenant != name]
                greedy_one = [record for record, row in pairs if row.tenant == name]
                ttfts = [record.ttft for record in others]
                figures = (
                    milliseconds(ttfts, 50),
                    milliseconds(ttfts, 95),
                    jain(served_share(pairs, told.slo)),
                    sum(one.refused for one in others) / len(others),
                    sum(one.refused for one in greedy_one) / len(greedy_one),
                )
                found[policy, load].append(figures)
                print(
                    f"round {seed + 1}, {policy}, {load}: {len(records)} requests, tenant {name}: {figures}", flush=True
                )
    rows_out = []
    for (policy, load), rounds in found.items():
        p50, p95, index, refusals, of_greedy = (statistics.median(f[i] for f in rounds) for i in range(5))
        change = statistics.median(f[1] / b[1] for f, b in zip(rounds, found[policy, "as it is"], strict=True))
        rows_out.append((policy, load, p50, p95, f"{change:.2f}", index, f"{refusals:.0%}", f"{of_greedy:.0%}"))
    columns = (
        "policy",
        "load",
        "others' TTFT p50, ms",
        "p95, ms",
        "to as it is",
        "Jain's index of all",
        "others refused",
        "the one refused",
    )
    print(table(columns, rows_out))


if __name__ == "__main__":
    asyncio.run(main())
