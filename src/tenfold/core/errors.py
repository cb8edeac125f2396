"""The error tree.

Every error a user can cause derives from :class:`TenfoldError`; its message says what was wrong,
where, and what to do. Invariants of our own use ``assert`` instead.

    TenfoldError
    ├── InvalidRequest        a request that can never be served        HTTP 400
    │   └── ContextOverflow   longer than the model's context           HTTP 400
    ├── NotFound              no such model, route or request           HTTP 404
    ├── Overloaded            a limit of the server was hit             HTTP 429
    ├── EngineUnavailable     the engine died, restarts or is stuck     HTTP 503
    ├── ConfigError           settings that cannot work together        exit 2
    └── ModelError            a model cannot be used                    exit 2
        ├── CorruptModel      damaged, truncated or hostile file
        ├── UnsupportedModel  well-formed, of a kind we do not run
        └── FetchError        a download failed or did not verify
"""


class TenfoldError(Exception):
    """Base of all errors meant for users. ``str(error)`` is fit to be shown as is."""

    status = 500


class InvalidRequest(TenfoldError):
    """A request that can never be served as it stands.

    ``param`` names the offending field, as OpenAI's error object does.
    """

    status = 400

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflow(InvalidRequest):
    """The prompt, or prompt plus requested output, does not fit the context or the KV pool."""


class NotFound(TenfoldError):
    """No such model, route or request."""

    status = 404


class Overloaded(TenfoldError):
    """A configured limit was hit; try again after ``retry_after`` seconds."""

    status = 429

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineUnavailable(TenfoldError):
    """The engine died, is restarting, or makes no progress."""

    status = 503


class ConfigError(TenfoldError):
    """Settings that are invalid or cannot work together."""


class ModelError(TenfoldError):
    """A model that cannot be used."""


class CorruptModel(ModelError):
    """A damaged, truncated or hostile model file."""


class UnsupportedModel(ModelError):
    """A well-formed model of a kind that is not supported; the message names what is."""


class FetchError(ModelError):
    """A download failed, or what arrived did not verify."""
