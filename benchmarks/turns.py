"""Several schedulers over one model, by turns: a slow moment of the machine then meets all of them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tenfold.core.request import EngineRequest, Timeline
from tenfold.core.sampling import SamplingParams
from tenfold.engine.core import EngineCore

TURN = 0.2  # seconds
Ids = tuple[int, ...]
Wanted = tuple[Ids, SamplingParams]  # a prompt, and how it is answered


@dataclass(slots=True)
class Run:
    """What came of some requests."""

    seconds: float = 0.0
    tokens: dict[int, Ids] = field(default_factory=dict)
    times: dict[int, tuple[float, float]] = field(default_factory=dict)  # of the first token and the last
    lines: list[Timeline] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Output tokens per second."""
        return sum(map(len, self.tokens.values())) / self.seconds

    @property
    def decode(self) -> float:
        """Tokens per second of those that decode: 1 over the mean time per token."""
        spans = [last - first for first, last in self.times.values()]
        return sum(len(tokens) - 1 for tokens in self.tokens.values()) / sum(spans)

    def tpot(self, part: float) -> float:
        """The seconds per token that so many of the requests stay below, 0 to 1."""
        found = sorted(
            (last - first) / (len(self.tokens[name]) - 1)
            for name, (first, last) in self.times.items()
            if len(self.tokens[name]) > 8
        )
        return found[min(len(found) - 1, int(part * len(found)))]


class TurnClock:
    """Stands still while it is another's turn."""

    def __init__(self) -> None:
        self._before = 0.0  # seconds of earlier turns
        self._began: float | None = None

    def now(self) -> float:
        """Seconds of its turns so far."""
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def go(self) -> None:
        """Its turn begins."""
        self._began = time.perf_counter()

    def halt(self) -> None:
        """Its turn ends."""
        self._before, self._began = self.now(), None


def take_turns(
    cores: Mapping[str, EngineCore],
    clocks: Mapping[str, TurnClock],
    wanted: Mapping[str, Sequence[Wanted]],
    at_a_time: int,
) -> dict[str, Run]:
    """What each of ``wanted`` asks its core for, so many at a time, in that order; ``clocks`` are the cores' own."""
    runs = {mode: Run() for mode in wanted}
    serving = {mode: _serve(cores[mode], clocks[mode], some, at_a_time, runs[mode]) for mode, some in wanted.items()}
    while serving:
        for mode, steps in list(serving.items()):
            clock = clocks[mode]
            until = clock.now() + TURN
            clock.go()
            while clock.now() < until:
                if next(steps, steps) is steps:  # all are answered
                    del serving[mode]
                    break
            clock.halt()
    return runs


def _serve(core: EngineCore, clock: TurnClock, wanted: Sequence[Wanted], at_a_time: int, run: Run) -> Iterator[None]:
    """All of ``wanted``; stops after each step."""
    left = list(enumerate(wanted))
    active: set[str] = set()
    began = clock.now()
    while left or active:
        while left and len(active) < at_a_time:
            number, (ids, params) = left.pop(0)
            core.submit(EngineRequest(id=str(number), prompt_ids=ids, params=params, arrival=clock.now()))
            active.add(str(number))
        for output in core.step():
            now, number = clock.now(), int(output.id)
            run.tokens[number] = run.tokens.get(number, ()) + output.tokens
            run.times[number] = run.times.get(number, (now, now))[0], now
            if output.finish is not None:
                active.discard(output.id)
                if output.timeline is not None:
                    run.lines.append(output.timeline)
        run.seconds = clock.now() - began
        yield
