"""The planner, over machines that are formulas."""

from collections.abc import Iterator
from itertools import pairwise, takewhile

import pytest
from msgspec.structs import replace

from tenfold.core.errors import ConfigError
from tenfold.core.slo import Slo
from tenfold.cost.estimate import StepFit
from tenfold.cost.machine import Machine
from tenfold.plan.report import as_json, page, table, words_of
from tenfold.plan.search import Search, pareto
from tenfold.plan.setting import Setting, Variant, evaluate
from tenfold.spec.acceptance import STEPS
from tenfold.spec.profile import DraftProfile
from tenfold.traffic import lengths
from tenfold.traffic.arrivals import poisson
from tenfold.traffic.row import Row

BOUNDS = Slo(ttft=2.0, tpot=0.1)


def machine(speed: float = 1.0) -> Machine:
    parts = tuple(part / speed for part in (0.008, 0.03, 0.03, 0.045, 0.045, 0.045, 0.001, 0.004, 0.01, 0.04))
    return Machine(
        model="m",
        backend="b",
        cpu="c",
        max_context=8192,
        blocks=4000,
        block_size=16,
        windows=(0,),
        fit=StepFit((*parts, 0.003, 0.004, 0.002)),
    )


class Chats:
    """Twenty seconds of chats."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def rows(self, factor: float, seed: int) -> Iterator[Row]:
        return takewhile(lambda row: row.at < 20.0, lengths.rows("chat", poisson(self.rate * factor, seed), seed))


def nothing(_: str) -> None:
    pass


SLOW = Variant("slow", machine(), 3.6)


@pytest.fixture(scope="module")
def search() -> Search:
    """One that several tests go on with: it remembers what it tried."""
    return Search(Chats(10.0), BOUNDS, 0.9, nothing)


def test_what_is_chosen_keeps_the_bounds_and_one_less_does_not(search: Search) -> None:
    found = search.plan([SLOW])
    assert found.chosen is not None
    assert found.chosen.attained >= 0.9
    assert found.chosen.setting.replicas > 1
    setting = found.chosen.setting
    fewer = evaluate(Setting(setting.variant, setting.replicas - 1, setting.profile), Chats(10.0), BOUNDS)
    assert fewer.attained < 0.95  # near what is needed: not many to spare
    assert found.doubled is not None
    assert found.doubled.attained >= 0.9
    assert found.doubled.setting.replicas <= 2 * setting.replicas


@pytest.mark.parametrize(("price", "expected"), [(5.4, "fast"), (28.8, "slow")])
def test_the_cheaper_machine_is_chosen(search: Search, price: float, expected: str) -> None:
    """One three times as fast, for little more or for much more."""
    found = search.plan([SLOW, Variant("fast", machine(3.0), price)])
    assert found.chosen is not None
    assert found.chosen.setting.variant.name == expected
    assert found.capacity["fast"] > 2 * found.capacity["slow"]


def test_capacity_is_where_the_bounds_begin_to_break() -> None:
    search = Search(Chats(4.0), BOUNDS, 0.9, nothing)
    one = Setting(Variant("one", machine()))
    can = search.capacity(one)
    assert search.at(one, can).attained >= 0.9
    assert min(point.attained for point in search.points if point.factor > can) < 0.9


def test_settings_that_serve_more_are_found() -> None:
    """A variant that has few places to begin with: more of them help, and the search says so."""
    search = Search(Chats(4.0), Slo(ttft=2.0, tpot=0.1), 0.9, nothing)
    few = Setting(Variant("one", machine()), max_running=16)
    stressed = 1.25 * search.capacity(few)
    assert search.at(search.tune(few, stressed), stressed).attained >= search.at(few, stressed).attained


def test_bounds_that_nothing_keeps() -> None:
    found = Search(Chats(1.0), Slo(ttft=0.001), 0.9, nothing).plan([Variant("one", machine())])
    assert found.chosen is None
    assert "Nothing that was tried" in " ".join(words_of(found, 1.0, 0.9))
    assert as_json(found, 1.0, 0.9, Slo(ttft=0.001))["chosen"] is None


def test_costs_add_up(search: Search) -> None:
    found = search.plan([SLOW])
    point = found.chosen
    assert point is not None
    told = point.as_json()
    assert told["cost_per_hour"] == pytest.approx(3.6 * told["replicas"])
    assert told["cost_per_good_request"] >= told["cost_per_request"]
    assert told["cost_per_million_output_tokens"] == pytest.approx(
        told["cost_per_hour"] / 3600 / told["out_tok_s"] * 1e6, rel=1e-3
    )
    best = pareto(found.points)
    assert all(one.per_hour < other.per_hour for one, other in pairwise(best))  # type: ignore[operator]
    assert all(one.attained < other.attained for one, other in pairwise(best))
    assert "What was tried" in page(found, 10.0, 0.9, "about")
    assert table(found, 10.0, 0.9).row_count >= 1


def test_bad_parts() -> None:
    with pytest.raises(ConfigError, match="--attain"):
        Search(Chats(1.0), BOUNDS, 0.0, nothing)


def test_nothing_is_said_against_drafts_without_need() -> None:
    plain, drafting = machine(), replace(machine(), drafts=DraftProfile(0.5, (1,) * len(STEPS), (0.0,) * len(STEPS)))
    bounds = Slo(ttft=1.0)
    assert "speculation" not in Setting(Variant("one", plain)).options(bounds)
    assert "--speculation" not in Setting(Variant("one", plain)).words
    known = Setting(Variant("one", drafting))
    assert known.options(bounds)["speculation"] == "auto" and "--speculation auto" in known.words
