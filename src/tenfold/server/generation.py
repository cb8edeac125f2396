"""From requests to an answer: the work behind all routes that the engine answers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from tenfold.core.errors import EngineUnavailable, Overloaded, TenfoldError
from tenfold.core.request import EngineRequest, RequestOutput
from tenfold.engine.client import EngineClient
from tenfold.observe.requests import ChoiceTimeline
from tenfold.observe.timeline import RequestTimeline
from tenfold.server.errors import HttpError, api_error
from tenfold.server.exchange import Exchange
from tenfold.server.formats import Format, Tally, WholeFormat

Choice = tuple[int, RequestOutput]
_log = logging.getLogger("tenfold.server")


@dataclass(frozen=True, slots=True)
class Job:
    """Requests of one HTTP request, all with the same ``n``; choices are numbered prompt by prompt."""

    requests: tuple[EngineRequest, ...]
    n: int
    format: WholeFormat
    events: Format | None = None  # of a stream, where that is asked for
    usage_in_events: bool = False
    timeline: bool = False  # whether choices tell where their time went
    price: float | None = None  # of an hour of the machine

    @property
    def choices(self) -> int:
        """How many there are in all."""
        return self.n * len(self.requests)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; each counts once, whatever n."""
        return sum(len(request.prompt_ids) for request in self.requests)


async def answer(job: Job, engine: EngineClient, exchange: Exchange, timeline: RequestTimeline) -> None:
    """Run the job and answer; a client that leaves aborts it at once."""
    try:
        await exchange.unless_gone(_run(job, engine, exchange, timeline))
    except TenfoldError:
        timeline.close("error")
        raise
    finally:
        timeline.close("abort")


async def _run(job: Job, engine: EngineClient, exchange: Exchange, timeline: RequestTimeline) -> None:
    if job.events is None:
        await _collect(job, engine, exchange, timeline)
    else:
        await _stream(job, job.events, engine, exchange, timeline)


async def outputs(job: Job, engine: EngineClient) -> AsyncGenerator[Choice]:
    """What the engine gives for all of the job's prompts, as it comes. Closing it aborts what is unfinished."""
    if len(job.requests) == 1:
        async with _closing(engine.submit(job.requests[0])) as items:
            async for output in items:
                yield output.index, output
        return
    queue: asyncio.Queue[Choice | BaseException | None] = asyncio.Queue()
    tasks = [
        asyncio.ensure_future(_forward(engine.submit(request), at * job.n, queue))
        for at, request in enumerate(job.requests)
    ]
    try:
        open_prompts = len(tasks)
        while open_prompts:
            item = await queue.get()
            if item is None:
                open_prompts -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    items: AsyncIterator[RequestOutput], base: int, queue: "asyncio.Queue[Choice | BaseException | None]"
) -> None:
    try:
        async with _closing(items):
            async for output in items:
                queue.put_nowait((base + output.index, output))
        queue.put_nowait(None)
    except Exception as error:
        queue.put_nowait(error)


@contextlib.asynccontextmanager
async def _closing(items: AsyncIterator[RequestOutput]) -> AsyncGenerator[AsyncIterator[RequestOutput]]:
    """Close the iterator at the end, if it is of the kind that can be."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _collect(job: Job, engine: EngineClient, exchange: Exchange, timeline: RequestTimeline) -> None:
    tally = Tally(job.prompt_tokens, job.choices, job.price)
    timelines: dict[int, ChoiceTimeline] = {}
    collected: list[list[RequestOutput]] = [[] for _ in range(job.choices)]
    async with contextlib.aclosing(outputs(job, engine)) as items:
        async for choice, output in items:
            _raise_failure(output)
            tally.add(choice // job.n, output)
            collected[choice].append(output)
            if output.finish is not None and job.timeline and (line := timeline.report(choice, output)) is not None:
                timelines[choice] = line
            timeline.sent(choice, output)
    if not all(collected):
        raise EngineUnavailable("the engine gave no output for a choice; try again")
    await exchange.send_json(job.format.whole(collected, tally.usage(), timelines))


async def _stream(job: Job, shape: Format, engine: EngineClient, exchange: Exchange, timeline: RequestTimeline) -> None:
    """Nothing is sent before the first output is there: until then an error still has its own HTTP status."""
    tally = Tally(job.prompt_tokens, job.choices, job.price)
    event = shape.event
    try:
        async with contextlib.aclosing(outputs(job, engine)) as items:
            async for choice, output in items:
                _raise_failure(output)
                tally.add(choice // job.n, output)
                if not exchange.status:
                    await exchange.start_events()
                told = timeline.report(choice, output) if job.timeline and output.finish is not None else None
                data = event(choice, output, tally.usage() if job.usage_in_events else None, told)
                if data:
                    await exchange.send_event(data)
                timeline.sent(choice, output)
    except Exception as error:
        if not exchange.status:
            raise
        timeline.close("error")
        if not isinstance(error, TenfoldError):
            _log.exception("request %s failed in its stream", exchange.request_id)
        await exchange.send_event(shape.failure(api_error(error)), last=True)
        return
    if not exchange.status:
        raise EngineUnavailable("the engine ended the request without an output; try again")
    await exchange.send_event(shape.end(tally.usage()), last=True)


def _raise_failure(output: RequestOutput) -> None:
    if output.finish == "error" and output.retry_after is not None:
        raise Overloaded(output.error or "overloaded", retry_after=output.retry_after)
    if output.finish == "error":
        raise HttpError(500, f"generation failed: {output.error}", code="generation_failed")
    if output.finish == "abort":
        raise EngineUnavailable(f"the request was aborted: {output.error or 'the engine is stopping'}")
