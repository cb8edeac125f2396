"""SIGHUP: the files of a running server, read again."""

import logging
from collections.abc import Callable

from tenfold.core.errors import ConfigError
from tenfold.server.config import ServerConfig
from tenfold.server.doors import Doors
from tenfold.server.service import Service

# The settings as they would be at a start now, and which options besides `LIVE` have other values then. Raises
# ConfigError.
Reread = Callable[[], tuple[ServerConfig, tuple[str, ...]]]

_log = logging.getLogger("tenfold.server")
# What counts from the next request, connection or stop on. The rest is built into what runs.
LIVE = ("head_limit", "head_timeout", "body_limit", "body_timeout", "connections", "grace")


class Reload:
    """Reads limits, API keys and certificate again. What is wrong changes nothing, and the log says why.

    ``reread`` None: there is no file of settings.
    """

    def __init__(self, service: Service, doors: Doors, reread: Reread | None) -> None:
        self._service = service
        self._parts: list[tuple[str, Callable[[], object]]] = []
        if reread is not None:
            self._parts.append(("settings", lambda: self._settings(*reread())))
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

    def _settings(self, fresh: ServerConfig, others: tuple[str, ...]) -> None:
        for name in LIVE:
            before, after = getattr(self._service.config, name), getattr(fresh, name)
            if before != after:
                _log.warning("reload: %s was %s and is %s", name, before, after)
        if others:
            _log.warning("reload: %s changed, too: that needs a restart", ", ".join(others))
        self._service.configure({name: getattr(fresh, name) for name in LIVE})
