"""Who may ask, and how much: API keys from options and a file, with limits."""

import hashlib
import hmac
import logging
from contextvars import ContextVar
from pathlib import Path

from tenfold.core.clock import Clock
from tenfold.core.errors import ConfigError, Overloaded
from tenfold.server.allowance import Allowance
from tenfold.server.config import ServerConfig
from tenfold.server.errors import Headers, HttpError
from tenfold.server.exchange import Exchange
from tenfold.server.keyfile import KeyRecord, hash_of, read_keys

_log = logging.getLogger("tenfold.access")
_LOOK_EVERY = 1.0  # seconds, at most that often the file's date is asked for
_Stamp = tuple[int, int, int]


class Account:
    """One key: whose it is, which SLO classes it may name, and what is left of its limits."""

    __slots__ = ("classes", "hash", "label", "requests", "tenant", "tokens")

    requests: Allowance | None
    tokens: Allowance | None

    def __init__(self, label: str, record: KeyRecord, now: float, before: "Account | None" = None) -> None:
        self.label = label
        self.hash = record.hash.encode()
        self.tenant = record.tenant or label
        self.classes = record.classes
        self.requests = _allowance(record.requests_per_minute, now, before.requests if before else None)
        self.tokens = _allowance(record.tokens_per_minute, now, before.tokens if before else None)

    def headers(self, now: float) -> Headers:
        """What answers tell of its limits."""
        told: Headers = ()
        for name, one in ((b"requests", self.requests), (b"tokens", self.tokens)):
            if one is not None:
                told += one.headers(name, now)
        return told


def _allowance(per_minute: float | None, now: float, before: Allowance | None) -> Allowance | None:
    """What was used of a limit stays used when the file is read again."""
    if per_minute is None:
        return None
    return Allowance(per_minute, now, before.left(now) if before is not None else None)


class Access:
    """The keys that are good now. Reads the file again when it changes, or when told to."""

    def __init__(self, config: ServerConfig, clock: Clock) -> None:
        self._clock = clock
        self._path: Path | None = config.api_keys_file
        self._classes = config.slo_classes
        now = clock.now()
        self._given = tuple(
            Account("key-" + hashlib.sha256(key.encode()).hexdigest()[:12], KeyRecord(hash=hash_of(key.encode())), now)
            for key in config.api_keys
        )
        self._filed: tuple[Account, ...] = ()
        self._stamp: _Stamp | None = None
        self._looked = now
        # Whose request this is: set before its handler runs, and inherited by every task that the handler starts.
        self._asking: ContextVar[Account | None] = ContextVar("asking", default=None)
        if self._path is not None:
            self.reload()

    @property
    def asking(self) -> Account | None:
        """The key of the request that is being answered; None where there are no keys."""
        return self._asking.get()

    @property
    def now(self) -> float:
        """The clock's time, in seconds."""
        return self._clock.now()

    def reload(self) -> int:
        """Read the file; gives how many keys it has. Raises ConfigError: then those from before stay good."""
        if self._path is None:
            return 0
        self._stamp = _stamp(self._path)
        records = read_keys(self._path, self._classes)
        before = {account.hash: account for account in self._filed}
        now = self._clock.now()
        self._filed = tuple(
            Account(label, record, now, before.get(record.hash.encode())) for label, record in records.items()
        )
        return len(self._filed)

    def admit(self, exchange: Exchange) -> None:
        """Let a request in, with its tenant. Raises HttpError (401) or Overloaded, where its key's limits are used."""
        self._look()
        if self._path is None and not self._given:
            self._asking.set(None)
            return
        account = self._find(_sent(exchange))
        self._asking.set(account)
        exchange.tenant = account.tenant
        now = self._clock.now()
        try:
            if exchange.scope["method"] == "POST":
                _charge(account, now)
        finally:
            exchange.told += account.headers(now)

    def _find(self, authorization: bytes | None) -> Account:
        scheme, _, given = (authorization or b"").partition(b" ")
        sent = hash_of(given.strip()).encode()
        # Every key is compared, and a hash with a hash: the time taken says nothing.
        accounts = (*self._given, *self._filed)
        known = [hmac.compare_digest(sent, account.hash) for account in accounts]
        if scheme.lower() != b"bearer" or not any(known):
            what = "no API key was sent" if authorization is None else "the API key is not valid"
            raise HttpError(
                401,
                f"{what}: send the header 'Authorization: Bearer KEY', or 'x-api-key: KEY', with a key of this server",
                code="invalid_api_key",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        return accounts[known.index(True)]

    def _look(self) -> None:
        """Read the file again if it has changed; one that cannot be read leaves everything as it was."""
        now = self._clock.now()
        if self._path is None or now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        if _stamp(self._path) == self._stamp:
            return
        try:
            count = self.reload()
        except ConfigError as error:
            _log.error("the API keys stay as they were: %s", error)
        else:
            _log.warning("%s has changed: %d API keys", self._path, count)


def _sent(exchange: Exchange) -> bytes | None:
    """What came as ``authorization``, or as ``x-api-key``, in which Anthropic's clients send keys."""
    key = exchange.headers.get(b"x-api-key")
    return exchange.headers.get(b"authorization", None if key is None else b"Bearer " + key)


def _stamp(path: Path) -> _Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _charge(account: Account, now: float) -> None:
    """Count a request. One is let in while any tokens are left: what it needs is known when it has ended."""
    for what, one in (("requests", account.requests), ("tokens", account.tokens)):
        if one is not None and (wait := one.wait(now)) > 0:
            raise Overloaded(
                f"this API key's {one.per_minute:.0f} {what} per minute are used; try again in {wait:.1f} s",
                retry_after=wait,
            )
    if account.requests is not None:
        account.requests.take(1, now)
