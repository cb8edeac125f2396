"""Tenfold's engine, stepped in process."""

from collections.abc import Iterable, Sequence
from typing import Any

from protocol import serve

from tenfold.core.clock import WallClock
from tenfold.core.config import NO_SPECULATION, EngineConfig, SchedulerConfig
from tenfold.core.request import EngineRequest
from tenfold.core.sampling import SamplingParams
from tenfold.engine.build import build_engine


class Tenfold:
    """See :class:`protocol.Engine`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        engine = build_engine(EngineConfig(**settings, scheduler=SchedulerConfig(speculation=NO_SPECULATION)))
        self._core = engine.core
        self._about = engine.info.backend
        self._clock = WallClock()
        self._count = 0

    def describe(self) -> str:
        return self._about

    def submit(self, number: int, ids: Sequence[int], wanted: int) -> None:
        self._count += 1
        self._core.submit(
            EngineRequest(
                id=str(number),
                prompt_ids=tuple(ids),
                params=SamplingParams(temperature=0.0, max_tokens=wanted, ignore_eos=True),
                arrival=self._clock.now(),
                salt=str(self._count),  # no prefix is shared: every prompt is computed
            )
        )

    def step(self) -> Iterable[tuple[int, Sequence[int]]]:
        for output in self._core.step():
            if output.finish in ("error", "abort"):
                raise RuntimeError(output.error or output.finish)
            yield int(output.id), output.tokens


if __name__ == "__main__":
    serve(Tenfold)
