"""From constraints to matchers, for one vocabulary.

The library compiles a constraint within limits of its own on the size of grammars and on work per token (its defaults);
what gets large by repetition is refused before (``size``): a hostile one ends in an error, not in a hang.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

from tenfold.core.constraint import Constraint
from tenfold.core.errors import InvalidRequest
from tenfold.grammar.size import MOST as LARGEST
from tenfold.grammar.size import too_large

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

MOST = 1 << 20  # characters of a constraint
_KEPT = 64  # compiled ones
_TEXTS = 1024  # whose tokens are kept, of up to _LONG bytes: the same must come again and again
_LONG = 256
# Sets of tokens whose bits the library keeps ready: one is taken whole where all of it may come, and only what is in
# none is tried token by token. Blanks, and texts inside of JSON of up to so many characters: the finer they are cut,
# the less is left to try near the end of a text whose length is bounded.
_TEXT = r'[^"\\\x00-\x1F\x7F]'
_SLICES = [r"[\x20\x0A\x0D\x09]+", *(f"{_TEXT}{{1,{most}}}" for most in (4, 7, 10, 13, 17, 30)), f"{_TEXT}+"]
# As json.dumps writes it: what may not differ need not be chosen, and small models do not lose themselves in spaces.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Words(Protocol):
    """A vocabulary and its tokenizer."""

    bos_id: int | None
    vocab_size: int
    strips_prefix: bool  # puts a blank before every text

    @property
    def eos_ids(self) -> Sequence[int]:
        """Tokens that end a text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """A token's own bytes."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether it is a mark rather than text."""
        ...

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids of a text."""
        ...


class Grammars:
    """Owner of the compiled constraints. Safe to use from several threads. ``words`` is called once, by the first
    constraint: what it gives takes some tenths of a second to make. ``vocab_size`` counts the model's logits."""

    def __init__(self, words: Callable[[], Words], vocab_size: int) -> None:
        self._words = words
        self._vocab_size = vocab_size
        self._tokenizer: LLTokenizer | None = None
        self._known = 0  # tokens of the vocabulary; logits may be more
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()  # of what is compiled
        self._making = threading.Lock()  # of the tokenizer

    def matcher(self, constraint: Constraint) -> "Matcher":
        """A new one. Raises InvalidRequest for a constraint that is none, or too large a one."""
        with self._lock:
            known = self._compiled.get(constraint)
        if known is None:
            known = self._compile(constraint)  # may take seconds, for which others need not wait
        with self._lock:
            self._compiled[constraint] = known
            self._compiled.move_to_end(constraint)
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return Matcher(known, self._known)

    def _compile(self, constraint: Constraint) -> "LLMatcher":
        from llguidance import LLMatcher

        if len(constraint.text) > MOST:
            raise InvalidRequest(
                f"the constraint has {len(constraint.text)} characters; at most {MOST} are taken",
                param=constraint.param,
            )
        if too_large(constraint):
            raise InvalidRequest(
                f"the {_name(constraint)} repeats too much: written out, at most {LARGEST} are taken",
                param=constraint.param,
            )
        tokenizer = self._the_tokenizer(constraint.param)
        try:
            grammar = _GRAMMARS[constraint.kind](constraint.text)
        except Exception as error:  # the library's converters raise of all kinds
            raise InvalidRequest(f"the {_name(constraint)} is none: {_short(error)}", param=constraint.param) from None
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidRequest(
                f"the {_name(constraint)} cannot be used: {_short(matcher.get_error())}", param=constraint.param
            )
        return matcher

    def _the_tokenizer(self, param: str) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        with self._making:
            if self._tokenizer is None:
                words = self._words()
                if not words.eos_ids:
                    raise InvalidRequest(
                        "this model has no token that ends a text, which a constraint needs", param=param
                    )
                wrapped = _Wrapped(words, self._vocab_size)
                self._known = len(wrapped.tokens)
                self._tokenizer = LLTokenizer(
                    TokenizerWrapper(wrapped),
                    n_vocab=self._vocab_size,
                    eos_token=list(words.eos_ids),
                    slices=_SLICES,
                )
            return self._tokenizer


class Matcher:
    """Follows one text, token by token."""

    __slots__ = ("_vocab_size", "library")

    def __init__(self, compiled: "LLMatcher", vocab_size: int) -> None:
        self.library = compiled.deep_copy()
        self._vocab_size = vocab_size

    @property
    def error(self) -> str | None:
        """Why it cannot go on: a limit of the library's was hit."""
        return _short(self.library.get_error()) if self.library.is_error() else None

    def consume(self, tokens: Sequence[int]) -> int:
        """Take the next tokens of the text, as many as may come; returns how many."""
        return self.library.try_consume_tokens(list(tokens))

    def take_back(self, count: int) -> None:
        """Forget the last ``count`` tokens. An error stays."""
        if count:
            self.library.rollback(count)

    def admits(self, tokens: Sequence[int]) -> bool:
        """Whether all of ``tokens``, one or more, may come next, one after the other."""
        # The library cannot go on once it was asked for a token that it does not know.
        return max(tokens) < self._vocab_size and self.library.validate_tokens(list(tokens)) == len(tokens)

    def allows(self, token: int) -> bool:
        """Whether the mask has ``token``; not sure of one that ends the text. Costs a small part of a mask.

        Of what must come the library lets only the usual tokens come, of the rest it takes what fits.
        """
        forced = self.forced()
        return forced[0] == token if forced else self.admits((token,))

    def write_mask(self, address: int, size: int) -> None:
        """Write which tokens may come next to ``size`` bytes of memory, a bit each, the first token lowest: also those
        that end a text, where it may end."""
        self.library.unsafe_compute_mask_ptr(address, size)

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as they are the only ones, and the model can give them."""
        return list(takewhile(lambda token: token < self._vocab_size, self.library.compute_ff_tokens()))


class MaskThread:
    """Writes masks while the thread that asked does something else. One thread, begun by the first masks; none of the
    matchers may be used meanwhile."""

    def __init__(self) -> None:
        self._executor: LLExecutor | None = None
        self._thread: ThreadPoolExecutor | None = None

    def write(self, matchers: Sequence[Matcher], address: int, size: int, owner: object) -> "Future[None]":
        """Write a mask for each, one after the other, as :meth:`Matcher.write_mask` does. ``owner``, whose memory it
        is, lives until that is done, whoever else forgets it."""
        if self._executor is None or self._thread is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor(1)
            self._thread = ThreadPoolExecutor(1, "masks")
        places = [(matcher.library, i) for i, matcher in enumerate(matchers)]
        compute = self._executor.unsafe_compute_mask_ptr

        def write(_: object) -> None:
            compute(places, address, size, len(places))

        return self._thread.submit(write, owner)


class _Wrapped:
    """A tokenizer as the library wants it: of the tokens that the logits of ``vocab_size`` have."""

    def __init__(self, words: Words, vocab_size: int) -> None:
        known = range(min(words.vocab_size, vocab_size))
        self.eos_token_id = words.eos_ids[0]
        self.bos_token_id = words.bos_id
        self.tokens = [words.token_bytes(token) for token in known]
        self.special_token_ids = [token for token in known if words.is_special(token)]
        self._words = words
        self._kept = lru_cache(_TEXTS)(self._encode)

    def __call__(self, text: bytes) -> list[int]:
        return self._kept(text) if len(text) <= _LONG else self._encode(text)

    def _encode(self, text: bytes) -> list[int]:
        plain = text.decode("utf-8", "replace")
        if not self._words.strips_prefix:
            return self._words.encode(plain, add_special=False, parse_special=False)
        # A blank is put before every text, but this one goes on from another: a line's end, whose tokens are left out.
        tokens, before = self._words.encode("\n" + plain, add_special=False, parse_special=False), b""
        for count, token in enumerate(tokens, 1):
            before += self._words.token_bytes(token)
            if before.endswith(b"\n"):
                return tokens[count:]
        return []


_NAMES = {
    "json": "JSON schema",
    "regex": "regular expression",
    "choice": "list of choices",
    "lark": "Lark grammar",
    "gbnf": "GBNF grammar",
}


def _name(constraint: Constraint) -> str:
    return "grammar of the tools" if constraint.param == "tools" else _NAMES[constraint.kind]


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


def _choice(text: str) -> str:
    choices = json.loads(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise ValueError("it has to hold one text or more, none of them empty")
    return _lark("start: " + " | ".join(json.dumps(one) for one in choices))


def _json(text: str) -> str:
    from llguidance import LLMatcher

    overrides: Any = JSON_STYLE
    return LLMatcher.grammar_from_json_schema(text, overrides=overrides)


def _regex(text: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(text)


def _lark(text: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_lark(text)


def _gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    return _lark(gbnf_to_lark(text))


_GRAMMARS: dict[str, Callable[[str], str]] = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "lark": _lark,
    "gbnf": _gbnf,
}
