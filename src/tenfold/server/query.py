"""What stands behind the question mark."""

from urllib.parse import parse_qs

from tenfold.core.errors import InvalidRequest
from tenfold.server.exchange import Exchange


def whole(exchange: Exchange, name: str, default: int, least: int, most: int) -> int:
    """A whole number. Raises InvalidRequest for what is none, or beyond its bounds."""
    text = _last(exchange, name, str(default))
    if not (text.isascii() and text.isdecimal()) or len(text) > 20 or not least <= int(text) <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}, got {text[:50]!r}", param=name)
    return int(text)


def chosen(exchange: Exchange, name: str) -> bool:
    """``true`` or ``false``, which it is where it is left out. Raises InvalidRequest."""
    text = _last(exchange, name, "false")
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false, got {text[:50]!r}", param=name)
    return text == "true"


def _last(exchange: Exchange, name: str, default: str) -> str:
    query: bytes = exchange.scope["query_string"]
    return parse_qs(query.decode("latin-1")).get(name, [default])[-1]
