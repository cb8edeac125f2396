"""Chat templates: Jinja in a sandbox, with bounds on what a template may do.

A template is code from a model file. The sandbox keeps it from Python's insides; on top, loop rounds, text made
and numbers are limited per render, so that a bad template is an error and not a hang.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tenfold.core.errors import InvalidRequest

if TYPE_CHECKING:
    from tenfold.model.sandbox import Template

Message = Mapping[str, Any]
MAX_TEMPLATE = 1 << 20  # characters of source


class ChatTemplate:
    """A model's chat template; ``bos`` and ``eos`` are the texts of its begin and end marks.

    Compiled at the first use. Safe for several threads.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._marks = {"bos_token": bos, "eos_token": eos}
        self._lock = threading.Lock()
        self._template: Template | None = None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True, **extra: Any) -> str:
        """The prompt for ``messages`` (each with ``role`` and ``content``); ``extra`` are template variables.

        As with transformers, ``tools`` and ``documents`` are defined in any case, as None. Raises
        :class:`InvalidRequest` where the template refuses the messages, fails or does too much.
        """
        return self._compiled().render(
            {
                **self._marks,
                "tools": None,
                "documents": None,
                **extra,
                "messages": list(messages),
                "add_generation_prompt": add_generation_prompt,
            }
        )

    def _compiled(self) -> "Template":
        with self._lock:
            if self._template is None:
                from tenfold.model.sandbox import compile_template  # Jinja is imported when first needed

                self._template = compile_template(self.source, MAX_TEMPLATE)
            return self._template


def require_template(template: ChatTemplate | None, model: str) -> ChatTemplate:
    """``template``, or :class:`InvalidRequest` saying what to do without one."""
    if template is None:
        raise InvalidRequest(
            f"model {model!r} has no chat template: send a plain prompt to /v1/completions",
            param="messages",
        )
    return template
