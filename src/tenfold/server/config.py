"""Settings of the HTTP side."""

import math
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tenfold.core.errors import ConfigError
from tenfold.core.slo import DEFAULT_CLASSES, DEFAULT_TARGET

_URL = re.compile(r"https?://[^\s/]+\S*")
_ORIGIN = re.compile(r"https?://[^/\s]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int


TOOL_PARSERS = ("auto", "hermes", "llama3", "mistral", "none")
REASONING_PARSERS = ("auto", "think", "none")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where and how to serve. Limits of bodies and heads (request line and headers) are in bytes, times in seconds.

    ``names`` are those the model is served under, the first one being shown in answers; ``default`` always works too.
    With ``api_keys`` or an ``api_keys_file``, all routes but ``/health`` and the API page ask for a key; keys in a file
    may be for some of the ``slo_classes`` only. ``admin``: metrics and what operators debug by are served there,
    without keys, and not beside the API. Pages of ``cors_origins`` may ask from a browser. ``tls``: the files of a
    certificate and its key. ``price`` is that of an hour of the machine, in any currency.
    ``log_prompts``: requests' bodies go to the log. ``otlp`` is the URL that spans are sent to.
    ``slo_target`` is the part of answers with bounds that shall keep them: metrics tell what is left of the rest.
    ``tool_parser`` is how the model writes calls, ``reasoning_parser`` how thoughts: ``auto`` is as its chat template
    shows.
    """

    names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    slo_classes: tuple[str, ...] = tuple(one.name for one in DEFAULT_CLASSES)
    tls: tuple[Path, Path] | None = None
    cors_origins: tuple[str, ...] = ()
    admin: Address | None = None
    head_limit: int = 32 << 10
    head_timeout: float = 20.0
    body_limit: int = 4 << 20
    body_timeout: float = 60.0
    connections: int = 4096
    grace: float = 30.0
    price: float | None = None
    slo_target: float = DEFAULT_TARGET
    log_prompts: bool = False
    otlp: str | None = None
    tool_parser: str = "auto"
    reasoning_parser: str = "auto"

    def __post_init__(self) -> None:
        if not self.names or not all(self.names):
            raise ConfigError("the served model needs a name that is not empty")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be from 0 to 65535, got {self.port}")
        if not all(self.api_keys):
            raise ConfigError("an API key must not be empty; leave --api-key out to serve without one")
        if self.body_limit < 1024 or self.head_limit < 1024 or self.connections < 1 or not self.grace >= 0:
            raise ConfigError(
                "limits of bodies and headers must be at least 1024 bytes, connections at least 1, and the grace "
                "period not negative"
            )
        if not (self.head_timeout > 0 and self.body_timeout > 0):
            raise ConfigError("--head-timeout and --body-timeout must be above 0 seconds")
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"--cors-origin {origin!r} is no origin: write it as https://chat.example.com, or *")
        if self.otlp is not None and not _URL.fullmatch(self.otlp):
            raise ConfigError(f"--otlp {self.otlp!r} is no URL: write it as http://localhost:4318")
        if not 0 < self.slo_target < 1:
            raise ConfigError(f"--slo-target must be between 0 and 1, as 0.99, got {self.slo_target:g}")
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

    @property
    def exposed(self) -> bool:
        """Whether others than this machine's own users may reach it without a key."""
        try:
            local = ip_address(self.host).is_loopback
        except ValueError:
            local = self.host == "localhost"
        return not local and not self.keyed

    @property
    def keyed(self) -> bool:
        """Whether requests need an API key."""
        return bool(self.api_keys) or self.api_keys_file is not None
