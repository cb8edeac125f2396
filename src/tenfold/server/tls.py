"""HTTPS: the certificate, and another one while the server runs."""

import ssl
from pathlib import Path

from tenfold.core.errors import ConfigError


class Tls:
    """A certificate chain and its key, from PEM files. Raises ConfigError where they do not do."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        # Python's defaults for servers: TLS 1.2 at least, no compression, its own order of ciphers.
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.reload()

    def reload(self) -> None:
        """Read the files again: connections from now on get them. Raises ConfigError: then nothing has changed."""
        trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        for context in (trial, self.context):
            try:
                context.load_cert_chain(self._cert, self._key, password=_no_password)
            except ssl.SSLError as error:
                raise ConfigError(
                    f"{self._cert} and {self._key} are no certificate with its key ({error.reason or error}); give PEM "
                    "files that belong together with --tls-cert and --tls-key"
                ) from None
            except OSError as error:
                raise ConfigError(
                    f"cannot read {self._cert} and {self._key}: {error.strerror}; check --tls-cert and --tls-key"
                ) from None


def _no_password() -> str:
    raise ConfigError("the key of --tls-key is encrypted, and a server has nobody to ask; decrypt it first")
