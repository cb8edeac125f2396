"""From a decoded body to what the engine takes: sampling settings."""

from collections.abc import Sequence

import msgspec

from tenfold.core.constraint import ANY_OBJECT, Constraint
from tenfold.core.errors import ContextOverflow, InvalidRequest
from tenfold.core.request import EngineInfo
from tenfold.core.sampling import MAX_LOGPROBS, SamplingParams, integer
from tenfold.server.protocol import ChatBody, CompletionBody, ResponseFormat, SamplingBody

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for completions
MAX_CHOICES = 1024  # prompts x n of one HTTP request


def completion_params(body: CompletionBody, vocab_size: int) -> SamplingParams:
    """Sampling settings of a completion. Raises InvalidRequest naming the parameter."""
    if body.suffix:
        raise InvalidRequest("suffix is not supported: only continuing a prompt is", param="suffix")
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("echo with logprobs is not supported: prompt logprobs are not computed", param="echo")
    limit = _either(body.max_tokens, body.max_completion_tokens)
    default = max(COMPLETION_MAX_TOKENS, body.min_tokens or 0)
    return _params(body, vocab_size, limit if limit is not None else default, body.logprobs)


def chat_params(body: ChatBody, vocab_size: int) -> SamplingParams:
    """Sampling settings of a chat; without a limit the answer may fill the context. Raises InvalidRequest."""
    for name in ("audio", "web_search_options"):
        if getattr(body, name):
            raise InvalidRequest(f"{name} is not supported", param=name)
    if body.functions or body.function_call not in (None, "none", "auto"):
        name = "functions" if body.functions else "function_call"
        raise InvalidRequest(f"{name} is not supported: send tools and tool_choice, which replaced it", param=name)
    if body.modalities not in (None, ["text"]):
        raise InvalidRequest('modalities other than ["text"] are not supported', param="modalities")
    logprobs = None
    if body.logprobs:
        logprobs = body.top_logprobs or 0
        integer(logprobs, "top_logprobs", 0, MAX_LOGPROBS)
    elif body.top_logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    return _params(body, vocab_size, _either(body.max_tokens, body.max_completion_tokens), logprobs)


def check_context(prompt_tokens: int, params: SamplingParams, info: EngineInfo, *, param: str) -> None:
    """Raise ContextOverflow, with the numbers, unless prompt and output fit the model's context."""
    limit = info.max_context
    if prompt_tokens >= limit:
        raise ContextOverflow(
            f"the prompt has {prompt_tokens} tokens and the context of {info.model} is {limit} tokens, which must "
            "leave room for at least one of output; shorten the prompt",
            param=param,
        )
    if params.max_tokens is not None and prompt_tokens + params.max_tokens > limit:
        raise ContextOverflow(
            f"the prompt has {prompt_tokens} tokens and max_tokens asks for {params.max_tokens} more, "
            f"{prompt_tokens + params.max_tokens} in all, but the context of {info.model} is {limit} tokens; "
            f"ask for at most {limit - prompt_tokens} or shorten the prompt",
            param="max_tokens",
        )


def check_ids(ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Raise InvalidRequest unless every id is one of the model's."""
    for at, token in enumerate(ids):
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"{param}[{at}] is {token}, which is no token id of this model (0 to {vocab_size - 1})", param=param
            )


def _either(max_tokens: int | None, max_completion_tokens: int | None) -> int | None:
    if max_tokens is not None and max_completion_tokens not in (None, max_tokens):
        raise InvalidRequest(
            f"max_tokens ({max_tokens}) and max_completion_tokens ({max_completion_tokens}) disagree; send one",
            param="max_completion_tokens",
        )
    return max_tokens if max_tokens is not None else max_completion_tokens


def _params(body: SamplingBody, vocab_size: int, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
    n = 1 if body.n is None else body.n
    if body.best_of not in (None, n):
        raise InvalidRequest(f"best_of ({body.best_of}) must equal n ({n})", param="best_of")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    check_ids(body.stop_token_ids or (), vocab_size, "stop_token_ids")
    optional = {
        "temperature": body.temperature,
        "top_k": None if body.top_k is None else (0 if body.top_k == -1 else body.top_k),
        "top_p": body.top_p,
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "min_tokens": body.min_tokens,
        "include_stop": body.include_stop_str_in_output,
        "ignore_eos": body.ignore_eos,
        "skip_special_tokens": body.skip_special_tokens,
    }
    return SamplingParams(
        **{name: value for name, value in optional.items() if value is not None},  # type: ignore[arg-type]
        n=n,
        seed=body.seed,
        max_tokens=max_tokens,
        logprobs=logprobs,
        stop=stop,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=_logit_bias(body.logit_bias or {}, vocab_size),
        constraint=_constraint(body),
    )


def _constraint(body: SamplingBody) -> Constraint | None:
    form = None if body.response_format is None else _of_format(body.response_format)
    wanted = body.structured_outputs
    if wanted is None:
        return form
    found: list[Constraint] = [] if form is None else [form]
    if wanted.json is not None:
        text = wanted.json if isinstance(wanted.json, str) else msgspec.json.encode(wanted.json).decode()
        found.append(Constraint("json", text))
    if wanted.regex is not None:
        found.append(Constraint("regex", wanted.regex))
    if wanted.choice is not None:
        found.append(Constraint("choice", msgspec.json.encode(wanted.choice).decode()))
    if wanted.grammar is not None:
        found.append(Constraint("gbnf" if "::=" in wanted.grammar else "lark", wanted.grammar))
    if wanted.json_object:
        found.append(ANY_OBJECT)
    if len(found) > 1:
        raise InvalidRequest(
            "an answer takes one constraint, and structured_outputs and response_format name several",
            param="structured_outputs",
        )
    return found[0] if found else None


def _of_format(form: ResponseFormat) -> Constraint | None:
    if form.type == "text":
        return None
    if form.type == "json_object":
        return ANY_OBJECT
    if form.type != "json_schema":
        raise InvalidRequest(
            f"response_format {form.type[:50]!r} is not known: use 'text', 'json_object' or 'json_schema'",
            param="response_format",
        )
    if form.json_schema is None or form.json_schema.schema is None:
        raise InvalidRequest("response_format 'json_schema' needs json_schema.schema", param="response_format")
    schema = form.json_schema.schema
    if not isinstance(schema, dict):
        raise InvalidRequest("response_format's json_schema.schema has to be an object", param="response_format")
    return Constraint("json", msgspec.json.encode(schema).decode())


def _logit_bias(given: dict[str, float], vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in given.items():
        if not (key.isascii() and key.isdecimal()) or len(key) > 10 or int(key) >= vocab_size:
            raise InvalidRequest(
                f"logit_bias has the key {key[:50]!r}, which is no token id of this model (0 to {vocab_size - 1})",
                param="logit_bias",
            )
        bias[int(key)] = value
    return bias
