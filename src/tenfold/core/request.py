"""What enters the engine and what leaves it: frozen records, the same in process and on the wire."""

import msgspec

from tenfold.core.sampling import SamplingParams


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt to continue, ``params.n`` times.

    ``prompt_ids`` holds at least one token id. ``arrival`` is the clock's time of receipt, in seconds.
    ``salt`` separates prefix caches: requests share KV blocks only under the same salt.
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    arrival: float
    salt: str = ""


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token with its natural-log probability under the model (before any filter) and its bytes' text."""

    token: int
    logprob: float
    text: str


class SampleLogprobs(msgspec.Struct, frozen=True):
    """The sampled token's logprob and those of the most likely ones, best first."""

    sampled: TokenLogprob
    top: tuple[TokenLogprob, ...]


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to one sample of a request.

    ``text`` is the new text (whole characters only; it may be empty while a character or a possible
    stop string is incomplete), ``tokens`` the new token ids, ``logprobs`` one entry per token when asked.
    ``finish`` is None until the last output of a sample: ``stop`` (end-of-text, stop string or id),
    ``length``, ``abort`` or ``error`` (then ``error`` says why). Every sample of an accepted request gets
    exactly one output with ``finish`` set. ``stop`` tells which stop string or id ended it.
    """

    id: str
    index: int = 0
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[SampleLogprobs, ...] | None = None
    finish: str | None = None
    stop: str | int | None = None
    error: str | None = None
    cached_tokens: int = 0  # prompt tokens found in the prefix cache
    queue_seconds: float = 0.0  # from arrival to the first step that computed something of it


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the running engine serves and on what."""

    model: str
    architecture: str
    backend: str  # which ops and kernel path run, e.g. "cpu (avx512-vnni, 2 threads)"
    max_context: int  # tokens, prompt plus output
    vocab_size: int
    blocks: int
    block_size: int  # tokens
    max_waiting: int  # sequences the queue holds


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since start (``*_total``) and gauges of this moment."""

    steps_total: int = 0
    step_seconds_total: float = 0.0
    prompt_tokens_total: int = 0  # computed, prefix hits not counted
    cached_tokens_total: int = 0  # prompt tokens found in the prefix cache
    generated_tokens_total: int = 0
    preemptions_total: int = 0
    finished_total: dict[str, int] = msgspec.field(default_factory=dict)  # by finish reason
    running: int = 0
    waiting: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0
    blocks_held: int = 0
    blocks: int = 0
    part_seconds_total: dict[str, dict[str, float]] = msgspec.field(default_factory=dict)  # as Laps.totals() has them
    step_cost_error: float | None = None  # median |predicted - real| / real of the last steps' seconds
    step_cost_drift: float = 1.0  # how many times as long as calibrated steps take at present
