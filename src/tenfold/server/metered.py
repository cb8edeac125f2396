"""An engine that counts what each API key uses, and keeps requests to the classes their key is for."""

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import TenfoldError
from tenfold.core.request import EngineInfo, EngineRequest, EngineStats, RequestOutput
from tenfold.engine.client import EngineClient, Health
from tenfold.engine.inspection import PLAIN, Detail, Inspection
from tenfold.server.access import Access, Account
from tenfold.server.allowance import Allowance
from tenfold.server.errors import HttpError


class MeteredEngine:
    """An :class:`~tenfold.engine.client.EngineClient` over another.

    Prompt tokens are charged when a request is handed over (and given back where it is refused), output tokens as they
    come: a client that leaves has paid for what was computed.
    """

    def __init__(self, engine: EngineClient, access: Access) -> None:
        self._engine = engine
        self._access = access

    async def start(self) -> EngineInfo:
        """See EngineClient."""
        return await self._engine.start()

    async def stop(self) -> None:
        """See EngineClient."""
        await self._engine.stop()

    async def stats(self) -> EngineStats:
        """See EngineClient."""
        return await self._engine.stats()

    async def inspect(self, steps: int = 0, detail: Detail = PLAIN) -> Inspection:
        """See EngineClient."""
        return await self._engine.inspect(steps, detail)

    def configure(self, limits: SchedulerConfig) -> None:
        """See EngineClient."""
        self._engine.configure(limits)

    def health(self) -> Health:
        """See EngineClient."""
        return self._engine.health()

    def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        """See EngineClient. Raises HttpError (403) for a class that the key is not for."""
        account = self._access.asking
        if account is None:
            return self._engine.submit(request)
        items = self._engine.submit(_classed(request, account))
        return items if account.tokens is None else self._counted(items, len(request.prompt_ids), account.tokens)

    async def _counted(
        self, items: AsyncIterator[RequestOutput], prompt: int, tokens: Allowance
    ) -> AsyncGenerator[RequestOutput]:
        tokens.take(prompt, self._access.now)
        began = False
        try:
            async for output in items:
                began = True
                tokens.take(len(output.tokens), self._access.now)
                yield output
        except TenfoldError:
            if not began:
                tokens.take(-prompt, self._access.now)
            raise
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()


def _classed(request: EngineRequest, account: Account) -> EngineRequest:
    if not account.classes or request.slo_class in account.classes:
        return request
    if request.slo_class is not None:
        raise HttpError(
            403,
            f"this API key is not for requests of class {request.slo_class[:50]!r}; it is for "
            f"{', '.join(account.classes)}",
            code="slo_class_not_allowed",
            param="slo_class",
        )
    return msgspec.structs.replace(request, slo_class=account.classes[0])
