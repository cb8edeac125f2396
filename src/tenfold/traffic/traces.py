"""Traces of real traffic, as they are published.

Rows that cannot be read are counted and named by their line; the others are used.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from tenfold.core.errors import ConfigError
from tenfold.traffic.row import Row

_TOLD = 5  # bad lines that are kept in words
_MOONCAKE_BLOCK = 512  # tokens
_LONGEST = 1 << 24  # tokens that a prompt or an answer can have,
_LATEST = 1e11  # and seconds from some beginning: what is beyond is no such number


@dataclass(frozen=True, slots=True)
class Trace:
    """The rows that could be read, by time, from 0 on; how many could not, and the first of those in words."""

    name: str
    rows: tuple[Row, ...]
    bad: int = 0
    faults: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.rows[-1].at if self.rows else 0.0


def read_trace(path: Path) -> Trace:
    """A trace in any of ``FORMATS``, told by its first line.

    Raises ConfigError where there is no such file, where its form is none of those, or where not one row is good.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            form = next((form for form in FORMATS if form.is_one(first)), None)
            if form is None:
                known = "; ".join(f"{one.name}: {one.header}" for one in FORMATS)
                raise ConfigError(
                    f"{path}: no known kind of trace by its first line ({first[:80]!r}); known are {known}"
                )
            return _collect(path.name, form.rows(chain([first], lines)))
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from None
    except csv.Error as error:
        raise ConfigError(f"{path} is no CSV that can be read: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text") from None


Parsed = Iterator[tuple[int, Row | str]]  # line, and the row or what is wrong with it


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of trace is told and read."""

    name: str
    header: str  # what its first line has
    is_one: Callable[[str], bool]
    rows: Callable[[Iterable[str]], Parsed]


def _collect(name: str, parsed: Parsed) -> Trace:
    rows: list[Row] = []
    faults: list[str] = []
    bad = 0
    for line, found in parsed:
        if isinstance(found, Row):
            rows.append(found)
            continue
        bad += 1
        if len(faults) < _TOLD:
            faults.append(f"line {line}: {found}")
    if not rows:
        raise ConfigError(f"{name} has no row that can be used" + (f"; {faults[0]}" if faults else ""))
    rows.sort(key=lambda row: row.at)
    start = rows[0].at
    return Trace(name, tuple(replace(row, at=row.at - start) for row in rows), bad, tuple(faults))


def _table(
    time: str, prompt: str, outputs: str, seconds: Callable[[str], float], tenant: str = ""
) -> tuple[Callable[[str], bool], Callable[[Iterable[str]], Parsed]]:
    """How a CSV file with these columns is told and read."""
    needed = {time, prompt, outputs, *([tenant] if tenant else [])}

    def is_one(first: str) -> bool:
        return needed <= {cell.strip() for cell in first.split(",")}

    def rows(lines: Iterable[str]) -> Parsed:
        reader = csv.DictReader(lines, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for record in reader:
            try:
                whose = record[tenant] if tenant else ""
                found = _row(seconds(record[time]), record[prompt], record[outputs], whose)
                if tenant and (slo_class := record.get("slo_class")):
                    found = replace(found, slo_class=slo_class)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                yield reader.line_num, str(error)
            else:
                yield reader.line_num, found

    return is_one, rows


def _row(at: float, prompt: Any, outputs: Any, tenant: str = "", blocks: tuple[int, ...] = (), size: int = 0) -> Row:
    """A row of sane numbers. Raises ValueError, saying what is not."""
    row = Row(at, int(prompt), int(outputs), tenant, blocks, size)
    if not abs(row.at) < _LATEST:
        raise ValueError(f"a time of {row.at}")
    if not 1 <= min(row.prompt, row.outputs) <= max(row.prompt, row.outputs) <= _LONGEST:
        raise ValueError(f"{row.prompt} tokens in, {row.outputs} out: both must be from 1 to {_LONGEST}")
    return row


def _timestamp(text: str) -> float:
    """Seconds, of a date and time with any number of digits after the point; UTC where no zone is given."""
    at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.strip()))
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _is_mooncake(first: str) -> bool:
    return first.lstrip().startswith("{") and '"input_length"' in first


def _mooncake(lines: Iterable[str]) -> Parsed:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            blocks = tuple(int(block) for block in record.get("hash_ids", ()))
            at = float(record["timestamp"]) / 1000
            yield number, _row(at, record["input_length"], record["output_length"], "", blocks, _MOONCAKE_BLOCK)
        except KeyError as error:
            yield number, f"no field {error}"
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            yield number, str(error)


FORMATS = (
    Format(
        "Azure LLM inference trace (Patel et al., ISCA'24)",
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        *_table("TIMESTAMP", "ContextTokens", "GeneratedTokens", _timestamp),
    ),
    Format(
        "BurstGPT (Wang et al., 2024)",
        "Timestamp,Model,Request tokens,Response tokens,…",
        *_table("Timestamp", "Request tokens", "Response tokens", float),
    ),
    Format(
        "several tenants",
        "arrival_s,tenant,prompt_tokens,output_tokens[,slo_class]",
        *_table("arrival_s", "prompt_tokens", "output_tokens", float, "tenant"),
    ),
    Format(
        "Mooncake (Qin et al., FAST'25), one JSON object per line",
        '{"timestamp": …, "input_length": …',
        _is_mooncake,
        _mooncake,
    ),
)
