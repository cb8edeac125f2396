"""How large a constraint becomes when its repetitions are written out.

The library follows what must come byte by byte: a text of a million bytes that a few characters ask for, as
``((a{900}){900}){900}``, would keep a step waiting for minutes.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from tenfold.core.constraint import Constraint

MOST = 20_000  # characters, repetitions of one thing, or items that have to be there
_COUNTS = re.compile(r"\{\s*(\d+)?\s*(?:,\s*(\d*)\s*)?\}|~\s*(\d+)(?:\.\.(\d+))?")
_EMBEDDED = re.compile(r"%json\s*")
_decoder = json.JSONDecoder()
_LEAST = ("minItems", "minLength", "minProperties")


def too_large(constraint: Constraint) -> bool:
    """Whether it is beyond ``MOST``. What cannot be read at all is not."""
    if constraint.kind == "json":
        try:
            return any(_schema_sizes(json.loads(constraint.text)))
        except (ValueError, RecursionError):
            return False
    if constraint.kind == "regex":
        return expansion(constraint.text) > MOST
    if constraint.kind == "choice":
        return False
    text, schemas = _apart(constraint.text) if constraint.kind == "lark" else (constraint.text, [])
    if any(any(_schema_sizes(schema)) for schema in schemas):
        return True
    counts = sorted((_most_of(found) for found in _COUNTS.finditer(text)), reverse=True)
    product = 1
    for count in counts[:3]:  # rules may hold one another
        product *= max(1, count)
    return product > MOST


def _apart(text: str) -> tuple[str, list[Any]]:
    """A Lark grammar without the JSON schemas in it, and those."""
    rest, schemas, at = [], [], 0
    for found in _EMBEDDED.finditer(text):
        if found.start() < at:
            continue  # inside a schema
        rest.append(text[at : found.end()])
        at = found.end()
        with contextlib.suppress(ValueError, RecursionError):
            schema, at = _decoder.raw_decode(text, at)
            schemas.append(schema)
    return "".join((*rest, text[at:])), schemas


def expansion(pattern: str) -> int:
    """About how many characters a regular expression has with its repetitions written out."""
    sizes, last, at = [0], 0, 0  # of the groups that are open; of the last thing
    while at < len(pattern):
        character = pattern[at]
        found = _COUNTS.match(pattern, at) if character == "{" else None
        if found is not None:
            sizes[-1] += last * (max(1, _most_of(found)) - 1)
            at = found.end()
            continue
        at += 1
        if character == "(":
            sizes.append(0)
        elif character == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        else:
            if character == "\\":
                at += 1
            elif character == "[":
                end = pattern.find("]", at + 1)
                at = end + 1 if end >= 0 else at
            last = 1
            sizes[-1] += 1
    return sum(sizes)


def _most_of(found: re.Match[str]) -> int:
    """The larger number of a repetition; of one without an end, the smaller."""
    digits = [group for group in found.groups() if group]
    return max((int(group) if len(group) < 10 else 10**9 for group in digits), default=1)


def _schema_sizes(node: Any) -> Iterator[bool]:
    if isinstance(node, list):
        for one in node:
            yield from _schema_sizes(one)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key == "pattern" and isinstance(value, str):
            yield expansion(value) > MOST
        elif key == "patternProperties" and isinstance(value, dict):
            yield any(expansion(name) > MOST for name in value)
        elif key in _LEAST and isinstance(value, int | float):
            yield value > MOST
        yield from _schema_sizes(value)
