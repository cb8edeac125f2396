"""SIGHUP: the files of a running server, read again."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import ConfigError
from tenfold.server.config import ServerConfig
from tenfold.server.doors import Doors
from tenfold.server.service import Service

_log = logging.getLogger("tenfold.server")
# What counts from the next request, connection or stop on. The rest is built into what runs.
LIVE = ("head_limit", "head_timeout", "body_limit", "body_timeout", "connections", "grace")
# Likewise, options of the scheduler: see `live_limits`.
LIVE_LIMITS = ("max_waiting", "max_waiting_per_tenant", "max_running", "max_step_tokens", "slo", "slo_class")
_NUMBERS = LIVE_LIMITS[:4]
_SIZES = ("max_running", "max_step_tokens")  # memory and captured graphs are for those of the start


@dataclass(frozen=True, slots=True)
class Fresh:
    """The settings as they would be at a start now, and which options besides ``LIVE`` and ``LIVE_LIMITS`` have other
    values then than at the last."""

    server: ServerConfig
    scheduler: SchedulerConfig
    others: tuple[str, ...] = ()


Reread = Callable[[], Fresh]  # raises ConfigError


class Reload:
    """Reads limits, API keys and certificate again. What is wrong changes nothing, and the log says why.

    ``reread`` None: there is no file of settings. ``started``: what the engine was started with.
    """

    def __init__(self, service: Service, doors: Doors, reread: Reread | None, started: SchedulerConfig) -> None:
        self._service = service
        self._started = self._limits = started
        self._parts: list[tuple[str, Callable[[], object]]] = []
        if reread is not None:
            self._parts.append(("settings", lambda: self._settings(reread())))
        if service.config.api_keys_file is not None:
            self._parts.append(("API keys", service.access.reload))
        if doors.tls is not None:
            self._parts.append(("certificate", doors.tls.reload))

    def __call__(self) -> None:
        """Do it."""
        for what, read in self._parts:
            try:
                read()
            except ConfigError as error:
                _log.error("reload: the %s stay as before: %s", what, error)
            else:
                _log.warning("reload: %s read again", what)
        if not self._parts:
            _log.warning("reload: this server was started without files to read again")

    def _settings(self, fresh: Fresh) -> None:
        limits, kept = live_limits(self._limits, self._started, fresh.scheduler)
        before, after = self._service.config, fresh.server
        changes = [(name, getattr(before, name), getattr(after, name)) for name in LIVE]
        changes += [(name, getattr(self._limits, name), getattr(limits, name)) for name in _NUMBERS]
        changes += [("SLO class", old, new) for old, new in zip(self._limits.classes, limits.classes, strict=True)]
        self._service.configure({name: getattr(after, name) for name in LIVE})
        if limits != self._limits:
            self._limits = limits
            self._service.limit(limits)
        for name, old, new in changes:
            if old != new:
                _log.warning("reload: %s was %s and is %s", name, old, new)
        if needed := (*fresh.others, *kept):
            _log.warning("reload: %s changed, too: that needs a restart", ", ".join(needed))


def live_limits(
    now: SchedulerConfig, started: SchedulerConfig, fresh: SchedulerConfig
) -> tuple[SchedulerConfig, tuple[str, ...]]:
    """``now`` with what of ``fresh`` an engine can take that was ``started`` otherwise, and options it cannot take.

    Places and tokens of a step may be as many as at the start, and fewer; classes are the same ones, with other
    settings. Raises ConfigError where the mixture cannot be.
    """
    kept = []
    changes: dict[str, object] = {name: getattr(fresh, name) for name in _NUMBERS}
    for name in _SIZES:
        if getattr(fresh, name) > getattr(started, name):
            del changes[name]
            kept.append(f"--{name.replace('_', '-')} (more than at the start)")
    classes = {one.name: one for one in fresh.classes}
    if classes.keys() != {one.name for one in now.classes}:
        kept.append("--slo-class (other names)")
    changes["classes"] = tuple(classes.get(one.name, one) for one in now.classes)
    return replace(now, **changes), tuple(kept)  # type: ignore[arg-type]
