"""What a generated text has to be: one frozen record per request."""

from typing import Literal

import msgspec

Kind = Literal["json", "regex", "choice", "lark", "gbnf"]


class Constraint(msgspec.Struct, frozen=True):
    """The whole output is one that ``text`` describes: a JSON schema (``json``), a regular expression that has to match
    all of it, a JSON list of texts to choose from, or a grammar in Lark's or llama.cpp's notation. ``param`` is the
    request's field that errors name."""

    kind: Kind
    text: str
    param: str = "response_format"


ANY_OBJECT = Constraint("json", '{"type":"object"}')  # JSON mode
