"""An engine as a target, without HTTP."""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from tenfold.bench.record import Record
from tenfold.bench.workload import Work
from tenfold.core.clock import Clock, WallClock
from tenfold.core.errors import EngineUnavailable, TenfoldError
from tenfold.core.request import EngineInfo, EngineRequest, EngineStats
from tenfold.core.sampling import SamplingParams
from tenfold.core.slo import NO_SLO, Slo
from tenfold.engine.client import EngineClient
from tenfold.engine.inspection import KEPT, Inspection, StepRecord


class Tokenizer(Protocol):
    """What a load needs of a tokenizer."""

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids."""
        ...


class EngineTarget:
    """An :class:`EngineClient`, asked directly. ``load_tokenizer`` is called once, in a thread.

    ``slo`` is what every request of :meth:`ask` names as its bounds, but for those that name a class.
    """

    def __init__(
        self,
        engine: EngineClient,
        load_tokenizer: Callable[[], Tokenizer],
        *,
        slo: Slo = NO_SLO,
        clock: Clock | None = None,
    ) -> None:
        self._engine = engine
        self._load_tokenizer = load_tokenizer
        self._clock = clock or WallClock()
        self._slo = slo
        self._requests = 0

    async def start(self) -> str:
        """Load the model."""
        self._tokenizer = await asyncio.to_thread(self._load_tokenizer)
        self.info: EngineInfo = await self._engine.start()
        return f"in-process {self.info.model} ({self.info.backend})"

    async def ask(self, work: Work) -> Record:
        """See :class:`~tenfold.bench.target.Target`."""
        began = self._clock.now()
        ids = tuple(self._tokenizer.encode(work.prompt, add_special=True))
        slo = NO_SLO if work.bare or work.slo_class else self._slo
        terms = {"tenant": work.tenant, "ttft": slo.ttft, "tpot": slo.tpot, "slo_class": work.slo_class or None}
        return await self.ask_ids(ids, work.output_tokens, kind=work.kind, began=began, terms=terms)

    async def ask_ids(
        self,
        ids: tuple[int, ...],
        output_tokens: int,
        *,
        kind: str,
        began: float | None = None,
        terms: Mapping[str, Any] = MappingProxyType({}),
    ) -> Record:
        """Continue token ids greedily by exactly ``output_tokens``; ``terms`` are further fields of the request."""
        record = Record(
            kind,
            output_tokens,
            self._clock.now() if began is None else began,
            prompt_tokens=len(ids),
            tenant=terms.get("tenant", ""),
            slo_class=terms.get("slo_class") or "",
        )
        self._requests += 1
        params = SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
        request = EngineRequest(
            id=f"bench-{self._requests}", prompt_ids=ids, params=params, arrival=record.began, **terms
        )
        try:
            async for output in self._engine.submit(request):
                if output.tokens:
                    record.output(self._clock.now())
                    record.output_tokens += len(output.tokens)
                    record.ids += output.tokens
                if output.finish in ("error", "abort"):
                    status = 429 if output.retry_after is not None else 500
                    record.error = f"{status} {output.error or output.finish}"
        except TenfoldError as error:
            record.error, record.unreached = f"{error.status} {error}", isinstance(error, EngineUnavailable)
        return record.end(self._clock)

    async def stats(self) -> EngineStats:
        """The engine's own counters."""
        return await self._engine.stats()

    async def inspect(self, steps: int = 0) -> Inspection:
        """What the engine knows of its machine, and its last steps."""
        return await self._engine.inspect(steps)

    async def steps(self) -> list[StepRecord]:
        """See :class:`~tenfold.bench.target.Target`."""
        return (await self._engine.inspect(KEPT)).steps

    async def stop(self) -> None:
        """Unload the model."""
        await self._engine.stop()
