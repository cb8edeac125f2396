"""What the routes share: the engine, the model's texts, and who may ask for which model."""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tenfold.core.clock import Clock, WallClock
from tenfold.core.errors import EngineUnavailable, InvalidRequest
from tenfold.core.request import EngineInfo
from tenfold.engine.client import EngineClient
from tenfold.observe.metrics import Metrics
from tenfold.observe.requests import RequestLog
from tenfold.server.config import ServerConfig
from tenfold.server.dialect import Dialect, dialect_of
from tenfold.server.errors import HttpError, ModelNotFound
from tenfold.server.text import TextCodec


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model once it is there; ``since`` in Unix seconds."""

    info: EngineInfo
    codec: TextCodec
    dialect: Dialect
    since: int


class Service:
    """A served model. It exists, and answers, before the model is loaded."""

    def __init__(
        self, config: ServerConfig, engine: EngineClient, *, clock: Clock | None = None, metrics: Metrics | None = None
    ) -> None:
        self.config = config
        self.engine = engine
        self.clock = clock or WallClock()
        self.metrics = metrics or Metrics(config.price)
        self.log = RequestLog()
        self._keys = tuple(key.encode() for key in config.api_keys)
        self._tenants = tuple("key-" + hashlib.sha256(key).hexdigest()[:12] for key in self._keys)
        self._names = frozenset((*config.names, "default"))
        self._loaded: Loaded | None = None

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

    def check_key(self, headers: Mapping[bytes, bytes]) -> str | None:
        """The tenant whose key ``authorization`` or ``x-api-key`` holds; None where there are no keys. Raises a 401."""
        if not self._keys:
            return None
        authorization = headers.get(b"authorization")
        if authorization is None and (key := headers.get(b"x-api-key")) is not None:
            authorization = b"Bearer " + key
        scheme, _, given = (authorization or b"").partition(b" ")
        # every key is compared, so that the time taken says nothing
        known = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        if scheme.lower() != b"bearer" or not any(known):
            what = "no API key was sent" if authorization is None else "the API key is not valid"
            raise HttpError(
                401,
                f"{what}: send the header 'Authorization: Bearer KEY', or 'x-api-key: KEY', with a key of this server",
                code="invalid_api_key",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        return self._tenants[known.index(True)]


def require_prompt(ids: tuple[int, ...], param: str) -> tuple[int, ...]:
    """The ids, of which there must be one at least."""
    if not ids:
        raise InvalidRequest(f"{param} is empty: it must give at least one token", param=param)
    return ids
