"""From a path to everything a model is: spec, weights, tokenizer, chat template.

What only some files or weights need is imported where it is: a server's process, which reads the text side of a GGUF
file, does without NumPy.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tenfold.core.errors import ModelError, UnsupportedModel
from tenfold.model.chat import ChatTemplate
from tenfold.model.fields import Fields
from tenfold.model.gguf_file import GgufFile, open_gguf
from tenfold.model.gguf_tokenizer import special_text, tokenizer_plan
from tenfold.model.tokenizer import Tokenizer, TokenizerPlan, Vocabulary
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Weights

if TYPE_CHECKING:
    from tenfold.model.hf_dir import HfDirectory


class LazyTokenizer:
    """Plans and builds a tokenizer when first asked; safe for several threads."""

    def __init__(self, make_plan: Callable[[], TokenizerPlan]) -> None:
        self._make_plan = make_plan
        self._lock = threading.Lock()
        self._plan: TokenizerPlan | None = None
        self._tokenizer: Tokenizer | None = None

    def plan(self) -> TokenizerPlan:
        """How to build it. Raises ModelError."""
        with self._lock:
            if self._plan is None:
                self._plan = self._make_plan()
            return self._plan

    def get(self) -> Tokenizer:
        """The one tokenizer. Raises ModelError."""
        plan = self.plan()
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer(plan)
            return self._tokenizer


@dataclass(frozen=True, slots=True)
class TextModel:
    """A model's text side: all that a server process needs, no weights.

    ``name`` is what the file or folder is called.
    """

    name: str
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model. Weights are views of the mapped ``files``, which must stay as they are while in use."""

    name: str
    spec: ModelSpec
    weights: Weights
    chat_template: ChatTemplate | None
    files: tuple[Path, ...]
    _lazy: LazyTokenizer

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, built at the first call. Raises ModelError where it cannot be."""
        return self._lazy.get()

    def vocabulary(self) -> Vocabulary:
        """What decodes the model's tokens. Where the file tells without building a tokenizer, none is built: that its
        merges fit is then known only once :meth:`tokenizer` is. Raises ModelError where it cannot be.
        """
        plan = self._lazy.plan()
        if plan.pieces is None:
            return self.tokenizer()
        return Vocabulary(plan, plan.pieces.text, plan.pieces.marks)

    def without_weights(self) -> "Checkpoint":
        """The same, once there is another form of the weights: those that are no view of the file let go of memory."""
        return replace(self, weights=Weights(self.spec, {}))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a text."""
        return self.tokenizer().eos_ids


def load_checkpoint(path: Path) -> Checkpoint:
    """The model at ``path``: a GGUF file or a Hugging Face directory.

    Raises :class:`CorruptModel`, :class:`UnsupportedModel` or :class:`ModelError`, saying what to do.
    """
    source = _open(path)
    if isinstance(source, GgufFile):
        from tenfold.model.gguf_spec import model_spec, model_weights

        spec = model_spec(source)
        weights = model_weights(source, spec)
        files: tuple[Path, ...] = (path,)
    else:
        from tenfold.model.hf_dir import hf_spec, hf_weights

        spec = hf_spec(source)
        weights = hf_weights(source, spec)
        files = source.files
    return Checkpoint(_name(path), spec, weights, _chat_template(source), files, _lazy(source))


def load_text_model(path: Path) -> TextModel:
    """The tokenizer and chat template of the model at ``path``; looks at no weights.

    Raises as :func:`load_checkpoint`.
    """
    source = _open(path, tensors=False)
    return TextModel(_name(path), _tokenizer(source), _chat_template(source))


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of the model at ``path`` alone. Raises as :func:`load_checkpoint`."""
    return _tokenizer(_open(path, tensors=False))


def _open(path: Path, *, tensors: bool = True) -> "GgufFile | HfDirectory":
    try:
        if path.is_dir():
            return _open_directory(path, tensors)
        if path.is_file():
            return open_gguf(path, tensors=tensors)
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    if exists:
        raise UnsupportedModel(f"{path} is neither a file nor a directory; give a .gguf file or a model directory")
    raise ModelError(f"{path} does not exist; give a .gguf file, a Hugging Face model directory, or a known name")


def _open_directory(path: Path, tensors: bool) -> "GgufFile | HfDirectory":
    """A directory of safetensors, or one that holds a single GGUF file."""
    if (path / "config.json").is_file():
        from tenfold.model.hf_dir import open_hf_directory

        return open_hf_directory(path)
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return open_gguf(found[0], tensors=tensors)
    if found:
        names = ", ".join(file.name for file in found)
        raise ModelError(f"{path} holds {len(found)} GGUF files ({names}); give the path of one")
    raise ModelError(f"{path} holds neither config.json nor a .gguf file; it is not a model directory")


def _lazy(source: "GgufFile | HfDirectory") -> LazyTokenizer:
    return LazyTokenizer(partial(_tokenizer_plan, source))


def _tokenizer(source: "GgufFile | HfDirectory") -> Tokenizer:
    return Tokenizer(_tokenizer_plan(source))


def _tokenizer_plan(source: "GgufFile | HfDirectory") -> TokenizerPlan:
    if isinstance(source, GgufFile):
        return tokenizer_plan(source)
    from tenfold.model.hf_tokenizer import hf_tokenizer_plan

    return hf_tokenizer_plan(source)


def _chat_template(source: "GgufFile | HfDirectory") -> ChatTemplate | None:
    if not isinstance(source, GgufFile):
        from tenfold.model.hf_tokenizer import hf_chat_template

        return hf_chat_template(source)
    fields = Fields(str(source.path), source.metadata)
    if not fields.has("tokenizer.chat_template"):
        return None
    text = fields.text("tokenizer.chat_template")
    return ChatTemplate(text, special_text(source, "bos"), special_text(source, "eos"))


def _name(path: Path) -> str:
    """The file's stem or the folder's name; for a folder of Hugging Face's cache, the repository's."""
    for part in path.absolute().parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return path.stem if path.suffix == ".gguf" else path.absolute().name
