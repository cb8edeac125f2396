"""Models from the Hugging Face hub, through its own library and cache."""

import errno
import re
from dataclasses import dataclass
from pathlib import Path

from tenfold.core.errors import FetchError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(rf"({_PART}/{_PART})(?:/({_PART}\.gguf))?(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,200}}))?")

_TIMEOUT = 15.0  # seconds for the hub to answer


@dataclass(frozen=True, slots=True)
class HubId:
    """``org/name``, optionally one GGUF file of it and a revision: ``org/name/file.gguf@revision``."""

    repository: str
    file: str | None
    revision: str | None


def parse_hub_id(text: str) -> HubId | None:
    """``text`` as a :class:`HubId`, or None where it is not one."""
    match = _HUB_ID.fullmatch(text)
    if match is None or ".." in text:
        return None
    return HubId(match[1], match[2], match[3])


def fetch_hub(model: HubId) -> Path:
    """Download ``model``, or find it in the hub's cache; its directory, or the path of its one GGUF file.

    Raises :class:`FetchError`, saying what to do.
    """
    from huggingface_hub import snapshot_download  # late: it costs a tenth of a second

    try:
        wanted = _wanted_files(model)
        folder = Path(
            snapshot_download(
                model.repository, revision=model.revision, allow_patterns=wanted, local_files_only=wanted is None
            )
        )
    except FetchError:
        raise
    except Exception as error:
        raise FetchError(_explain(model, error)) from None
    ggufs = [name for name in wanted or () if name.endswith(".gguf")]
    return folder / (model.file or ggufs[0]) if model.file or ggufs else folder


def _wanted_files(model: HubId) -> list[str] | None:
    """The files to fetch: one GGUF, or configuration and safetensors; None where the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if model.file:
        return [model.file]
    try:
        siblings = HfApi().model_info(model.repository, revision=model.revision, timeout=_TIMEOUT).siblings or []
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise
        return None
    except Exception:  # no network, or told to stay offline: each HTTP library has its own error for it
        return None
    root = [entry.rfilename for entry in siblings if "/" not in entry.rfilename]
    if "config.json" in root and any(name.endswith(".safetensors") for name in root):
        weights = [name for name in root if name.endswith(".safetensors") and not name.startswith("consolidated")]
        return [name for name in root if name.endswith((".json", ".jinja"))] + weights
    ggufs = [name for name in root if name.endswith(".gguf")]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise FetchError(
            f"{model.repository} holds {len(ggufs)} GGUF files; name one: "
            + ", ".join(f"{model.repository}/{name}" for name in ggufs[:8])
        )
    raise FetchError(f"{model.repository} holds neither safetensors nor a GGUF file; choose another model")


def _explain(model: HubId, error: Exception) -> str:
    name = model.repository + (f"@{model.revision}" if model.revision else "")
    kind = type(error).__name__
    advice = {
        "RepositoryNotFoundError": "no such model on the Hugging Face hub; check the spelling, and log in (hf auth "
        "login) if it is private",
        "GatedRepoError": "its licence must be accepted on its page on huggingface.co, then log in (hf auth login)",
        "RevisionNotFoundError": "it has no such revision; leave out @revision or give a branch, tag or commit",
        "EntryNotFoundError": "it has no such file",
        "LocalEntryNotFoundError": "the hub cannot be reached and the model is not in the local cache; check the "
        "network (and HF_HUB_OFFLINE), or give the path of a local model",
    }.get(kind)
    if advice is None and getattr(error, "errno", None) == errno.ENOSPC:
        advice = "the disk is full; free some space, or set HF_HOME to a folder elsewhere"
    if advice is None:
        first = next(iter(str(error).splitlines()), "no details")[:200]
        advice = f"{kind}: {first}; check the network and try again"
    return f"cannot fetch {name}: {advice}"
