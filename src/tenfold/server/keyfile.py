"""API keys in a file: made, written, read and checked.

A TOML file with a line per key, its label first:

    laptop = {hash = "sha256:9f86…", tenant = "acme", classes = ["interactive"], requests_per_minute = 60}

Only hashes are kept: a file that leaks gives no key away. A key is 256 random bits, so a plain SHA-256 is enough: there
is no dictionary to try.
"""

import hashlib
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec

from tenfold.core.errors import ConfigError

PREFIX = "tf-"  # what secret scanners can look for
_MOST = 4096  # keys: each is compared with what a request sends
_MOST_BYTES = 4 << 20
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LABEL = re.compile(r"[!-~]{1,128}")

Hash = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}$")]
PerMinute = Annotated[float, msgspec.Meta(ge=1, le=1e12)]


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A line of the file. ``tenant`` None: the label.

    With ``classes``, requests of the key are of one of these SLO classes: the first, where they name none.
    """

    hash: Hash
    tenant: Name | None = None
    classes: tuple[str, ...] = ()
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None


def new_key() -> str:
    """A key nobody else has."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: bytes) -> str:
    """What the file keeps of a key."""
    return "sha256:" + hashlib.sha256(key).hexdigest()


def line_of(label: str, record: KeyRecord) -> str:
    """The file's line for a key. Raises ConfigError where the label cannot be one."""
    if not _LABEL.fullmatch(label):
        raise ConfigError(f"{label[:50]!r} is no label for a key: use up to 128 printable ASCII characters, no spaces")
    fields = []
    for name, value in msgspec.to_builtins(record).items():
        fields.append(f"{name} = {_toml(value)}")
    return f"{label if _BARE.fullmatch(label) else _toml(label)} = {{{', '.join(fields)}}}"


def _toml(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return msgspec.json.encode(value).decode()  # strings, numbers and lists are written alike in both


def read_keys(path: Path, classes: Collection[str]) -> dict[str, KeyRecord]:
    """The file's keys by label; ``classes`` are the SLO classes there are. Raises ConfigError, naming file and key."""
    import tomllib  # only where there is a file: every server imports this module before it answers

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path} is larger than {_MOST_BYTES} bytes: it is no file of API keys")
        lines = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the API keys in {path}: {error.strerror}; check --api-keys") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}; `tenfold keys new` writes lines for it") from None
    if len(lines) > _MOST:
        raise ConfigError(f"{path} has {len(lines)} keys, more than {_MOST}")
    keys = {label: _record(path, label, fields, classes) for label, fields in lines.items()}
    owners: dict[str, str] = {}
    for label, record in keys.items():
        if (other := owners.setdefault(record.hash, label)) != label:
            raise ConfigError(f"{path}: {other!r} and {label!r} are the same key; remove one of them")
    return keys


def _record(path: Path, label: str, fields: object, classes: Collection[str]) -> KeyRecord:
    if not _LABEL.fullmatch(label):
        raise ConfigError(f"{path}: {label[:50]!r} is no label for a key: use printable ASCII characters, no spaces")
    try:
        record = msgspec.convert(fields, KeyRecord)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: key {label!r}: {error}; `tenfold keys new` writes such lines") from None
    for name in record.classes:
        if name not in classes:
            raise ConfigError(
                f"{path}: key {label!r} is for the SLO class {name!r}, which there is not; there are "
                f"{', '.join(sorted(classes))} (see --slo-class)"
            )
    return record
