"""How a request wants to be served: from its body and headers to what the engine takes."""

import re
from dataclasses import dataclass
from typing import Any

from tenfold.core.config import MAX_DRAFT_TOKENS
from tenfold.core.errors import InvalidRequest
from tenfold.core.request import MAX_PRIORITY
from tenfold.core.sampling import integer
from tenfold.server.protocol import SamplingBody, ServedBody

# A body's field, the header that says the same, and the engine's name for it (times are given in milliseconds).
_FIELDS = (
    ("slo_class", b"x-slo-class", "slo_class"),
    ("slo_ttft_ms", b"x-slo-ttft-ms", "ttft"),
    ("slo_tpot_ms", b"x-slo-tpot-ms", "tpot"),
)
_TENANT = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Objective:
    """``fields`` of an EngineRequest, and ``warnings`` for the client: what it sent and was not followed."""

    fields: dict[str, Any]
    warnings: tuple[str, ...] = ()


def objective_of(body: ServedBody, headers: dict[bytes, bytes], tenant: str | None) -> Objective:
    """``tenant`` is that of the request's API key; None where there are no keys, and the header x-tenant counts.

    Where body and header disagree, the body wins. Raises InvalidRequest, naming the field.
    """
    fields: dict[str, Any] = {}
    warnings = []
    for name, header, field in _FIELDS:
        told = getattr(body, name)
        sent = headers.get(header)
        if sent is not None:
            value = _class(sent) if field == "slo_class" else _milliseconds(header.decode(), sent)
            if told is None:
                told = value
            elif told != value:
                warnings.append(
                    f"{name} is {told} in the body but {value} in the header {header.decode()}: the body counts"
                )
        if told is None:
            continue
        if field != "slo_class":
            _check_time(name, told)
            told = told / 1000
        fields[field] = told
    if body.queue_timeout_ms is not None:
        _check_time("queue_timeout_ms", body.queue_timeout_ms)
        fields["queue_timeout"] = body.queue_timeout_ms / 1000
    if body.priority is not None:
        if abs(body.priority) > MAX_PRIORITY:
            raise InvalidRequest(f"priority must be from {-MAX_PRIORITY} to {MAX_PRIORITY}", param="priority")
        fields["priority"] = body.priority
    if isinstance(body, SamplingBody) and body.draft_tokens is not None:
        integer(body.draft_tokens, "draft_tokens", 0, MAX_DRAFT_TOKENS)
        fields["draft_tokens"] = body.draft_tokens
    given = headers.get(b"x-tenant")
    if tenant is not None:
        if given is not None:
            warnings.append("the header x-tenant is not followed: this server knows tenants by their API keys")
        fields["tenant"] = tenant
    elif given is not None:
        name = given.decode("latin-1")
        if not _TENANT.fullmatch(name):
            raise InvalidRequest(
                "x-tenant must be 1 to 128 printable ASCII characters without spaces", param="x-tenant"
            )
        fields["tenant"] = name
    return Objective(fields, tuple(warnings))


def _class(sent: bytes) -> str:
    return sent.decode("latin-1").strip()


def _milliseconds(header: str, sent: bytes) -> float:
    try:
        return float(sent)
    except ValueError:
        raise InvalidRequest(f"{header} is {sent.decode('latin-1')[:50]!r}, which is no number", param=header) from None


def _check_time(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise InvalidRequest(f"{name} must be above 0 milliseconds, got {value:g}", param=name)
