"""On what terms a request is served: its class, its bounds, its tenant."""

from dataclasses import dataclass

from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import InvalidRequest
from tenfold.core.request import MAX_PRIORITY, EngineRequest
from tenfold.core.slo import NO_SLO, Slo, SloClass

MAX_TENANT = 128  # characters

_ANY = SloClass("standard")


@dataclass(frozen=True, slots=True)
class Terms:
    """``slo``: the bounds that count. ``asked``: which of them the request itself named, so that it must be told when
    they cannot be. ``priority`` is in seconds of waiting, the smaller the sooner; ``queue_timeout`` in seconds."""

    slo_class: SloClass = _ANY
    slo: Slo = NO_SLO
    asked: Slo = NO_SLO
    tenant: str = ""
    priority: int = 0
    queue_timeout: float | None = None


NO_TERMS = Terms()


class TermsOf:
    """Reads requests' terms by a configuration."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._classes = {one.name: one for one in config.classes}
        self._default = self._classes[config.default_class]
        self._plain = Terms(self._default, self._default.slo)

    def __call__(self, request: EngineRequest) -> Terms:
        """Raises InvalidRequest, naming the field."""
        slo_class = self._default
        if request.slo_class is not None:
            found = self._classes.get(request.slo_class)
            if found is None:
                raise InvalidRequest(
                    f"there is no SLO class {request.slo_class[:50]!r}: choose one of {', '.join(self._classes)}",
                    param="slo_class",
                )
            slo_class = found
        for name in ("ttft", "tpot", "queue_timeout"):
            bound = getattr(request, name)
            if bound is not None and not 0 < bound < float("inf"):
                param = {"ttft": "slo_ttft_ms", "tpot": "slo_tpot_ms", "queue_timeout": "queue_timeout_ms"}[name]
                raise InvalidRequest(f"{param} must be above 0, got {bound * 1000:g}", param=param)
        if abs(request.priority) > MAX_PRIORITY:
            raise InvalidRequest(
                f"priority must be from {-MAX_PRIORITY} to {MAX_PRIORITY}, got {request.priority}", param="priority"
            )
        if len(request.tenant) > MAX_TENANT:
            raise InvalidRequest(f"a tenant's name has at most {MAX_TENANT} characters", param="tenant")
        asked = Slo(request.ttft, request.tpot)
        if not asked.bounded and not request.tenant and not request.priority and request.queue_timeout is None:
            return self._plain if slo_class is self._default else Terms(slo_class, slo_class.slo)
        slo = Slo(request.ttft or slo_class.slo.ttft, request.tpot or slo_class.slo.tpot)
        return Terms(slo_class, slo, asked, request.tenant, request.priority, request.queue_timeout)
