"""What came of a simulation: columns of numbers instead of a record per request, so that a million fit."""

import re
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

from tenfold.core.slo import Slo
from tenfold.sim.call import Call
from tenfold.traffic.figures import milliseconds

_ROWS = 20_000  # requests of which a report has a row each
_GROUPS = 20  # tenants told apart, those with most requests
_NONE = float("nan")


class Outcome:
    """Owner of the figures. Times are in seconds; NaN stands for what there is not."""

    def __init__(self, slo: Slo) -> None:
        self._slo = slo
        self._columns = {name: array("d") for name in ("at", "ttft", "tpot", "e2e", "machine")}
        self._tokens = {name: array("q") for name in ("prompt", "cached", "outputs")}
        self._good = array("b")
        self._refused = array("b")
        self._classes: list[str] = []
        self._tenants: list[str] = []
        self.reasons: Counter[str] = Counter()  # of refusals: the first words, without numbers
        self.preemptions = 0
        self.seconds = 0.0  # simulated
        self.busy = 0.0  # of which replicas were at work, all together
        self.steps = 0

    @property
    def count(self) -> int:
        """Requests that have ended."""
        return len(self._good)

    def add(self, call: Call) -> None:
        """A request has ended."""
        line, row, columns, tokens = call.timeline, call.row, self._columns, self._tokens
        refused = call.error is not None
        columns["at"].append(call.arrived)
        columns["ttft"].append(_NONE if call.ttft is None or refused else call.ttft)
        columns["tpot"].append(_NONE if (tpot := call.tpot) is None else tpot)
        columns["e2e"].append(_NONE if call.ended is None else call.ended - call.arrived)
        columns["machine"].append(line.machine_seconds if line is not None else 0.0)
        tokens["prompt"].append(0 if refused else row.prompt)
        tokens["cached"].append(line.cached_tokens if line is not None else 0)
        tokens["outputs"].append(line.output_tokens if line is not None else 0)
        self._good.append(call.good(self._slo))
        self._refused.append(refused)
        self._classes.append(call.slo_class)
        self._tenants.append(row.tenant)
        if line is not None:
            self.preemptions += len(line.preemptions)
        if call.error is not None:
            self.reasons[re.sub(r"\d[\d.]*", "…", call.error.split(",")[0])[:60]] += 1

    def close(self, seconds: float, busy: float) -> None:
        """It took so long."""
        self.seconds, self.busy = seconds, busy

    @property
    def attained(self) -> float:
        """The part of all requests that were answered and met the bounds."""
        return sum(self._good) / self.count if self.count else 0.0

    @property
    def machine_seconds(self) -> float:
        """Of the replicas, what all requests were charged."""
        return sum(self._columns["machine"])

    @property
    def good(self) -> int:
        """Requests that were answered and met the bounds."""
        return sum(self._good)

    @property
    def answered(self) -> int:
        """Requests that were let in and finished."""
        return self.count - sum(self._refused)

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(self._tokens["outputs"])

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts that were answered."""
        return sum(self._tokens["prompt"])

    def report(self, target: str, workload: str, load: dict[str, Any], users: int | None, seed: int) -> dict[str, Any]:
        """The same JSON object as that of a real run (``tenfold.bench.report``): its kinds are SLO classes, and gaps
        between tokens are not told."""
        count, seconds = self.count, max(self.seconds, 1e-9)
        output, prompt = self.output_tokens, self.prompt_tokens
        report: dict[str, Any] = {
            "target": target,
            "workload": workload,
            "load": load,
            "n": count,
            "concurrency": users,
            "rate": round(count / last, 4) if users is None and (last := max(self._columns["at"], default=0)) else None,
            "seed": seed,
            "wall_s": round(self.seconds, 3),
            "out_tok_s": round(output / seconds, 1),
            "total_tok_s": round((output + prompt) / seconds, 1),
            "req_s": round(self.answered / seconds, 3),
            "simulated": {
                "steps": self.steps,
                "busy_s": round(self.busy, 3),
                "machine_s": round(self.machine_seconds, 3),
                "preemptions": self.preemptions,
                "refusals": dict(self.reasons.most_common(5)),
            },
        }
        if self._slo.bounded:
            slo = self._slo
            report["slo"] = {
                "ttft_ms": None if slo.ttft is None else round(slo.ttft * 1000, 3),
                "tpot_ms": None if slo.tpot is None else round(slo.tpot * 1000, 3),
            }
            report["attained"] = round(self.attained, 4)
            report["goodput_req_s"] = round(self.good / seconds, 3)
        if self.reasons:
            report["first_error"] = "; ".join(f"{count} × {why}" for why, count in self.reasons.most_common(3))
        report["all"] = self.figures()
        report["kinds"] = self._apart(self._classes)
        if any(self._tenants):
            report["tenants"] = self._apart(self._tenants)
        order = sorted(range(count), key=self._columns["at"].__getitem__)
        report["requests"] = [self._row(at) for at in order] if count <= _ROWS else []
        return report

    def figures(self) -> dict[str, Any]:
        """Of all requests."""
        return self._figures(lambda at: True)

    def _apart(self, labels: list[str]) -> dict[str, Any]:
        shown = sorted(name for name, _ in Counter(labels).most_common(_GROUPS))
        return {name: self._figures(_is(labels, name)) for name in shown}

    def _figures(self, belongs: Callable[[int], bool]) -> dict[str, Any]:
        chosen = [at for at in range(self.count) if belongs(at)]
        figures: dict[str, Any] = {
            "n": len(chosen),
            "errors": sum(self._refused[at] for at in chosen),
            "refused": sum(self._refused[at] for at in chosen),
            "short_out": 0,
        }
        if self._slo.bounded:
            figures["good"] = sum(self._good[at] for at in chosen)
        for name in ("ttft", "itl", "tpot", "e2e"):
            column = self._columns.get(name, ())
            values = [value for at in chosen if (value := column[at]) == value] if column else []
            figures[f"{name}_ms"] = milliseconds(values)
        return figures

    def _row(self, at: int) -> dict[str, Any]:
        columns, tokens = self._columns, self._tokens
        row: dict[str, Any] = {
            "at_s": round(columns["at"][at], 4),
            "kind": self._classes[at],
            "prompt_tokens": tokens["prompt"][at],
            "output_tokens": tokens["outputs"][at],
            "machine_s": round(columns["machine"][at], 6),
        }
        for name in ("ttft", "tpot", "e2e"):
            value = columns[name][at]
            row[f"{name}_ms"] = round(value * 1000, 3) if value == value else None
        if self._tenants[at]:
            row["tenant"] = self._tenants[at]
        if self._slo.bounded:
            row["good"] = bool(self._good[at])
        if self._refused[at]:
            row["error"] = "429 refused"
        return row


def _is(labels: list[str], one: str) -> Callable[[int], bool]:
    return lambda at: labels[at] == one
