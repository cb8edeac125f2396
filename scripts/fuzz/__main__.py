"""Nearly valid inputs for all that strangers can send: ``python -m scripts.fuzz [TARGET …] [--count N] [--seed S]``.

Targets: GGUF and safetensors files, whole models, chat templates, constraints, bodies of all POST routes, streams whose
clients leave, bytes on connections, and what models write (scripts/fuzz/targets.py). Each runs in a process of its own
with bounded memory. A crash is anything but the documented errors: another exception, a 5xx, an input that takes too
long, a process that dies. Each is told with its input's number; ``--only NUMBER``, with one target and the same seed,
runs that again. Prints counts and times; exit code 1 where there was a crash.
"""

import argparse
import sys
import time

from scripts.fuzz.running import watch
from scripts.fuzz.targets import TARGETS

_TOLD = 10  # crashes of a target that are told in full


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--count", type=int, default=20_000, help="of inputs, shared out among the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="of each target, at most")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of address space of each process")
    parser.add_argument("--only", type=int, help="the number of one input")
    told = parser.parse_args()
    names = told.targets or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    shares = sum(TARGETS[name].share for name in names)
    failed = total = 0
    began = time.monotonic()
    for name in names:
        count = max(1, round(told.count * TARGETS[name].share / shares))
        numbers = range(count) if told.only is None else range(told.only, told.only + 1)
        start = time.monotonic()
        done, crashes = watch(name, TARGETS[name], told.seed, numbers, told.seconds, told.gigabytes)
        took = time.monotonic() - start
        print(
            f"{name:>12} {done:>9,} inputs {took:>8.1f} s {done / took:>8.0f}/s {len(crashes):>5} crashes", flush=True
        )
        for number, text in crashes[:_TOLD]:
            print(f"--- {name} --seed {told.seed} --only {number}\n{text}", flush=True)
        failed += len(crashes)
        total += done
    print(f"{'all':>12} {total:>9,} inputs {time.monotonic() - began:>8.1f} s {failed:>22} crashes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
