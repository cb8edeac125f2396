"""The page's files, and the routes it asks."""

import time
from importlib.resources import files
from types import MappingProxyType

import msgspec

from tenfold.core.errors import EngineUnavailable, NotFound
from tenfold.core.request import EngineStats
from tenfold.engine.inspection import Detail, Inspection
from tenfold.observe.about import tenfold_version
from tenfold.observe.requests import EVERYONE
from tenfold.server.dashboard.protocol import (
    ClassBounds,
    DashboardReport,
    EndedRequest,
    NewRequests,
    NewSteps,
    Served,
    picture,
    row,
)
from tenfold.server.exchange import Exchange
from tenfold.server.query import chosen, whole
from tenfold.server.routes import health_of, whose
from tenfold.server.service import Service

STEPS, REQUESTS = 512, 200  # at most so many are told at once
_MOST = 1 << 53  # the largest whole number that a page can count to

# Nothing but these files runs, is asked or is shown; no page frames it. Styles are set by rules, not in the markup.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)
_KINDS = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
FILES = MappingProxyType(
    {
        file.name: (file.read_bytes(), _KINDS[file.name.rpartition(".")[2]])
        for file in files("tenfold.server.dashboard").joinpath("static").iterdir()
    }
)


async def page(service: Service, exchange: Exchange) -> None:
    """The page."""
    await exchange.send_bytes(*FILES["index.html"], headers=_HEADERS)


async def file(service: Service, exchange: Exchange) -> None:
    """One of its files."""
    name = exchange.scope["path_params"]["name"]
    if name not in FILES:
        raise NotFound(f"the page has no file {name[:80]!r}")
    await exchange.send_bytes(*FILES[name], headers=_HEADERS)


async def data(service: Service, exchange: Exchange) -> None:
    """What is new since so many ``steps`` and ``requests``, and what is now; with ``pool=true`` also its blocks."""
    after, known = whole(exchange, "steps", 0, 0, _MOST), whole(exchange, "requests", 0, 0, _MOST)
    detail = Detail(after=after, live=True, pool=chosen(exchange, "pool"))
    stats: EngineStats | None = None
    seen: Inspection | None = None
    try:
        stats = await service.engine.stats()
        seen = await service.engine.inspect(STEPS, detail)
    except (EngineUnavailable, NotFound):
        pass  # the page says so
    latest = service.log.after(known, REQUESTS, whose(exchange))
    report = DashboardReport(
        started=service.started,
        now=time.time(),
        health=health_of(service),
        served=_served(service, seen, operators_only=exchange.operator),
        figures=service.metrics.figures(),
        requests=NewRequests(
            ended=service.log.added, data=[EndedRequest(report=one, tenant=owner) for one, owner in latest]
        ),
        stats=None if stats is None else msgspec.structs.replace(stats, part_seconds_total={}),
    )
    await exchange.send_json(report if seen is None else _with(report, seen, exchange))


def _with(report: DashboardReport, seen: Inspection, exchange: Exchange) -> DashboardReport:
    """What the engine tells, but for what is other tenants'."""
    live, pool = seen.live, seen.pool
    if (viewer := whose(exchange)) is not EVERYONE and viewer is not None:
        live = [one for one in seen.live if one.tenant == viewer]
        mine = {one.id for one in live}
        pool = pool.without({one.id for one in pool.holders} - mine) if pool is not None else None
    steps = NewSteps(made=seen.made, now=seen.now, calibrated=seen.calibrated, data=[row(step) for step in seen.steps])
    return msgspec.structs.replace(report, steps=steps, live=live, pool=picture(pool) if pool is not None else None)


def _served(service: Service, seen: Inspection | None, *, operators_only: bool) -> Served:
    info = service.loaded.info if service.loaded is not None else None
    config, limits = service.config, seen.limits if seen is not None else None
    classes = limits.classes if limits is not None else ()
    return Served(
        version=tenfold_version(),
        names=list(config.names),
        model=info.model if info else None,
        backend=info.backend if info else None,
        max_context=info.max_context if info else None,
        blocks=info.blocks if info else None,
        block_size=info.block_size if info else None,
        max_running=limits.max_running if limits else None,
        price=config.price,
        slo_target=config.slo_target,
        default_class=limits.default_class if limits else None,
        classes=[ClassBounds(name=one.name, ttft=one.slo.ttft, tpot=one.slo.tpot) for one in classes],
        operators_only=operators_only,
    )


async def doctor(service: Service, exchange: Exchange) -> None:
    """What the doctor says of the last minute."""
    await exchange.send_json(await service.diagnosis.report(whose(exchange)))
