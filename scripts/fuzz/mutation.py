"""From valid inputs to nearly valid ones, all by the random numbers that are given."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 7, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1)
WIDE = (*NUMBERS, 1 << 63, (1 << 64) - 1)
TEXTS = (
    "",
    "\0",
    "a",
    "é漢😀",
    "\ud800",
    "\u202e",
    "{{",
    "%s%n",
    "../../x",
    "true",
    "-0",
    "a" * 300,
    "\n" * 50,
    "<think>",
    "</s>",
)
JUNK: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], {"": None}, 0.5, -0.0, 1e308, -1e308, 5e-324, 1e400),
    *(1 << 64, -(1 << 63), 10**30, *NUMBERS, *TEXTS),
)


def bytes_of(rng: Random, data: bytes, *, head: int | None = None, most: int = 4) -> bytes:
    """``data`` with a few changes in its first ``head`` bytes: values, whole numbers, pieces cut, doubled or moved."""
    made = bytearray(data)
    for _ in range(rng.randint(1, most)):
        end = min(len(made), head or len(made))
        at = rng.randrange(end) if end else 0
        length = rng.choice((1, 2, 4, 8, 16, 64))
        match rng.randrange(7):
            case 0:
                made[at : at + 1] = bytes((rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))),))
            case 1:
                made[at : at + 1] = bytes(((made[at] if end else 0) ^ 1 << rng.randrange(8),))
            case 2:
                width = rng.choice((4, 8))
                made[at : at + width] = (rng.choice(WIDE) % (1 << 8 * width)).to_bytes(width, "little")
            case 3:
                del made[at : at + length]
            case 4:
                made[at:at] = made[at : at + length] * rng.choice((1, 1, 2, 8))
            case 5:
                other = rng.randrange(end) if end else 0
                made[at : at + length] = made[other : other + length]
            case _ if rng.random() < 0.3:
                del made[at:]
            case _:
                made[at:at] = rng.randbytes(length)
    return bytes(made)


def text_of(rng: Random, text: str, *, words: Sequence[str] = (), most: int = 6) -> str:
    """``text`` with pieces of it, or of ``words``, cut, doubled, moved and put in."""
    for _ in range(rng.randint(1, most)):
        at, length = rng.randint(0, len(text)), rng.choice((1, 1, 2, 5, 20))
        match rng.randrange(5):
            case 0:
                text = text[:at] + text[at + length :]
            case 1:
                text = text[:at] + text[at : at + length] * rng.choice((2, 3, 30)) + text[at + length :]
            case 2:
                other = rng.randint(0, len(text))
                text = text[:at] + text[other : other + length] + text[at:]
            case 3:
                text = text[:at] + rng.choice(TEXTS) + text[at:]
            case _:
                word = rng.choice(words) if words else chr(rng.choice((rng.randrange(128), rng.randrange(0xD800))))
                text = text[:at] + word + text[at + (length if rng.random() < 0.3 else 0) :]
    return text[:4000]


def tree_of(rng: Random, value: Any, *, most: int = 3) -> Any:
    """A JSON value with a few of its nodes replaced, left out, renamed, doubled or wrapped."""
    for _ in range(rng.randint(1, most)):
        value = _changed(rng, value)
    return value


def _changed(rng: Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        made = dict(value)
        match rng.randrange(8):
            case 0:
                del made[key]
            case 1:
                made[rng.choice((key.upper(), key + "s", *TEXTS[:6]))] = made.pop(key)
            case 2:
                made[key] = rng.choice(JUNK)
            case _:
                made[key] = _changed(rng, made[key])
        return made
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + [value[at]] * rng.choice((2, 3, 100)) + value[at + 1 :]
            case _:
                return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.4:
        return text_of(rng, value)
    if isinstance(value, int | float) and rng.random() < 0.4:
        return -value
    if rng.random() < 0.1:
        return _wrapped(rng, value)
    return rng.choice(JUNK)


def _wrapped(rng: Random, value: Any) -> Any:
    as_list = rng.random() < 0.5
    for _ in range(rng.choice((1, 1, 2, 100, 2000))):
        value = [value] if as_list else {"type": value}
    return value


def json_of(rng: Random, value: Any) -> bytes:
    """The JSON of ``value``, changed: as a tree and, at times, as text."""
    changed = tree_of(rng, value) if rng.random() < 0.9 else value
    try:
        data = json.dumps(changed, ensure_ascii=rng.random() < 0.8).encode(errors="surrogatepass")
    except RecursionError:  # deeper than this library writes: by hand
        data = b"[" * 100_000
    return bytes_of(rng, data) if rng.random() < 0.15 else data


def pieces_of(rng: Random, whole: Any) -> list[Any]:
    """``whole``, a text or bytes, in pieces."""
    cuts = sorted(rng.randint(0, len(whole)) for _ in range(rng.choice((0, 1, 2, 5, 20))))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
