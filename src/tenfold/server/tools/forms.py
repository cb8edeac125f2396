"""How families of models write calls.

Sources: the chat templates of Qwen2.5 and Qwen3 (which follow the Hermes function-calling format), of Llama 3.1 to 3.3,
and of Mistral's models from 7B-v0.3 on.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Marks of forms that share an opening with one of these, but go on otherwise: Llama 4's Python, newer Mistral models'
# names before the arguments, XML of Qwen3-Coder and GLM-4.5.
_OTHERS = ("<|python_start|>", "[ARGS]", "<function=", "<arg_key>")
_SHORT = 9  # letters and digits of Mistral's ids
_TOOLS = re.compile(r"\btools\b")


@dataclass(frozen=True, slots=True)
class CallForm:
    """A call is a JSON object with ``name`` and, under ``key``, the arguments.

    ``opening`` begins calls, ``lead`` follows it, ``separators`` are characters between objects, ``closing`` ends them.
    ``bare``: an answer that begins with an object is a call without the opening, too. As models are taught, calls are
    written ``begin`` + objects joined by ``between`` + ``end``.
    """

    name: str
    opening: str
    begin: str
    between: str
    end: str
    lead: str = ""
    separators: str = ""
    closing: str = ""
    bare: bool = False
    key: str = "arguments"
    single: bool = False  # its templates take one call in a turn: an answer has no more
    short_ids: bool = False  # the family's templates refuse others

    def call(self, name: str, arguments: Any) -> str:
        """One call's object."""
        return json.dumps({"name": name, self.key: arguments}, ensure_ascii=False)

    def write(self, objects: Iterable[str]) -> str:
        """Calls as the model writes them."""
        return self.begin + self.between.join(objects) + self.end

    def fit_id(self, identity: str) -> str:
        """An id that came from elsewhere as the family's templates take it; the same for the same one."""
        if not self.short_ids or (len(identity) == _SHORT and identity.isalnum()):
            return identity
        return hashlib.sha256(identity.encode()).hexdigest()[:_SHORT]

    def new_id(self) -> str:
        """An id for a call."""
        return secrets.token_hex(_SHORT)[:_SHORT] if self.short_ids else "call_" + secrets.token_hex(12)


HERMES = CallForm(
    "hermes",
    opening="<tool_call>",
    begin="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    end="\n</tool_call>",
    closing="</tool_call>",
)
LLAMA3 = CallForm(
    "llama3",
    opening="<|python_tag|>",
    begin="",
    between="; ",
    end="",
    separators=";",
    bare=True,
    key="parameters",
    single=True,
)
MISTRAL = CallForm(
    "mistral",
    opening="[TOOL_CALLS]",
    begin="[TOOL_CALLS][",
    between=", ",
    end="]",
    lead="[",
    separators=",",
    closing="]",
    short_ids=True,
)
FORMS: Mapping[str, CallForm] = {form.name: form for form in (HERMES, LLAMA3, MISTRAL)}


def knows_tools(template: str) -> bool:
    """Whether a chat template reads the variable ``tools``."""
    return _TOOLS.search(template) is not None


def form_of(template: str) -> CallForm | None:
    """The form that a chat template's text shows; None for one that is not known."""
    if any(mark in template for mark in _OTHERS):
        return None
    if MISTRAL.opening in template:
        return MISTRAL
    if LLAMA3.opening in template or "ipython" in template:
        return LLAMA3
    return HERMES if HERMES.opening in template else None
