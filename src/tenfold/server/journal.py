"""What is written down of each request once it is over: a line of the log, and a span."""

import logging
import re
import time
from typing import Protocol

from tenfold.core.logs import told
from tenfold.observe.spans import Ended
from tenfold.server.exchange import Exchange

_log = logging.getLogger("tenfold.request")
_QUIET = ("/health", "/metrics", "/debug/dashboard", "/debug/doctor")  # asked every few seconds, by machines
_PARENTS = (b"traceparent", b"tracestate")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")  # https://www.w3.org/TR/trace-context/


class Tracer(Protocol):
    """Where spans go."""

    def add(self, request: Ended) -> None:
        """A request has ended."""

    def close(self) -> None:
        """Send what is unsent."""


class Journal:
    """Writes down requests to the model served as ``model``."""

    def __init__(self, model: str, tracer: Tracer | None) -> None:
        self._model = model
        self._tracer = tracer

    def ended(self, exchange: Exchange, seconds: float) -> None:
        """It took ``seconds``. No text of it is kept."""
        level = logging.DEBUG if exchange.route.startswith(_QUIET) else logging.INFO
        if _log.isEnabledFor(level):
            self._write(level, exchange, seconds)
        if self._tracer is None or exchange.scope["method"] != "POST" or not exchange.route.startswith("/v1/"):
            return
        self._tracer.add(
            Ended(
                request_id=exchange.request_id,
                method=exchange.scope["method"],
                route=exchange.route,
                model=self._model,
                status=exchange.status,
                began=time.time() - seconds,
                seconds=seconds,
                tenant=exchange.tenant,
                report=exchange.report,
                parent=_parents(exchange),
            )
        )

    def _write(self, level: int, exchange: Exchange, seconds: float) -> None:
        found = _TRACE.fullmatch(_parents(exchange).get("traceparent", ""))
        report = exchange.report
        choices = report.choices if report is not None else []
        _log.log(
            level,
            "%s %s %d",
            exchange.scope["method"],
            exchange.route,
            exchange.status,
            extra=told(
                request_id=exchange.request_id,
                seconds=round(seconds, 6),
                tenant=exchange.tenant,
                trace_id=found[1] if found else None,
                id=report.id if report is not None else None,
                slo_class=choices[0].slo_class if choices else None,
                finish=report.finish_reasons if report is not None else None,
                prompt_tokens=report.prompt_tokens if report is not None else None,
                output_tokens=sum(choice.output_tokens for choice in choices) if choices else None,
                ttft=round(choices[0].ttft, 6) if choices and choices[0].ttft is not None else None,
            ),
        )

    def close(self) -> None:
        """Send what is unsent; blocks for a moment."""
        if self._tracer is not None:
            self._tracer.close()


def _parents(exchange: Exchange) -> dict[str, str]:
    return {name.decode(): exchange.headers[name].decode("latin-1") for name in _PARENTS if name in exchange.headers}
