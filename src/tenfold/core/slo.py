"""Service objectives: bounds in seconds, classes of requests, and how both are written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tenfold.core.errors import ConfigError

_UNITS = {"ms": 1e-3, "s": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s)")
_SWITCH = {"yes": True, "no": False}
_YES = {value: word for word, value in _SWITCH.items()}


@dataclass(frozen=True, slots=True)
class Slo:
    """What requests are promised, in seconds; None: nothing.

    ``ttft``: to the first token. ``tpot``: per output token after the first, on average.
    """

    ttft: float | None = None
    tpot: float | None = None

    def __post_init__(self) -> None:
        for name, bound in (("TTFT", self.ttft), ("TPOT", self.tpot)):
            if bound is not None and not 0 < bound < float("inf"):
                raise ConfigError(f"a {name} bound must be above 0 seconds, got {bound:g}")

    @property
    def bounded(self) -> bool:
        """Whether anything is promised."""
        return self.ttft is not None or self.tpot is not None


NO_SLO = Slo()


@dataclass(frozen=True, slots=True)
class SloClass:
    """Requests that are promised the same.

    ``weight``: one of a larger weight may displace one of a smaller. ``sheddable``: may be refused when its TTFT bound
    is predicted to be missed. ``preemptible``: may give way to a larger weight while it runs.
    """

    name: str
    slo: Slo = NO_SLO
    weight: float = 1.0
    sheddable: bool = True
    preemptible: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", self.name):
            raise ConfigError(f"{self.name!r} is no name of an SLO class: use a-z, 0-9, _ and -, a letter first")
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"the weight of SLO class {self.name} must be above 0, got {self.weight:g}")

    def __str__(self) -> str:
        """As :func:`parse_classes` reads it."""
        bounds = (("ttft", self.slo.ttft), ("tpot", self.slo.tpot))
        fields = [f"{name}={'none' if bound is None else f'{bound * 1000:.10g}ms'}" for name, bound in bounds]
        fields += [f"weight={self.weight:g}", f"shed={_YES[self.sheddable]}", f"preempt={_YES[self.preemptible]}"]
        return f"{self.name}:{','.join(fields)}"


DEFAULT_TARGET = 0.99  # part of requests that shall keep their bounds
DEFAULT_CLASS = "standard"
DEFAULT_CLASSES = (
    SloClass("interactive", Slo(ttft=1.0, tpot=0.1), weight=4.0, preemptible=False),
    SloClass(DEFAULT_CLASS, weight=2.0),
    SloClass("batch", weight=1.0, sheddable=False),
)


def parse_slo(text: str) -> Slo:
    """``ttft=200ms,tpot=30ms``, or one of the two. Raises ConfigError, saying what is wrong."""
    fields = _fields(text, "--slo", ("ttft", "tpot"))
    return Slo(**{name: _seconds(value, "--slo") for name, value in fields.items()})


def parse_classes(texts: Iterable[str], classes: tuple[SloClass, ...] = DEFAULT_CLASSES) -> tuple[SloClass, ...]:
    """``classes`` with those of ``NAME:ttft=200ms,tpot=30ms,weight=4,shed=yes,preempt=no`` changed or added.

    What a text leaves out stays as it is, or is :class:`SloClass`'s default. Raises ConfigError.
    """
    known = {one.name: one for one in classes}
    for text in texts:
        name, colon, rest = text.partition(":")
        name = name.strip()
        fields = _fields(rest, "--slo-class", ("ttft", "tpot", "weight", "shed", "preempt")) if colon else {}
        one = known.get(name) or SloClass(name)
        slo = one.slo
        for bound in ("ttft", "tpot"):
            if bound in fields:
                value = fields[bound]
                slo = replace(slo, **{bound: None if value == "none" else _seconds(value, "--slo-class")})
        one = replace(one, slo=slo)
        if "weight" in fields:
            try:
                one = replace(one, weight=float(fields["weight"]))
            except ValueError:
                raise ConfigError(f"--slo-class: {fields['weight']!r} is no weight; write a number") from None
        one = replace(
            one,
            sheddable=_switch(fields, "shed", default=one.sheddable),
            preemptible=_switch(fields, "preempt", default=one.preemptible),
        )
        known[name] = one
    return tuple(known.values())


def with_slo(classes: tuple[SloClass, ...], name: str, slo: Slo) -> tuple[SloClass, ...]:
    """``classes`` with other bounds for the one of this name."""
    return tuple(replace(one, slo=slo) if one.name == name else one for one in classes)


def _fields(text: str, option: str, names: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in names or name in found or not equals:
            raise ConfigError(f"{option}: {part.strip()!r} is not understood; write it as ttft=200ms,tpot=30ms")
        found[name] = value
    return found


def _switch(fields: dict[str, str], name: str, *, default: bool) -> bool:
    if name not in fields:
        return default
    if fields[name] not in _SWITCH:
        raise ConfigError(f"--slo-class: {name} is yes or no, not {fields[name]!r}")
    return _SWITCH[fields[name]]


def _seconds(text: str, option: str) -> float:
    time = _TIME.fullmatch(text)
    if time is None:
        raise ConfigError(f"{option}: {text!r} is no time; write it as 30ms or 0.03s")
    return float(time[1]) * _UNITS[time[2]]
