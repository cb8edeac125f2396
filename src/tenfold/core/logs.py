"""Logs of every process: as text for people, or a JSON object per line for programs; on stderr."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

TEXT, JSON = LOG_FORMATS = ("text", "json")
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS = "tenfold_fields"  # a record's attribute; the name is nobody else's


def set_up(level: str, form: str) -> None:
    """Write what is of ``level`` or worse, in one of ``LOG_FORMATS``."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == JSON else _Text(_TEXT))
    logging.basicConfig(handlers=(handler,), level=level.upper())


def told(**fields: Any) -> dict[str, Any]:
    """For a logging call's ``extra``: fields of their own in JSON, ``name=value`` at the end of a line of text.

    Those that are None are left out.
    """
    return {_FIELDS: {name: value for name, value in fields.items() if value is not None}}


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, _FIELDS, {})
    return fields


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The line, without a traceback."""
        # A value may be a client's: as JSON it cannot begin a line of its own.
        fields = (f" {name}={msgspec.json.encode(value).decode()}" for name, value in _fields_of(record).items())
        return super().formatMessage(record) + "".join(fields)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
