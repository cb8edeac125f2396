"""What is fuzzed. A target makes an input from random numbers and tries it; documented errors are answers, all else
is raised."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import save

from scripts.fuzz.bodies import BODIES, WRITTEN
from scripts.fuzz.http import Door, Inside
from scripts.fuzz.mutation import bytes_of, json_of, pieces_of, text_of, tree_of
from scripts.fuzz.running import Plan
from tenfold.core.constraint import Constraint, Kind
from tenfold.core.errors import InvalidRequest, ModelError
from tenfold.grammar.grammars import Grammars
from tenfold.model.chat import ChatTemplate
from tenfold.model.checkpoint import Checkpoint, load_checkpoint
from tenfold.model.gguf_file import StringArray, open_gguf
from tenfold.model.safetensors_file import read_safetensors
from tenfold.ops.cpu import CpuOps
from tenfold.server.parts import CallEnd, CallStart, CallText, Part, Text, Thought
from tenfold.server.reading import Reading
from tenfold.server.tools.forms import FORMS
from tests.grammar.test_grammars import VOCAB, Words
from tests.model import tiny
from tests.model.test_hf_dir import write_tokenizer
from tests.server.templates import HERMES, LLAMA3, MISTRAL, THINKING


class Gguf:
    """The reader of GGUF files, alone: what is in them, and every string."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "fuzzed.gguf"
        self._whole = tiny.write_byte_level(folder / "seed.gguf").read_bytes()
        self._head = self._whole.rindex(b"blk.1") + 100
        self._parts = list(_gguf_parts(self._whole))

    def data(self, rng: Random) -> bytes:
        """A file: bytes changed, or parts left out, doubled and moved, so that counts and offsets lie."""
        if rng.random() < 0.6:
            return bytes_of(rng, self._whole, head=self._head)
        parts = list(self._parts)
        for _ in range(rng.randint(1, 3)):
            at, other = rng.randrange(1, len(parts)), rng.randrange(1, len(parts))
            match rng.randrange(4):
                case 0:
                    del parts[at]
                case 1:
                    parts.insert(at, parts[other])
                case 2:
                    parts[at], parts[other] = parts[other], parts[at]
                case _:
                    parts[at] = bytes_of(rng, parts[at], head=200)
        whole = b"".join(parts)
        return whole if rng.random() < 0.5 else _counted(whole, rng, len(parts))

    def __call__(self, rng: Random) -> None:
        """Read it."""
        self._path.write_bytes(self.data(rng))
        try:
            read = open_gguf(self._path)
            for value in read.metadata.values():
                if isinstance(value, StringArray):
                    value.to_list()
        except ModelError as error:
            assert str(error)


def _gguf_parts(data: bytes) -> Iterator[bytes]:
    """The head, each metadata entry and tensor entry, and the rest."""
    values, tensors = struct.unpack_from("<Q", data, 16)[0], struct.unpack_from("<Q", data, 8)[0]
    at = 24
    yield data[:at]

    def text(start: int) -> int:
        return start + 8 + int(struct.unpack_from("<Q", data, start)[0])

    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    for _ in range(values):
        end = text(at)
        kind, end = struct.unpack_from("<I", data, end)[0], end + 4
        if kind == 8:
            end = text(end)
        elif kind == 9:
            inner, count = struct.unpack_from("<IQ", data, end)
            end += 12
            if inner == 8:
                for _ in range(count):
                    end = text(end)
            else:
                end += widths[inner] * count
        else:
            end += widths[kind]
        yield data[at:end]
        at = end
    for _ in range(tensors):
        end = text(at)
        end += 4 + 8 * struct.unpack_from("<I", data, end)[0] + 12
        yield data[at:end]
        at = end
    yield data[at:]


def _counted(data: bytes, rng: Random, parts: int) -> bytes:
    """With other counts of tensors and metadata entries."""
    counts = rng.randint(0, parts), rng.randint(0, parts)
    return data[:8] + struct.pack("<QQ", *counts) + data[24:]


class Safetensors:
    """The reader of safetensors files."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "fuzzed.safetensors"
        values = {f"t{at}": np.zeros((4, 8), kind) for at, kind in enumerate((np.float32, np.float16, np.int32))}
        self._whole = save(values, {"a": "b"})
        length = int.from_bytes(self._whole[:8], "little")
        self._header: Any = json.loads(self._whole[8 : 8 + length])
        self._data = self._whole[8 + length :]

    def __call__(self, rng: Random) -> None:
        """Read one with bytes changed, or with another header of the right length."""
        if rng.random() < 0.4:
            data = bytes_of(rng, self._whole, head=len(self._whole) - len(self._data))
        else:
            header = json_of(rng, self._header)
            data = len(header).to_bytes(8, "little") + header + self._data
        self._path.write_bytes(data)
        try:
            read_safetensors(self._path, integers=rng.random() < 0.7)
        except ModelError as error:
            assert str(error)


class Models:
    """Whole models: configuration, weights, tokenizer and template; what loads has to compute, too."""

    def __init__(self, folder: Path) -> None:
        self._gguf = Gguf(folder)
        self._file = folder / "model.gguf"
        self._folder = write_tokenizer(folder, chat_template=tiny.CHAT)
        self._files = {
            path.name: path.read_bytes() for path in self._folder.iterdir() if path.suffix in (".json", ".safetensors")
        }

    def __call__(self, rng: Random) -> None:
        """Load one with a file changed."""
        if rng.random() < 0.6:
            self._file.write_bytes(self._gguf.data(rng))
            self._load(self._file)
            return
        name = rng.choice(sorted(self._files))
        whole = self._files[name]
        by_tree = name.endswith(".json") and rng.random() < 0.8
        data = json_of(rng, json.loads(whole)) if by_tree else bytes_of(rng, whole, head=4000)
        (self._folder / name).write_bytes(data)
        try:
            self._load(self._folder)
        finally:
            (self._folder / name).write_bytes(whole)

    def _load(self, path: Path) -> None:
        try:
            found = load_checkpoint(path)
            _use(found)
        except (ModelError, InvalidRequest) as error:
            assert str(error)


def _use(model: Checkpoint) -> None:
    tokenizer = model.tokenizer()
    tokenizer.decode(tokenizer.encode("hello world é <|end|>", add_special=True))
    if model.chat_template is not None:
        model.chat_template.render([{"role": "user", "content": "hi"}])
    if model.spec.layers <= 4:
        CpuOps(model.weights, threads=1)


# What templates are made of, and what hostile ones try.
_TEMPLATE_WORDS = """\
{% for m in messages %}
{% endfor %}
{% if x %}
{% endif %}
{% set a = 1 %}
{% macro f(x) %}{{ f(x) }}{% endmacro %}
{{ f(1) }}
{% generation %}
{% endgeneration %}
{% break %}
{% continue %}
{% raw %}
{{ messages }}
{{
}}
{%
%}
range(10**9)
'a' * 99999999
''.__class__
'%9999999d' % 1
'{:99999999}'.format(1)
lipsum(9999)
cycler(1)
namespace(a=1)
strftime_now('%Y')
raise_exception('no')
.replace('a', a)
|tojson
|indent(9999)
|center(9)
|wordwrap(1)
|truncate(9)
|urlize
|join
|list
|sort
|pprint
|xmlattr
|groupby('role')
|map(attribute='x')
|selectattr('x')
|slice(10**9)
|batch(10**9, 'a')
|round(400)
|format(1, 2)
|replace('', 'aaaaaaaaaaaaaaaa')
~ messages
** 9
// 0
[0]
.role"""


class Templates:
    """Chat templates, which are code from strangers: they end soon, with a text or with a refusal."""

    WORDS = tuple(_TEMPLATE_WORDS.splitlines())
    MESSAGES = (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "r", "tool_call_id": "1", "name": "f"},
    )

    def __init__(self, folder: Path) -> None:
        self._seeds = (tiny.CHAT, HERMES, THINKING, LLAMA3, MISTRAL)

    def __call__(self, rng: Random) -> None:
        """Compile and render one."""
        template = ChatTemplate(text_of(rng, rng.choice(self._seeds), words=self.WORDS), "<s>", "</s>")
        messages = tree_of(rng, list(self.MESSAGES)) if rng.random() < 0.5 else list(self.MESSAGES)
        try:
            template.render(messages if isinstance(messages, list) else [], tools=rng.choice((None, [], [{"a": 1}])))
        except InvalidRequest as error:
            assert str(error)


class Constraints:
    """Schemas, expressions and grammars that clients send, compiled and followed for some tokens."""

    SEEDS: tuple[tuple[Kind, str], ...] = (
        ("regex", r"(a|b{2,3})+\d*[x-z]?(?i:q)\p{L}.{0,4}"),
        ("lark", 'start: a ("," a)*\na: /[a-z]+/ | NUM{1,3} | %json {"type": "integer"}\nNUM: "0".."9"+\n'),
        ("gbnf", 'root ::= item ("," item){0,3}\nitem ::= [a-z]+ | "x" | num?\nnum ::= [0-9]{1,4} # c\n'),
        ("choice", '["yes", "no", "é"]'),
    )
    SCHEMA: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": "^x{2,4}$", "minLength": 1, "maxLength": 9},
            "b": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 3},
            "c": {"anyOf": [{"type": "number", "minimum": 0, "multipleOf": 2}, {"enum": ["x", 1, None]}]},
            "d": {"type": "string", "format": "date-time"},
        },
        "$defs": {"n": {"type": "integer", "maximum": 12}},
        "required": ["a"],
        "additionalProperties": False,
    }
    WORDS = (*'()[]{}*+?|/^$\\\n"', "{0,99}", "{9,}", "(?i)", "(?=x)", "::=", "..", "\\d", "%json", "root")

    def __init__(self, folder: Path) -> None:
        self._words = Words()
        self._mask = np.zeros((VOCAB + 31) // 32, np.int32)
        self._grammars = Grammars(Words, VOCAB)

    def __call__(self, rng: Random) -> None:
        """Compile one, and take what may come."""
        if rng.random() < 0.5:
            kind, text = "json", json_of(rng, self.SCHEMA).decode(errors="replace")
        else:
            kind, text = rng.choice(self.SEEDS)
            text = text_of(rng, text, words=self.WORDS)
        try:
            matcher = self._grammars.matcher(Constraint(kind, text))
        except InvalidRequest as error:
            assert str(error)
            return
        for _ in range(6):
            matcher.write_mask(self._mask.ctypes.data, self._mask.nbytes)
            may = np.flatnonzero(np.unpackbits(self._mask.view(np.uint8), count=VOCAB, bitorder="little"))
            if not len(may) or matcher.error is not None or not matcher.consume([int(rng.choice(may.tolist()))]):
                return
            matcher.forced()


MARKS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "{", "}", "[", "]", ";"),
    *(",", '"', "\\", "\\ud800", "null", '"name"', "1e999", "NaN", "-"),
)


class Answers:
    """The parsers of what models write, in pieces: nothing is raised, and how it was cut makes no difference."""

    def __init__(self, folder: Path) -> None:
        """Nothing to keep."""

    def __call__(self, rng: Random) -> None:
        """Read one whole and in pieces."""
        text = text_of(rng, rng.choice(WRITTEN), words=MARKS).encode(errors="replace").decode()  # as decoded
        form = rng.choice((None, *FORMS.values()))
        thoughts = rng.choice(("no", "perhaps", "opened"))
        reading = Reading(form, frozenset(("weather",)), rng.choice((None, 1)), thoughts)
        assert _joined(reading, [text]) == _joined(reading, pieces_of(rng, text)), "cut otherwise, read otherwise"


def _joined(reading: Reading, pieces: list[str]) -> list[tuple[str, ...]]:
    reader = reading.reader()
    parts: list[Part] = []
    for at, piece in enumerate(pieces, 1):
        parts += reader.push(piece, last=at == len(pieces))
    joined: list[tuple[str, ...]] = []
    for part in parts:
        match part:
            case Thought(text) | Text(text) | CallText(_, text):
                kind = type(part).__name__
                if joined and joined[-1][0] == kind:
                    text, _ = joined[-1][1] + text, joined.pop()
                joined.append((kind, text))
            case CallStart(_, _, name):
                joined.append(("start", name))
            case CallEnd(_, written, whole):
                joined.append(("end", written, str(whole)))
    return joined


class Bodies:
    """Bodies of all POST routes, through the whole application: never a 5xx, always a whole and well-formed answer."""

    def __init__(self, folder: Path) -> None:
        self._inside = Inside()

    def __call__(self, rng: Random) -> None:
        """Ask with one."""
        path, body = rng.choice(BODIES)
        says = rng.choice((None, *WRITTEN))
        if says is not None and rng.random() < 0.5:
            says = text_of(rng, says, words=MARKS).encode(errors="replace").decode()
        self._inside.ask(path, json_of(rng, body), says=says, template=rng.randrange(4))


class Leaving:
    """Streams whose clients leave, or whose engine fails, at any moment: nothing is left running."""

    def __init__(self, folder: Path) -> None:
        self._inside = Inside()

    def __call__(self, rng: Random) -> None:
        """Ask, and leave."""
        path, body = rng.choice(
            [one for one in BODIES if "messages" in one[1] or "input" in one[1] or "prompt" in one[1]]
        )
        told = body if path.endswith(("tokenize", "count_tokens")) else {**body, "stream": rng.random() < 0.8}
        fails = rng.choice((None, None, 0, 1, 5))
        self._inside.leave(
            path, json.dumps(told).encode(), after=rng.randint(0, 12), fails=fails, says=rng.choice((None, *WRITTEN))
        )


class Connections:
    """Bytes on a connection, in pieces: requests that are none, heads that are strange."""

    SEEDS = (
        b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /debug/steps?n=3&n=x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET /debug/dashboard?steps=1&requests=2&pool=true HTTP/1.1\r\nhost: a\r\nx-request-id: abc\r\n\r\n",
        b"GET /v1/models/a%2fb HTTP/1.0\r\nhost: a\r\nauthorization: Bearer x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 30\r\n"
        b'x-slo-ttft-ms: 500\r\nx-slo-class: batch\r\nx-tenant: t\r\n\r\n{"prompt":"hi","max_tokens":2}',
        b"POST /tokenize HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
        b'5\r\n{"pro\r\n9\r\nmpt":"x"}\r\n0\r\n\r\n',
    )

    def __init__(self, folder: Path) -> None:
        self._door = Door()

    def __call__(self, rng: Random) -> None:
        """Send some."""
        data = bytes_of(rng, b"".join(rng.choices(self.SEEDS, k=rng.choice((1, 1, 2)))))
        self._door.send(pieces_of(rng, data))


TARGETS: dict[str, Plan] = {
    "gguf": Plan(Gguf, 0.24),
    "safetensors": Plan(Safetensors, 0.40),
    "answers": Plan(Answers, 0.25),
    "bodies": Plan(Bodies, 0.04),
    "connections": Plan(Connections, 0.03),
    "leaving": Plan(Leaving, 0.015),
    "constraints": Plan(Constraints, 0.01, patience=20.0),
    "models": Plan(Models, 0.01),
    "templates": Plan(Templates, 0.005, patience=20.0),
}
