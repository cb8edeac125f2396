"""How the served model's conversations are written and its answers read, found in its chat template."""

from dataclasses import dataclass

from tenfold.server.config import ServerConfig
from tenfold.server.thinking import thinks
from tenfold.server.tools.forms import FORMS, HERMES, CallForm, form_of, knows_tools


@dataclass(frozen=True, slots=True)
class Dialect:
    """``calls`` is how calls are written, None where tools are not served.

    ``native``: the template knows tools; else they are told in plain turns. ``describes``: it writes their descriptions
    itself, and fails where there is none. ``thinks``: answers may begin with thoughts.
    """

    calls: CallForm | None = None
    native: bool = False
    thinks: bool = False
    describes: bool = False


def dialect_of(template: str | None, config: ServerConfig) -> Dialect:
    """That of a model with this template, or as the options say."""
    if template is None:
        return Dialect()
    thinks_so = config.reasoning_parser == "think" or (config.reasoning_parser == "auto" and thinks(template))
    if config.tool_parser == "none":
        return Dialect(thinks=thinks_so)
    found = form_of(template)
    if config.tool_parser == "auto":
        native = found is not None and knows_tools(template)
        return Dialect(found if native else HERMES, native, thinks_so, "description" in template)
    return Dialect(FORMS[config.tool_parser], knows_tools(template), thinks_so, "description" in template)
