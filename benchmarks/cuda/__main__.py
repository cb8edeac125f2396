"""``python -m benchmarks.cuda``: check every kernel on this machine's GPU, then time it beside the GPU's limits.

    python -m benchmarks.cuda                          all of it, in under ten minutes
    python -m benchmarks.cuda --only attention,model   some parts
    python -m benchmarks.cuda --output result.json     figures, too
"""

import argparse
import importlib
import json
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.cuda.timing import Limits, Row, measure_limits

PARTS = ("pointwise", "sampling", "attention", "linear", "model", "engine", "naive")


def main() -> None:
    """Run the parts one after the other; one that fails does not keep the others from running."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, help="write figures here, as JSON")
    parser.add_argument("--no-checks", action="store_true", help="only times")
    options = parser.parse_args()
    limits = measure_limits()
    print(
        f"{limits.device}, torch {torch.__version__}: copies {limits.copy / 1e12:.2f} TB/s (read + written), "
        f"bf16 products {limits.matrix / 1e12:.0f} TFLOP/s",
        flush=True,
    )
    rows: list[Row] = []
    wrong: list[str] = []
    for name in options.only.split(","):
        began = time.monotonic()
        try:
            part = importlib.import_module(f"benchmarks.cuda.{name}")
            if hasattr(part, "check") and not options.no_checks:
                wrong += [f"{name}: {words}" for words in part.check(torch.device("cuda"))]
            found = part.run(limits)
        except Exception:
            wrong.append(f"{name}: {traceback.format_exc()}")
            found = []
        rows += found
        print(f"\n{name} ({time.monotonic() - began:.0f} s)", flush=True)
        print("\n".join(map(line_of(limits), found)), flush=True)
        torch.cuda.empty_cache()
        if options.output is not None:
            figures = {"limits": asdict(limits), "rows": list(map(asdict, rows)), "wrong": wrong}
            options.output.write_text(json.dumps(figures, indent=1))
    print("\n" + ("\n".join(wrong) if wrong else "all checks passed"))


def line_of(limits: Limits):  # noqa: ANN201 (a function of a row)
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
