"""Jinja's immutable sandbox, with a budget per render: loop rounds and characters made."""

import json
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tenfold.core.errors import InvalidRequest

MAX_ROUNDS = 250_000  # of all loops and macro calls of one render
MAX_CHARACTERS = 1 << 25  # of text made in one render, and of any one value
_MAX_POWER = 64
_MAX_WIDTH = 1000  # of padding and indentation
_WIDE_FORMAT = re.compile(r"\d{5}|\*|\{[^{}]*\{")
_PADDING = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))


@dataclass(slots=True)
class _Budget:
    rounds: int = MAX_ROUNDS
    characters: int = MAX_CHARACTERS


class Template:
    """A compiled chat template."""

    def __init__(self, environment: "_Environment", compiled: JinjaTemplate) -> None:
        self._environment = environment
        self._compiled = compiled

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises :class:`InvalidRequest` where the template refuses, fails or passes its budget."""
        token = self._environment.budget.set(_Budget())
        try:
            return self._compiled.render(variables)
        except TemplateError as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", param="messages") from None
        except Exception as error:
            # Whatever a template's own expressions can raise: wrong types, missing keys, recursion.
            raise InvalidRequest(
                f"the chat template fails on these messages: {type(error).__name__}: {error}", param="messages"
            ) from None
        finally:
            self._environment.budget.reset(token)


def compile_template(source: str, limit: int) -> Template:
    """Compile ``source``, of at most ``limit`` characters. Raises :class:`InvalidRequest` where it is not Jinja."""
    if len(source) > limit:
        raise InvalidRequest(
            f"the model's chat template is longer than {limit} characters; send a plain prompt to /v1/completions"
        )
    environment = _Environment()
    try:
        tree = _guarded(environment.parse(source), environment)
        return Template(environment, environment.from_string(tree))
    except (TemplateError, SyntaxError, RecursionError) as error:
        raise InvalidRequest(
            f"the model's chat template is not valid Jinja ({error}); send a plain prompt to /v1/completions"
        ) from None


def _guarded(tree: nodes.Template, environment: "_Environment") -> nodes.Template:
    """``tree`` with a charge at every loop round and macro call, and checked text joins."""

    def joined(node: nodes.Node) -> None:
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, field, _joined(value))
            elif isinstance(value, list):
                value[:] = [_joined(v) if isinstance(v, nodes.Concat) else v for v in value]
        for child in node.iter_child_nodes():
            joined(child)

    joined(tree)
    for block in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
        # Reading the property is the charge: a call would pass through the sandbox's checks every time.
        block.body.insert(0, nodes.ExprStmt(nodes.EnvironmentAttribute("charge_round")))  # type: ignore[attr-defined]
    return tree.set_lineno(1).set_environment(environment)  # type: ignore[return-value]


def _joined(concat: nodes.Concat) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute("join_text"), concat.nodes, [], None, None)


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's part for training; for serving it is its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], finalize=self.charge_text
        )
        self.budget: ContextVar[_Budget] = ContextVar("budget")
        self.filters["tojson"] = _to_json
        for padding in ("center", "indent"):
            self.filters[padding] = _narrow(self.filters[padding])
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = _now

    @property
    def charge_round(self) -> None:
        """One round of a loop, or one call of a macro."""
        budget = self.budget.get()
        budget.rounds -= 1
        if budget.rounds < 0:
            raise SecurityError(f"it loops more than {MAX_ROUNDS} times")

    def charge_text(self, value: Any) -> Any:
        """Every value that a template prints."""
        budget = self.budget.get(None)
        if budget is None:  # a constant, while compiling
            return value
        text = value if isinstance(value, str) else str(value)
        budget.characters -= len(text)
        if budget.characters < 0:
            raise SecurityError(f"it makes more than {MAX_CHARACTERS} characters")
        return text

    def join_text(self, *values: Any) -> str:
        """The ``~`` operator."""
        texts = [str(value) for value in values]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """``+ * ** %`` on operands whose result stays small."""
        sizes = [len(value) if isinstance(value, str | list | tuple) else None for value in (left, right)]
        if operator == "+":
            _check_size(sum(size or 0 for size in sizes))
        elif operator == "*":
            for size, times in zip(sizes, (right, left), strict=True):
                if size is not None and isinstance(times, int):
                    _check_size(size * times)
        elif operator == "**":
            if not all(isinstance(value, int | float) and abs(value) <= _MAX_POWER for value in (left, right)):
                raise SecurityError("it raises to a large power")
        elif isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise SecurityError("it formats to a large width")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """The sandbox's rule, and no padding."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _PADDING)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format`` without wide fields."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            if _WIDE_FORMAT.search(value.__self__):
                raise SecurityError("it formats to a large width")
            return wrapped(*args, **kwargs)

        return checked


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise SecurityError(f"it makes more than {MAX_CHARACTERS} characters")


def _narrow(padding: Callable[..., str]) -> Callable[..., str]:
    """A padding filter that refuses large widths."""

    def checked(value: str, width: int | str = 4, *options: Any) -> str:
        _check_width(width)
        return padding(value, width, *options)

    return checked


def _check_width(width: object) -> None:
    if isinstance(width, int) and width > _MAX_WIDTH:
        raise SecurityError("it pads to a large width")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    _check_width(indent)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
