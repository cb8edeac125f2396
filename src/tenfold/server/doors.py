"""The listeners behind the sockets of a server."""

import asyncio
from functools import partial

from tenfold.server.app import App, application
from tenfold.server.connection import Bounds
from tenfold.server.listener import Listener
from tenfold.server.run import Sockets
from tenfold.server.service import Service
from tenfold.server.tls import Tls


class Doors:
    """The API's listener, and the operators'. Raises ConfigError for a certificate that does not do."""

    def __init__(self, service: Service, sockets: Sockets) -> None:
        config = service.config
        self.tls = Tls(*config.tls) if config.tls is not None else None
        context = self.tls.context if self.tls is not None else None
        bounds = partial(_bounds, service)
        self._listeners = [(Listener(application(service), bounds, tls=context), sockets.public)]
        if sockets.admin is not None:
            self._listeners.append((Listener(App(service, admin=True), bounds), sockets.admin))

    async def serve(self) -> None:
        """Until told to stop."""
        await asyncio.gather(*(listener.serve([sock]) for listener, sock in self._listeners))

    def stop(self, *, at_once: bool = False) -> None:
        """See :meth:`Listener.stop`."""
        for listener, _ in self._listeners:
            listener.stop(at_once=at_once)


def _bounds(service: Service) -> Bounds:
    """Those of now: settings may be read again."""
    config = service.config
    return Bounds(config.head_limit, config.head_timeout, config.connections)
