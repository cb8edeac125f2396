"""What the page is told, as schemas. It asks about once a second, so a step is a row and nothing is told twice."""

import msgspec

from tenfold.cache.map import BlockMap, Holder
from tenfold.core.request import EngineStats
from tenfold.doctor.finding import Finding
from tenfold.engine.inspection import StepRecord
from tenfold.observe.figures import Figures
from tenfold.observe.requests import RequestReport
from tenfold.sched.live import LiveSequence
from tenfold.server.route_protocol import HealthResponse


class StepRow(msgspec.Struct, frozen=True, array_like=True):
    """Of a :class:`~tenfold.engine.inspection.StepRecord`, what is drawn; times in seconds."""

    began: float
    seconds: float
    computing: float
    predicted: float
    decode: int
    prefill: int
    drafted: int
    accepted: int
    running: int
    waiting: int
    held: int


class NewSteps(msgspec.Struct, frozen=True, kw_only=True):
    """``made`` since the engine's start, the last of them in ``data``; ``now`` is its clock, ``calibrated`` whether
    predictions come from measurements on this machine."""

    made: int
    now: float
    calibrated: bool
    data: list[StepRow]


class EndedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that ended; ``tenant`` is that of its API key."""

    report: RequestReport
    tenant: str | None = None


class NewRequests(msgspec.Struct, frozen=True, kw_only=True):
    """``ended`` since the server's start, of which the last that may be seen are in ``data``."""

    ended: int
    data: list[EndedRequest]


class ClassBounds(msgspec.Struct, frozen=True, kw_only=True):
    """An SLO class and its bounds in seconds."""

    name: str
    ttft: float | None
    tpot: float | None


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What is served. ``price`` is that of an hour of the machine, ``operators_only`` whether this address is apart
    from the API's."""

    version: str
    names: list[str]
    model: str | None
    backend: str | None
    max_context: int | None
    blocks: int | None
    block_size: int | None
    max_running: int | None
    price: float | None
    slo_target: float
    default_class: str | None
    classes: list[ClassBounds]
    operators_only: bool


class PoolPicture(msgspec.Struct, frozen=True):
    """A :class:`~tenfold.cache.map.BlockMap`: its first ``blocks``, as runs of equal ones."""

    blocks: int
    runs: list[tuple[int, int]]
    holders: list[Holder]


class DashboardReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures are counters since ``started``: another value there, and all that was told before is void. Without an
    engine there are no ``stats`` and no ``steps``. ``pool`` is there where it was asked for."""

    started: float  # Unix seconds
    now: float
    health: HealthResponse
    served: Served
    figures: Figures
    requests: NewRequests
    stats: EngineStats | None = None
    steps: NewSteps | None = None
    live: list[LiveSequence] = []
    pool: PoolPicture | None = None


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the doctor says of the last ``seconds``; None: of all since the start."""

    findings: list[Finding]
    seconds: float | None = None


def picture(pool: BlockMap) -> PoolPicture:
    """Short in JSON where much is equal."""
    return PoolPicture(len(pool.codes), pool.runs(), pool.holders)


def row(step: StepRecord) -> StepRow:
    """To a microsecond: the page cannot show more, and digits cost."""
    return StepRow(
        round(step.began, 6),
        round(step.seconds, 6),
        round(step.computing, 6),
        round(step.predicted, 6),
        step.decode,
        step.prefill,
        step.drafted,
        step.accepted,
        step.running,
        step.waiting,
        step.held,
    )
