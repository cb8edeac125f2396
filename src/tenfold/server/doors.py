"""The listeners behind the sockets of a server."""

import asyncio
import logging
from collections.abc import Callable

from tenfold.core.errors import ConfigError
from tenfold.server.app import App, application
from tenfold.server.listener import Listener
from tenfold.server.run import Sockets
from tenfold.server.service import Service
from tenfold.server.tls import Tls

_log = logging.getLogger("tenfold.server")


class Doors:
    """The API's listener, and the operators'. Raises ConfigError for a certificate that does not do."""

    def __init__(self, service: Service, sockets: Sockets) -> None:
        config = service.config
        self._service = service
        self._tls = Tls(*config.tls) if config.tls is not None else None
        context = self._tls.context if self._tls is not None else None
        self._listeners = [(Listener(application(service), config, tls=context), sockets.public)]
        if sockets.admin is not None:
            self._listeners.append((Listener(App(service, admin=True), config), sockets.admin))

    async def serve(self) -> None:
        """Until told to stop."""
        await asyncio.gather(*(listener.serve([sock]) for listener, sock in self._listeners))

    def stop(self, *, at_once: bool = False) -> None:
        """See :meth:`Listener.stop`."""
        for listener, _ in self._listeners:
            listener.stop(at_once=at_once)

    def reload(self) -> None:
        """Read API keys and certificate again. What cannot be read stays as it was, and the log says why."""
        parts: list[tuple[str, Callable[[], object]]] = [("API keys", self._service.access.reload)]
        if self._tls is not None:
            parts.append(("certificate", self._tls.reload))
        for what, read in parts:
            try:
                read()
            except ConfigError as error:
                _log.error("reload: the %s stay as before: %s", what, error)
            else:
                _log.warning("reload: %s read again", what)
