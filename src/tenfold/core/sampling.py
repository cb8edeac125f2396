"""How the next token is chosen: one frozen record per request."""

import math
from typing import Any

import msgspec

from tenfold.core.constraint import Constraint
from tenfold.core.errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_STOPS = 64
MAX_N = 128
_MASK = 2**64 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling settings, with OpenAI's names and meanings where OpenAI has them.

    ``temperature`` 0 is greedy. Filters apply in this order: penalties and ``logit_bias``,
    temperature, ``top_k``, ``top_p``, ``min_p``. ``seed`` makes a request reproducible whatever else
    runs beside it; sample ``i`` of ``n`` draws from seed + i. Without a seed the engine picks one.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output; 1: off (Keskar et al., 2019)
    presence_penalty: float = 0.0  # over output
    frequency_penalty: float = 0.0  # over output
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    max_tokens: int | None = None  # None: up to the context's end
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False  # keep the stop string in the text
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None  # None: off; k: the sampled token's and the k most likely
    constraint: Constraint | None = None  # what the output has to be

    def __post_init__(self) -> None:
        number(self.temperature, "temperature", 0.0, 100.0)
        integer(self.top_k, "top_k", -1, 2**31 - 1)
        number(self.top_p, "top_p", 0.0, 1.0, open_low=True)
        number(self.min_p, "min_p", 0.0, 1.0)
        number(self.repetition_penalty, "repetition_penalty", 0.01, 100.0)
        number(self.presence_penalty, "presence_penalty", -2.0, 2.0)
        number(self.frequency_penalty, "frequency_penalty", -2.0, 2.0)
        for token, bias in self.logit_bias.items():
            integer(token, "logit_bias", 0, 2**31 - 1)
            number(bias, "logit_bias", -100.0, 100.0)
        if self.seed is not None:
            integer(self.seed, "seed", -(2**63), 2**64 - 1)
        integer(self.n, "n", 1, MAX_N)
        if self.max_tokens is not None:
            integer(self.max_tokens, "max_tokens", 1, 2**31 - 1)
        integer(self.min_tokens, "min_tokens", 0, 2**31 - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens})",
                param="min_tokens",
            )
        if len(self.stop) > MAX_STOPS or len(self.stop_token_ids) > MAX_STOPS:
            raise InvalidRequest(f"at most {MAX_STOPS} stop strings or ids are accepted", param="stop")
        if any(not text for text in self.stop):
            raise InvalidRequest("a stop string must not be empty", param="stop")
        if self.logprobs is not None:
            integer(self.logprobs, "logprobs", 0, MAX_LOGPROBS)
        if self.constraint is not None and (self.ignore_eos or self.min_tokens):
            name = "ignore_eos" if self.ignore_eos else "min_tokens"
            raise InvalidRequest(f"{name} does not go with a constraint: that says where the text may end", param=name)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, with no draw."""
        return self.temperature == 0.0

    @property
    def penalized(self) -> bool:
        """Whether logits depend on the tokens so far."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def foreseeable(self) -> bool:
        """Whether the next step can be computed before the host knows what this one gives: its logits depend on the
        tokens so far by what the model makes of them, and by how many there are, alone."""
        return not self.penalized and self.constraint is None


def number(value: Any, name: str, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise :class:`InvalidRequest` unless ``value`` is a finite number in [low, high] (or (low, high])."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or value < low or value > high or (open_low and value == low):
        raise InvalidRequest(
            f"{name} must be a number {'above' if open_low else 'from'} {low:g} "
            f"{'and at most' if open_low else 'to'} {high:g}, got {value!r}",
            param=name,
        )


def integer(value: Any, name: str, low: int, high: int) -> None:
    """Raise :class:`InvalidRequest` unless ``value`` is an integer in [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidRequest(f"{name} must be an integer from {low} to {high}, got {value!r}", param=name)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same for the same arguments: SplitMix64's finalizer (Steele et al., OOPSLA'14)."""
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & _MASK
    for _ in range(2):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return (z >> 11) / 2.0**53
