"""What enters the engine and what leaves it: frozen records, the same in process and on the wire."""

from typing import Literal

import msgspec

from tenfold.core.sampling import SamplingParams

MAX_PRIORITY = 1000
# How a text's hidden states, after the final norm, become one vector: its last token's, or the mean of all tokens'.
Pooling = Literal["last", "mean"]
POOLED = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)  # of requests that ask for a vector


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt to continue, ``params.n`` times.

    ``prompt_ids`` holds at least one token id. ``arrival`` is the clock's time of receipt, in seconds.
    ``salt`` separates prefix caches: requests share KV blocks only under the same salt, and only within a tenant.
    ``slo_class`` None is the server's default class; ``ttft`` and ``tpot`` (seconds) replace its bounds. A request with
    a smaller ``priority`` goes first: each unit is worth a second of waiting. After ``queue_timeout`` seconds without
    having begun it is given up. ``draft_tokens`` bounds what is drafted for it in a step, 0: nothing is.
    With ``pooling`` the prompt is not continued: its pooled hidden states are the answer (``params`` are
    :data:`POOLED`).
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    arrival: float
    salt: str = ""
    tenant: str = ""
    slo_class: str | None = None
    ttft: float | None = None
    tpot: float | None = None
    priority: int = 0
    queue_timeout: float | None = None
    draft_tokens: int | None = None
    pooling: Pooling | None = None


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token with its natural-log probability under the model (before any filter) and its bytes' text."""

    token: int
    logprob: float
    text: str


class SampleLogprobs(msgspec.Struct, frozen=True):
    """The sampled token's logprob and those of the most likely ones, best first."""

    sampled: TokenLogprob
    top: tuple[TokenLogprob, ...]


class Preemption(msgspec.Struct, frozen=True):
    """A sequence lost its place: when, in seconds since its arrival, and why, in words."""

    at: float
    reason: str


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one sample went in the engine, in seconds, from arrival to its end.

    The parts add up to ``total``: ``queue`` until first scheduled; ``prefill`` until the first token; then ``decode``,
    of which ``interference`` was spent on other requests' prompts in its steps (not counted in ``decode``);
    ``preempted`` without a place, and ``recompute`` after that until where it had been. ``machine_seconds`` is its part
    of the time that the steps took: those of all samples add up to that. One that was aborted while a step was
    computed does not tell its part of it. Of ``draft_tokens`` that were drafted for it ``accepted_tokens`` were right;
    by ``saved_seconds`` its decode is predicted to have been shorter than without speculation, its own and others'.
    """

    slo_class: str
    tenant: str
    queue: float
    prefill: float
    decode: float
    interference: float
    preempted: float
    recompute: float
    total: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    machine_seconds: float = 0.0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    saved_seconds: float = 0.0
    preemptions: tuple[Preemption, ...] = ()
    ttft_bound: float | None = None
    tpot_bound: float | None = None


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to one sample of a request.

    ``text`` is the new text (whole characters only; it may be empty while a character or a possible
    stop string is incomplete), ``tokens`` the new token ids, ``logprobs`` one entry per token when asked.
    ``finish`` is None until the last output of a sample: ``stop`` (end-of-text, stop string or id),
    ``length``, ``abort`` or ``error`` (then ``error`` says why). Every sample of an accepted request gets
    exactly one output with ``finish`` set. ``stop`` tells which stop string or id ended it. With ``finish``
    comes the sample's ``timeline``. An error with ``retry_after`` (seconds) is one of overload: it may be tried again.
    ``embedding`` answers ``pooling``, without tokens: a vector of length 1, as bytes of little-endian float32.
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
    timeline: Timeline | None = None
    retry_after: float | None = None
    embedding: bytes | None = None


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the running engine serves and on what."""

    model: str
    architecture: str
    backend: str  # which ops and kernel path run, e.g. "cpu (avx512-vnni, 2 threads)"
    max_context: int  # tokens, prompt plus output
    vocab_size: int
    blocks: int
    block_size: int  # tokens
    max_waiting: int  # sequences of one tenant that may wait together
    draft_model: str = ""  # the one that drafts, if there is one
    embedding_size: int = 0  # numbers of an embedding; 0: this engine gives none


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since start (``*_total``) and gauges of this moment."""

    steps_total: int = 0
    step_seconds_total: float = 0.0
    prompt_tokens_total: int = 0  # computed, prefix hits not counted
    cached_tokens_total: int = 0  # prompt tokens found in the prefix cache
    generated_tokens_total: int = 0
    preemptions_total: dict[str, int] = msgspec.field(default_factory=dict)  # by reason: memory, slo
    refused_total: dict[str, int] = msgspec.field(default_factory=dict)  # by reason: queue, tenant, ttft, timeout
    finished_total: dict[str, int] = msgspec.field(default_factory=dict)  # by finish reason
    running: int = 0
    waiting: int = 0
    waiting_by_class: dict[str, int] = msgspec.field(default_factory=dict)
    blocks_free: int = 0
    blocks_cached: int = 0
    blocks_held: int = 0
    blocks: int = 0
    part_seconds_total: dict[str, dict[str, float]] = msgspec.field(default_factory=dict)  # as Laps.totals() has them
    step_cost_error: float | None = None  # median |predicted - real| / real of the last steps' seconds
    step_cost_drift: float = 1.0  # how many times as long as calibrated steps take at present
    busy_seconds_total: float = 0.0  # of the machine: what all steps took, with what was between them
    # What of that was of samples that have ended, by SLO class and tenant; "other": those beyond the first.
    billed_seconds_total: dict[str, dict[str, float]] = msgspec.field(default_factory=dict)
    draft_tokens_total: dict[str, int] = msgspec.field(default_factory=dict)  # by proposer
    accepted_tokens_total: dict[str, int] = msgspec.field(default_factory=dict)  # likewise, of those
    draft_seconds_total: float = 0.0  # that steps were predicted to take longer for drafted tokens,
    saved_seconds_total: float = 0.0  # and that accepted ones would have taken without
