"""What the routes share: the engine, the model's texts, and who may ask for which model."""

import time
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from tenfold.core.clock import Clock, WallClock
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import EngineUnavailable, InvalidRequest
from tenfold.core.request import EngineInfo
from tenfold.engine.client import EngineClient
from tenfold.observe.metrics import Metrics
from tenfold.observe.requests import RequestLog
from tenfold.server.access import Access
from tenfold.server.config import ServerConfig
from tenfold.server.dashboard.diagnosis import Diagnosis
from tenfold.server.dialect import Dialect, dialect_of
from tenfold.server.errors import ModelNotFound
from tenfold.server.journal import Journal, Tracer
from tenfold.server.metered import MeteredEngine
from tenfold.server.text import TextCodec
from tenfold.server.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model once it is there; ``since`` in Unix seconds."""

    info: EngineInfo
    codec: TextCodec
    dialect: Dialect
    since: int


class Service:
    """A served model. It exists, and answers, before the model is loaded. Raises ConfigError for bad files of keys."""

    def __init__(
        self,
        config: ServerConfig,
        engine: EngineClient,
        *,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.config = config
        self.clock = clock or WallClock()
        self.access = Access(config, self.clock)
        self.engine: EngineClient = MeteredEngine(engine, self.access)
        self.metrics = metrics or Metrics(config.price, model=config.names[0], slo_target=config.slo_target)
        self.log = RequestLog()
        self.started = time.time()
        self.diagnosis = Diagnosis(self.engine, self.metrics, self.log, self.clock)
        self.traffic = Traffic()
        self.journal = Journal(config.names[0], tracer)
        self._names = frozenset((*config.names, "default"))
        self._loaded: Loaded | None = None

    def configure(self, changes: dict[str, Any]) -> None:
        """Other settings from now on. Raises ConfigError for those that cannot be."""
        self.config = replace(self.config, **changes)

    def limit(self, limits: SchedulerConfig) -> None:
        """Other limits of the engine from now on; see :meth:`EngineClient.configure`."""
        self.engine.configure(limits)
        if (loaded := self._loaded) is not None:
            info = msgspec.structs.replace(loaded.info, max_waiting=limits.most_together)
            self._loaded = replace(loaded, info=info)

    def load(self, info: EngineInfo, codec: TextCodec) -> None:
        """The model is there: requests are served from now on."""
        template = None if codec.template is None else codec.template.source
        self._loaded = Loaded(info, codec, dialect_of(template, self.config), int(time.time()))

    @property
    def loaded(self) -> Loaded | None:
        """The model, once it is there."""
        return self._loaded

    def require(self) -> Loaded:
        """The model. Raises EngineUnavailable while it loads."""
        if self._loaded is None:
            raise EngineUnavailable("the model is still loading; try again in a moment (GET /health tells when)")
        return self._loaded

    def check_model(self, name: str | None) -> None:
        """Raise ModelNotFound unless ``name`` is one of the served ones; None is."""
        if name is not None and name not in self._names:
            served = ", ".join(repr(known) for known in self.config.names)
            raise ModelNotFound(f"the model {name[:200]!r} is not served here; this server has {served}")


def require_prompt(ids: tuple[int, ...], param: str) -> tuple[int, ...]:
    """The ids, of which there must be one at least."""
    if not ids:
        raise InvalidRequest(f"{param} is empty: it must give at least one token", param=param)
    return ids
