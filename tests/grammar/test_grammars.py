"""What a constraint lets come next, over a vocabulary of bytes and a few words."""

import json
import random
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from tenfold.core.constraint import ANY_OBJECT, Constraint
from tenfold.core.errors import InvalidRequest
from tenfold.core.plan import SequenceStart
from tenfold.core.sampling import SamplingParams
from tenfold.grammar import grammars
from tenfold.grammar.grammars import Grammars, Matcher
from tenfold.grammar.size import expansion
from tenfold.spec.forced import ForcedTokens

WORDS = [b'{"', b'": ', b"true", b"name", b"12"]
EOS = 256 + len(WORDS)
VOCAB = EOS + 3  # the model's logits are a few more than the vocabulary


class Words:
    bos_id = None
    vocab_size = EOS + 1
    strips_prefix = False
    eos_ids = (EOS,)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else [*WORDS, b"<end>"][token - 256]

    def is_special(self, token: int) -> bool:
        return token == EOS

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The longest token first."""
        data, found = text.encode(), list[int]()
        while data:
            token = max(
                range(EOS), key=lambda t: len(self.token_bytes(t)) if data.startswith(self.token_bytes(t)) else 0
            )
            found.append(token)
            data = data[len(self.token_bytes(token)) :]
        return found


class PrefixedWords(Words):
    strips_prefix = True

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """With a blank before it, as SentencePiece's have."""
        return super().encode(" " + text, add_special=add_special, parse_special=parse_special)


def make() -> Grammars:
    return Grammars(Words, VOCAB)


def allowed(matcher: Matcher) -> set[int]:
    mask = np.zeros((VOCAB + 31) // 32, np.int32)
    matcher.write_mask(mask.ctypes.data, mask.nbytes)
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=VOCAB, bitorder="little")).tolist())


def any_text(matcher: Matcher, seed: int) -> bytes:
    """A walk through what is allowed, to the end; leans towards ends."""
    rng, text = random.Random(seed), b""
    for _ in range(300):
        choices = allowed(matcher)
        assert choices and matcher.error is None
        if choices == {EOS} or (EOS in choices and rng.random() < 0.5):
            return text
        closing = [t for t in choices if t < 256 and chr(t) in '"}]0']
        token = rng.choice(closing if closing and rng.random() < 0.7 else sorted(choices - {EOS}))
        assert matcher.consume((token,)) == 1
        text += Words().token_bytes(token)
    return b""


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "ok": {"type": "boolean"}, "n": {"type": "integer"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}


def test_every_walk_to_the_end_is_of_the_schema() -> None:
    made, ended = make(), 0
    for seed in range(40):
        text = any_text(made.matcher(Constraint("json", json.dumps(SCHEMA))), seed)
        if text:
            ended += 1
            value = json.loads(text)
            assert {"name", "ok"} <= set(value) <= {"name", "ok", "n"}
            assert len(value["name"]) <= 5 and isinstance(value["ok"], bool)
    assert ended > 20


@pytest.mark.parametrize(
    ("constraint", "right", "wrong"),
    [
        (Constraint("regex", "a+b"), "aab", "ba"),
        (Constraint("choice", '["yes", "no \\"x\\""]'), 'no "x"', "maybe"),
        (Constraint("lark", 'start: "x" ["y"]'), "xy", "y"),
        (Constraint("gbnf", 'root ::= "p" [0-9]+'), "p12", "12"),
        (ANY_OBJECT, '{"name": 12}', "[1]"),
    ],
)
def test_kinds(constraint: Constraint, right: str, wrong: str) -> None:
    made, words = make(), Words()
    tokens = words.encode(right, add_special=False, parse_special=False)
    matcher = made.matcher(constraint)
    for token in tokens:
        assert token in allowed(matcher)
        assert matcher.consume((token,)) == 1
    assert EOS in allowed(matcher)
    bad = words.encode(wrong, add_special=False, parse_special=False)
    assert made.matcher(constraint).consume(bad) < len(bad)
    assert max(allowed(made.matcher(constraint))) <= EOS


@pytest.mark.parametrize("kind", ["json", "regex"])
def test_asking_for_one_token_says_what_the_mask_says(kind: str) -> None:
    """But for tokens that end the text: of those it may only be too careful."""
    text = json.dumps(SCHEMA) if kind == "json" else '(name|true)(: [0-9]{2}x?){1,4}"?'
    made, rng = make(), random.Random(0)
    refused = taken = 0
    for _ in range(8):
        matcher = made.matcher(Constraint(kind, text))
        while choices := sorted(allowed(matcher) - {EOS}):
            found = {token for token in range(VOCAB) if matcher.allows(token)}
            assert found - {EOS} == set(choices)
            assert EOS not in found - allowed(matcher)
            assert not (forced := matcher.forced()) or choices == forced[:1]
            assert matcher.error is None
            refused, taken = refused + VOCAB - len(found), taken + len(found)
            token = rng.choice(choices)
            assert matcher.admits((token,))
            assert matcher.consume((token,)) == 1
    assert refused > 1000
    assert taken > 100


def test_what_is_admitted_may_come_one_after_the_other() -> None:
    matcher = make().matcher(Constraint("regex", "abc"))
    assert matcher.admits(b"ab")
    assert not matcher.admits(b"abx")
    assert not matcher.admits((ord("a"), VOCAB - 1))
    assert allowed(matcher) == {ord("a")}


def test_what_is_taken_back_never_was() -> None:
    matcher = make().matcher(Constraint("regex", "abc"))
    before = allowed(matcher)
    assert matcher.consume(b"abx") == 2
    matcher.take_back(2)
    assert allowed(matcher) == before == {ord("a")}


def beyond_a_limit() -> Constraint:
    """One that the library cannot follow behind a quote."""
    patterns = [{"type": "string", "pattern": f".{{0,{i}}}x"} for i in range(3000)]
    return Constraint("json", json.dumps({"anyOf": patterns}))


def test_a_limit_of_the_library_is_an_error_that_is_told() -> None:
    matcher = make().matcher(beyond_a_limit())
    assert matcher.error is None
    assert matcher.consume(b'"') == 1
    allowed(matcher)
    assert matcher.error is not None and "too many" in matcher.error


def test_nobody_waits_for_anothers_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    made, go, begun = make(), threading.Event(), threading.Event()
    made.matcher(ANY_OBJECT)
    compile_ = made._compile

    def slow(constraint: Constraint) -> object:
        begun.set()
        assert go.wait(30)
        return compile_(constraint)

    monkeypatch.setattr(made, "_compile", slow)
    thread = threading.Thread(target=made.matcher, args=(Constraint("regex", "a"),))
    thread.start()
    assert begun.wait(30)
    made.matcher(ANY_OBJECT)
    go.set()
    thread.join()


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("json", '{"type": 5}'),
        Constraint("json", "no schema"),
        Constraint("json", '{"$ref": "#/nowhere"}'),
        Constraint("regex", "(a"),
        Constraint("choice", "[]"),
        Constraint("choice", '{"a": 1}'),
        Constraint("choice", '[""]'),
        Constraint("lark", "start: nobody"),
        Constraint("gbnf", "root ::= nobody"),
        Constraint("regex", "(((a{900}){900}){900}){900}"),
        Constraint("json", '{"pattern": "(a{200}){200}"}'),
        Constraint("json", '{"items": {"const": 1}, "minItems": 1000000}'),
        Constraint("lark", "start: a ~ 300\na: b ~ 300\nb: /c/"),
        Constraint("regex", "a" * (grammars.MOST + 1)),
        Constraint("json", "[" * 100_000),
    ],
    ids=lambda c: f"{c.kind} {c.text[:20]}",
)
def test_what_is_none_is_refused(constraint: Constraint) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make().matcher(constraint)
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_compiled_ones_are_kept_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    made, compiled = make(), list[Constraint]()
    compile_ = made._compile

    def counted(constraint: Constraint) -> object:
        compiled.append(constraint)
        return compile_(constraint)

    monkeypatch.setattr(made, "_compile", counted)
    monkeypatch.setattr(grammars, "_KEPT", 2)
    some = [Constraint("regex", letter) for letter in "abc"]
    for one in (some[0], some[0], some[1], some[0], some[2], some[0], some[1]):
        made.matcher(one)
    assert compiled == [some[0], some[1], some[2], some[1]]


def test_two_sequences_do_not_share_a_place() -> None:
    made = make()
    one, other = (made.matcher(Constraint("regex", "ab")) for _ in range(2))
    one.consume(b"a")
    assert allowed(one) == {ord("b")} and allowed(other) == {ord("a")}


def start(name: str, constraint: Constraint | None, prompt: Sequence[int] = (1, 2)) -> SequenceStart:
    return SequenceStart(name, tuple(prompt), SamplingParams(constraint=constraint), 0, (EOS,))


def test_what_must_come_is_drafted() -> None:
    forced = ForcedTokens(make())
    forced.begin(start("x", Constraint("regex", "name[0-9]name")))
    forced.begin(start("free", None))
    name = 256 + WORDS.index(b"name")
    proposal = forced.propose("x", [1, 2], "", 8)
    assert proposal is not None and proposal.tokens == (name,)
    assert forced.propose("x", [1, 2, name], "", 8) is None  # a digit: there are ten
    after = forced.propose("x", [1, 2, name, ord("7")], "", 8)
    assert after is not None and after.tokens[0] == name
    assert forced.propose("free", [1, 2], "", 8) is None
    forced.end("x", [], "", finished=True)
    assert forced.propose("x", [1, 2], "", 8) is None


def test_a_constraint_takes_the_end_from_the_text() -> None:
    for name, value in (("ignore_eos", True), ("min_tokens", 3)):
        with pytest.raises(InvalidRequest) as caught:
            SamplingParams(constraint=ANY_OBJECT, **{name: value})  # type: ignore[arg-type]
        assert caught.value.param == name


@pytest.mark.parametrize(
    ("pattern", "size"),
    [("abc", 3), ("a{3}", 3), ("(ab){2,5}c", 11), ("((a{2}b){3}){4}", 36), ("[a{9}]{2}", 2), (r"\{9}", 3), ("a{,}", 1)],
)
def test_size_of_a_regular_expression(pattern: str, size: int) -> None:
    assert expansion(pattern) == size


@pytest.mark.parametrize("text", ["true", '{"name": 12', "\ntrue", " 12", "é"])
def test_what_must_come_goes_on_from_the_text_before(text: str) -> None:
    constraint = Constraint("choice", json.dumps([text]), "choice")
    plain, prefixed = make().matcher(constraint), Grammars(PrefixedWords, VOCAB).matcher(constraint)
    assert prefixed.forced() == plain.forced() != []
    assert prefixed.consume(prefixed.forced()) == len(plain.forced())


def test_tokens_beyond_the_logits_are_not_there() -> None:
    """Here ``name`` is a token, but the logits end before it; so does the mask."""
    words, name = Words(), 256 + WORDS.index(b"name")
    words.eos_ids = (0,)
    matcher = Grammars(lambda: words, name).matcher(Constraint("choice", json.dumps(["name"]), "choice"))
    assert all(token < name for token in matcher.forced()) and not matcher.allows(name)
    mask = np.zeros((name + 31) // 32, np.int32)
    matcher.write_mask(mask.ctypes.data, mask.nbytes)
