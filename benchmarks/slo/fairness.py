"""Tenants beside a greedy one. ``python -m benchmarks.slo.fairness --trace PATH``.

The VTC artifact's trace of 27 tenants at a part of the engine's capacity, as it is and with one tenant sending ten
times as much, by SLO (with fairness between tenants) and first come, first served. Prints the other tenants' TTFT, by
how much the greedy one changed it, and Jain's index of service per demand. Runs take turns.
"""

import asyncio
import statistics
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from benchmarks.slo.harness import (
    CHUNKS,
    OURS,
    Traced,
    engine,
    failures,
    milliseconds,
    multi_tenant,
    of_trace,
    options,
    policies,
    refused,
    replay,
    table,
    thinned,
)

TIMES = 10


def greedy(trace: list[Traced], tenant: str) -> list[Traced]:
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


async def main() -> None:
    """See above."""
    parser = options(__doc__, "ttft=10s,tpot=100ms", rounds=3)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=3.0, help="requests per second of all tenants, as they are")
    parser.add_argument("--speed", type=float, default=10.0)
    told = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float, float, float]]] = defaultdict(list)
    for seed in range(told.rounds):
        trace = thinned(multi_tenant(told.trace), told.rate, told.speed, told.seed + seed)
        name = Counter(row.tenant for row in trace).most_common(1)[0][0]
        for policy in (OURS, CHUNKS):
            for load, rows in (("as it is", trace), (f"one tenant x {TIMES}", greedy(trace, name))):
                async with engine(told.model, told.kv, policies(told.slo)[policy]) as target:
                    work = of_trace(rows, 1.0, 4096, seed, target.info.vocab_size, "chat")
                    records = await replay(target, work)
                assert not failures(records), failures(records)[:3]
                others = [
                    r.ttft for r, row in zip(records, rows, strict=True) if row.tenant != name and r.ttft is not None
                ]
                served: Counter[str] = Counter()
                asked: Counter[str] = Counter()
                for record, row in zip(records, rows, strict=True):
                    asked[row.tenant] += row.prompt + 2 * row.outputs
                    if not record.error and (record.ttft or 9e9) < 10 * (record.e2e or 0):
                        served[row.tenant] += row.prompt + 2 * row.outputs
                figures = (
                    milliseconds(others, 50),
                    milliseconds(others, 95),
                    jain([served[t] / asked[t] for t in asked if t != name]),
                    sum(map(refused, records)) / len(records),
                )
                found[policy, load].append(figures)
                print(
                    f"round {seed + 1}, {policy}, {load}: {len(records)} requests, tenant {name}: {figures}", flush=True
                )
    rows_out = []
    for (policy, load), rounds in found.items():
        p50, p95, index, refusals = (statistics.median(f[i] for f in rounds) for i in range(4))
        base = statistics.median(f[1] for f in found[policy, "as it is"])
        rows_out.append((policy, load, p50, p95, f"{p95 / base:.2f}", index, f"{refusals:.0%}"))
    columns = ("policy", "load", "others' TTFT p50, ms", "p95, ms", "to as it is", "Jain's index, others", "refused")
    print(table(columns, rows_out))


if __name__ == "__main__":
    asyncio.run(main())
