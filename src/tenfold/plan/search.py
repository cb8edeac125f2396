"""The search: how much one replica can do, then how many are needed, then whether other settings need fewer.

Not a grid: of each setting's values the neighbours are tried, one setting after the other, and a value is kept where it
serves more requests in time. A variant that cannot be cheaper than what is found already is not looked at.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tenfold.core.errors import ConfigError
from tenfold.core.slo import Slo
from tenfold.plan.setting import Demand, Point, Setting, Variant, evaluate, with_replicas

_KNOBS: dict[str, tuple[Any, ...]] = {
    "profile": ("balanced", "interactive", "throughput"),
    "max_step_tokens": (128, 256, 512, 1024, 2048),
    "max_running": (16, 32, 64, 128, 256),
    "router": ("least-work", "slo", "prefix", "round-robin"),
    "speculation": ("off", "auto"),
}
_NEAR = 1.05  # the search for a rate ends where what held and what did not are no further apart
_STEP = 1.15  # from a known start on it goes up so far at a time
_DOUBLINGS = 20
_GAIN = 0.003  # of all requests, met in addition: less is chance
_BEYOND = 1.25  # times what one replica can do: there settings are compared, for there they differ
_MOST = 1000  # replicas

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """``chosen`` is the cheapest that keeps the bounds, None where nothing does; ``doubled`` the same for twice the
    load; ``points`` are all that were tried; ``capacity`` by variant: requests per second that one replica serves."""

    chosen: Point | None
    doubled: Point | None
    points: tuple[Point, ...]
    capacity: dict[str, float]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A setting of one replica, and what part of the load it serves within the bounds: before, and with it."""

    setting: Setting
    before: float
    after: float


class Search:
    """One search; remembers what it tried. ``told`` hears of each simulation."""

    def __init__(self, demand: Demand, slo: Slo, attain: float, told: Told, seed: int = 7) -> None:
        if not 0 < attain <= 1:
            raise ConfigError(f"--attain must be above 0 and at most 1, got {attain:g}")
        self._demand = demand
        self._slo = slo
        self._attain = attain
        self._told = told
        self._seed = seed
        self._known: dict[tuple[Setting, float], Point] = {}

    @property
    def points(self) -> tuple[Point, ...]:
        """All that were tried."""
        return tuple(self._known.values())

    def at(self, setting: Setting, factor: float = 1.0) -> Point:
        """What comes of it."""
        key = (setting, factor)
        if key not in self._known:
            self._told(f"{setting.words}, {factor * self._demand.rate:.3g} requests/s")
            self._known[key] = evaluate(setting, self._demand, self._slo, factor, self._seed)
        return self._known[key]

    def capacity(self, setting: Setting, start: float | None = None) -> float:
        """The greatest part (or multiple) of the load that it serves within the bounds; 0 where there is none.

        ``start``: where to begin, if that is known; else with a request per second.
        """
        held, missed, factor = 0.0, math.inf, start or min(1.0, 1.0 / self._demand.rate)
        for _ in range(_DOUBLINGS):
            if self._holds(self.at(setting, factor)):
                held = factor
            else:
                missed = factor
            if held and missed / held <= _NEAR:
                break
            if missed == math.inf:
                factor = held * (_STEP if start else 2)
            else:
                factor = (held * missed) ** 0.5 if held else missed / 2
        return held

    def tune(self, setting: Setting, factor: float) -> Setting:
        """Its neighbours that serve more in time under that load, one setting after the other."""
        best = self.at(setting, factor)
        for name, values in _KNOBS.items():
            if name == "router" and setting.replicas == 1:
                continue
            if name == "speculation" and setting.variant.machine.drafts is None:
                continue  # nothing is known of how drafts fare
            ordered = name not in ("profile", "router", "speculation")
            tried = {getattr(best.setting, name)}
            while True:
                index = values.index(getattr(best.setting, name))
                near = (index - 1, index + 1) if ordered else range(len(values))
                fresh = [values[i] for i in near if 0 <= i < len(values) and values[i] not in tried]
                if not fresh:
                    break
                tried.update(fresh)
                points = [self.at(replace(best.setting, **{name: value}), factor) for value in fresh]
                top = max(points, key=lambda point: point.attained)
                if top.attained < best.attained + _GAIN:
                    break
                best = top
        return best.setting

    def best_of_one(self, variant: Variant) -> Tuned:
        """The settings with which one replica serves most of the load."""
        base = Setting(variant)
        before = self.capacity(base)
        if not before:
            return Tuned(base, 0.0, 0.0)
        tuned = self.tune(base, before * _BEYOND)
        after = self.capacity(tuned, before)
        return Tuned(tuned, before, after) if after > before else Tuned(base, before, before)

    def plan(self, variants: Sequence[Variant]) -> Plan:
        """The cheapest that serves the load. Variants without a price count as equally dear."""
        capacity: dict[str, float] = {}
        chosen: Point | None = None
        for variant in variants:
            one = Setting(variant)
            can = self.capacity(one)
            capacity[variant.name] = can * self._demand.rate
            if not can:
                continue
            one = self.tune(one, can * _BEYOND)
            can = max(can, self.capacity(one, can))
            capacity[variant.name] = can * self._demand.rate
            found = self._fewest(one, math.ceil(1 / can), 1.0, chosen)
            if found is not None and (chosen is None or _cost(found) < _cost(chosen)):
                chosen = found
        doubled = None
        if chosen is not None:
            doubled = self._fewest(chosen.setting, 2 * chosen.setting.replicas, 2.0, None)
        return Plan(chosen, doubled, self.points, capacity)

    def _fewest(self, one: Setting, count: int, factor: float, beat: Point | None) -> Point | None:
        """The fewest replicas of this kind that serve it, from ``count`` on; None where that cannot beat ``beat``."""
        setting = with_replicas(one, min(count, _MOST))
        point = self.at(setting, factor)
        while not self._holds(point):
            more = max(setting.replicas + 1, math.ceil(setting.replicas * 1.1))
            setting = with_replicas(setting, more)
            if more > _MOST or (beat is not None and _price(setting) >= _cost(beat)):
                return None
            point = self.at(setting, factor)
        if setting.replicas > 1:
            routed = [self.at(replace(setting, router=name), factor) for name in _KNOBS["router"]]
            point = max([point, *routed], key=lambda one: (round(one.attained / _GAIN), one.setting == setting))
        while point.setting.replicas > 1:
            fewer = self.at(with_replicas(point.setting, point.setting.replicas - 1), factor)
            if not self._holds(fewer):
                break
            point = fewer
        return point

    def _holds(self, point: Point) -> bool:
        return point.attained >= self._attain


def pareto(points: Sequence[Point]) -> list[Point]:
    """Of those under the whole load: each cheaper than all that attain as much."""
    best: list[Point] = []
    mine = [point for point in points if point.factor == 1.0]
    for point in sorted(mine, key=lambda one: (_cost(one), -one.attained)):
        if not best or point.attained > best[-1].attained:
            best.append(point)
    return best


def _price(setting: Setting) -> float:
    return setting.replicas * (setting.variant.price if setting.variant.price is not None else 1.0)


def _cost(point: Point) -> float:
    return _price(point.setting)
