"""``python -m benchmarks.cuda``: check every kernel on this machine's GPU, then time it beside the GPU's limits.

python -m benchmarks.cuda                          all of it, in under ten minutes
python -m benchmarks.cuda --only attention,model   some parts
python -m benchmarks.cuda --output result.json     figures, too
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch

from benchmarks.cuda.timing import Limits, Row, measure_limits

PARTS = ("pointwise", "sampling", "attention", "linear", "model", "real", "serving", "engine", "http", "naive")
_ROW, _WRONG = "row: ", "wrong: "  # how a part's process tells them


def main() -> None:
    """Run the parts one after the other, each in a process of its own: one that fails takes no other along."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, help="write figures here, as JSON")
    parser.add_argument("--no-checks", action="store_true", help="only times")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        limits = Limits(**json.loads(sys.stdin.read()))
        _run(options.part, limits, checks=not options.no_checks)
        return
    limits = measure_limits()
    torch.cuda.empty_cache()
    print(
        f"{limits.device}, torch {torch.__version__}: copies {limits.copy / 1e12:.2f} TB/s (read + written), "
        f"bf16 products {limits.matrix / 1e12:.0f} TFLOP/s",
        flush=True,
    )
    rows: list[dict[str, object]] = []
    wrong: list[str] = []
    for name in options.only.split(","):
        command = [sys.executable, "-m", "benchmarks.cuda", "--part", name]
        command += ["--no-checks"] if options.no_checks else []
        told = json.dumps(asdict(limits))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(told)
            process.stdin.close()
            for line in process.stdout:
                if line.startswith(_WRONG):
                    wrong.append(f"{name}: {json.loads(line.removeprefix(_WRONG))}")
                elif line.startswith(_ROW):
                    rows.append(json.loads(line.removeprefix(_ROW)))
                else:
                    print(line, end="", flush=True)
        if process.returncode:
            wrong.append(f"{name}: ended with code {process.returncode}")
        if options.output is not None:
            figures = {"limits": asdict(limits), "rows": rows, "wrong": wrong}
            options.output.write_text(json.dumps(figures, indent=1))
    print("\n" + ("\n".join(wrong) if wrong else "all checks passed"))


def _run(name: str, limits: Limits, *, checks: bool) -> None:
    """One part: its rows, and what is wrong."""
    began = time.monotonic()
    part = importlib.import_module(f"benchmarks.cuda.{name}")
    for work in (_check, _time) if checks else (_time,):
        try:
            work(part, limits)
        except Exception:
            print(_WRONG + json.dumps(traceback.format_exc()), flush=True)
    print(f"{name}: {time.monotonic() - began:.0f} s\n", flush=True)


def _check(part: ModuleType, limits: Limits) -> None:
    if hasattr(part, "check"):
        for words in part.check(torch.device("cuda")):
            print(_WRONG + json.dumps(words), flush=True)


def _time(part: ModuleType, limits: Limits) -> None:
    show = line_of(limits)
    for row in part.run(limits):
        print(show(row), flush=True)
        print(_ROW + json.dumps(asdict(row)), flush=True)


def line_of(limits: Limits) -> Callable[[Row], str]:
    """How a row is shown beside ``limits``."""

    def line(row: Row) -> str:
        parts = [f"{row.name:28} {row.shape:34} {row.microseconds:11.1f} us"]
        seconds = row.microseconds / 1e6
        if seconds > 0 and row.bytes:
            rate = row.bytes / seconds
            parts.append(f"{rate / 1e9:7.0f} GB/s {100 * rate / limits.copy:4.0f} %")
        if seconds > 0 and row.flops:
            rate = row.flops / seconds
            parts.append(f"{rate / 1e12:6.0f} TFLOP/s {100 * rate / limits.matrix:4.0f} %")
        return "  ".join([*parts, row.note])

    return line


if __name__ == "__main__":
    main()
