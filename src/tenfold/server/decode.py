"""From a body's bytes to its schema, with errors that name the parameter and what to do."""

import difflib
import re
from typing import TypeVar

import msgspec

from tenfold.core.errors import InvalidRequest

Body = TypeVar("Body", bound=msgspec.Struct)

_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `\$\.?(.*)`)?$")
_INVALID = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)


def decode(data: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Decode JSON strictly: no NaN or Infinity, no numbers in strings, no unknown fields. Raises InvalidRequest."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _explain(str(error), decoder.type) from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not valid UTF-8 ({error.reason})") from None
    except RecursionError:
        raise InvalidRequest("the body is not usable: its JSON is nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        detail = "it is empty" if not data.strip() else str(error).removeprefix("JSON is malformed: ")
        if detail == "Input data was truncated":
            detail = f"it ends too early, after {len(data)} bytes"
        raise InvalidRequest(f"the body is not valid JSON: {detail}") from None


def _explain(message: str, schema: type[msgspec.Struct]) -> InvalidRequest:
    if found := _UNKNOWN.match(message):
        name, where = found.group(1)[:100], found.group(2)
        near = difflib.get_close_matches(name, schema.__struct_fields__, 1) if not where else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        full = f"{where}.{name}" if where else name
        return InvalidRequest(f"unknown parameter {full!r}{hint}", param=full)
    if found := _MISSING.match(message):
        name, where = found.groups()
        full = f"{where}.{name}" if where else name
        return InvalidRequest(f"missing parameter {full!r}", param=full)
    found = _INVALID.match(message)
    assert found is not None, "the pattern matches every text"
    what, where = found.groups()
    what = what.replace("`", "")
    if not where:
        return InvalidRequest(f"the body must be a JSON object: {what[:1].lower()}{what[1:]}")
    return InvalidRequest(f"{where}: {what[:1].lower()}{what[1:]}", param=where)
