"""Reports as pages: whole, escaped, with their pictures."""

import asyncio
from html.parser import HTMLParser
from typing import Any

import pytest

from tenfold.bench import plots
from tenfold.bench.load import Load, at_random, closed, run_load
from tenfold.bench.page import page, sweep_page
from tenfold.bench.record import Record
from tenfold.bench.report import summary
from tenfold.bench.workload import Work
from tenfold.core.clock import VirtualClock
from tenfold.core.slo import NO_SLO, Slo
from tenfold.engine.inspection import StepRecord

VOID = {"meta", "br", "path", "use"}


class Scripted:
    """Every third is refused; ``name`` may be anything."""

    def __init__(self) -> None:
        self.asked = 0

    async def start(self) -> str:
        return "scripted"

    async def ask(self, work: Work) -> Record:
        self.asked += 1
        clock = VirtualClock(self.asked / 10)
        record = Record(
            work.kind, work.output_tokens, clock.now(), prompt_tokens=9, tenant="<b>" if self.asked % 2 else "[x"
        )
        if self.asked % 3 == 0 and self.asked > 2:
            record.error = "429 full"
        else:
            for _ in range(work.output_tokens):
                clock.advance(0.01)
                record.output(clock.now())
            record.output_tokens = work.output_tokens
        return record.end(clock)

    async def steps(self) -> list[StepRecord]:
        return []

    async def stop(self) -> None:
        pass


def made(load: Load, slo: Slo) -> dict[str, Any]:
    return summary(asyncio.run(run_load(Scripted(), load)), "http://<host>", slo)


class Tags(HTMLParser):
    """Whether all that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def whole(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "<host>" not in text
    assert "&lt;host&gt;" in text
    assert "src=" not in text, "it needs no other file"
    return tags


@pytest.mark.parametrize("slo", [NO_SLO, Slo(0.05, 0.02), Slo(tpot=0.001)])
def test_a_page(slo: Slo, monkeypatch: pytest.MonkeyPatch) -> None:
    report = made(closed("mixed", 12, 3), slo)
    text = page(report)
    assert "svg" in whole(text).seen
    assert ("met the bounds" in text) == slo.bounded
    assert "&lt;b&gt;" in text
    assert "<b>429" not in text
    assert "First error: 429 full" in text
    assert "This run is partial" in page({**report, "partial": "nobody answered"})
    monkeypatch.setattr(plots, "available", lambda: False)
    plain = page(report)
    assert "svg" not in whole(plain).seen
    assert "tenfold[plot]" in plain


@pytest.mark.parametrize("slo", [NO_SLO, Slo(0.05, 0.02)])
def test_a_page_of_several_rates(slo: Slo) -> None:
    reports = [made(at_random("short", 8, rate), slo) for rate in (1000.0, 4000.0)]
    text = sweep_page(reports, "90% meet the bounds up to 1 requests/s")
    assert "svg" in whole(text).seen
    assert "up to 1 requests/s" in text


def test_the_engines_steps_are_drawn() -> None:
    steps = [
        StepRecord(at / 10, 0.05, 0.04, 0.05, at % 5, 64 * (at % 2), at % 5, 9.0, 0.0, at % 5, at % 3, at)
        for at in range(40)
    ]
    text = page(made(closed("short", 4, 2), NO_SLO), steps)
    assert "last 40 steps" in text
    assert text.count("<svg") == page(made(closed("short", 4, 2), NO_SLO)).count("<svg") + 1
