"""What a run leaves: plain records, written as JSON after every measurement."""

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class System:
    """A system of the run; ``missing`` says why it took no part, ``agreement`` is its share of golden tokens."""

    name: str
    label: str
    flags: str
    missing: str | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One system, one row, one round. ``values`` by metric; ``others`` is the machine's share that others took."""

    round: int
    row: str
    system: str
    values: Mapping[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    output_tokens: int = 0
    others: float = 0.0
    note: str = ""
    error: str | None = None


@dataclass(slots=True)
class Run:
    """A whole run."""

    model: str
    date: str
    machine: str
    commit: str
    command: str
    systems: list[System] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")
        fresh.replace(path)


def load(path: Path) -> Run:
    """A run as it was saved."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def new_run(model: str, command: str) -> Run:
    """A run on this machine, now."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Run(model, now, machine(), _commit(), command)


def machine() -> str:
    """The processor, its cores and what matters of its instructions."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    known = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16", "avx2": "AVX2"}
    has = ", ".join(name for flag, name in known.items() if flag in flags)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {fields.get('model name', platform.processor())} ({has}), {memory:.0f} GiB"


def _commit() -> str:
    git: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "cwd": Path(__file__).parent}
    try:
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **git).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "src", "native"], **git).stdout.strip()
    except OSError:
        return "unknown"
    return f"{commit}{' + changes' if changed else ''}"
