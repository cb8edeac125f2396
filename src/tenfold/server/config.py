"""Settings of the HTTP side."""

import math
from dataclasses import dataclass

from tenfold.core.errors import ConfigError

TOOL_PARSERS = ("auto", "hermes", "llama3", "mistral", "none")
REASONING_PARSERS = ("auto", "think", "none")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where and how to serve. ``body_limit`` is in bytes; ``body_timeout`` and ``grace`` in seconds.

    ``names`` are those the model is served under, the first one being shown in answers; ``default`` always works too.
    With ``api_keys``, all routes but ``/health`` and the API page ask for one of them. ``price`` is that of an hour of
    the machine, in any currency. ``tool_parser`` is how the model writes calls,
    ``reasoning_parser`` how thoughts: ``auto`` is as its chat template shows.
    """

    names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    body_limit: int = 4 << 20
    body_timeout: float = 60.0
    grace: float = 30.0
    price: float | None = None
    tool_parser: str = "auto"
    reasoning_parser: str = "auto"

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise ConfigError("the served model needs a name that is not empty")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be from 0 to 65535, got {self.port}")
        if not all(self.api_keys):
            raise ConfigError("an API key must not be empty; leave --api-key out to serve without one")
        if self.body_limit < 1024 or self.grace < 0:
            raise ConfigError("the body limit must be at least 1024 bytes, and the grace period not negative")
        if self.tool_parser not in TOOL_PARSERS:
            raise ConfigError(f"--tool-parser must be one of {', '.join(TOOL_PARSERS)}, got {self.tool_parser!r}")
        if self.reasoning_parser not in REASONING_PARSERS:
            raise ConfigError(
                f"--reasoning-parser must be one of {', '.join(REASONING_PARSERS)}, got {self.reasoning_parser!r}"
            )
        if self.price is not None and not 0 < self.price < math.inf:
            raise ConfigError(
                f"--price must be above 0, as 0.40 for an hour of this machine, got {self.price:g}; leave it out to "
                "serve without one"
            )
