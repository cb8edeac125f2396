"""Known vulnerabilities of what is installed beside this Python: ``python scripts/audit.py [--if-reachable] [ID …]``.

pip-audit asks PyPI's advisories, and where these cannot be had, OSV's. What stands under an ID is accepted. The exit
code is 0 where nothing else is known, 1 where something is, and 69 where nobody could be asked; with
``--if-reachable`` that is 0, too, for machines without a way to there.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

SOURCES = {"pypi": "PyPI (pypi.org)", "osv": "OSV (api.osv.dev)"}
NONE, SOME, UNREACHABLE = 0, 1, 69
Ask = Callable[[str, float], str]  # a source and seconds -> pip-audit's JSON, or anything where it failed


def ask(source: str, seconds: float) -> str:
    """What pip-audit prints, or nothing where it takes longer."""
    command = (sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner=off", "--timeout=5")
    try:
        done = subprocess.run(
            (*command, "--format=json", f"--vulnerability-service={source}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback, where there is no network
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def read(answer: str) -> list[dict[str, Any]] | None:
    """The packages, each with ``vulns`` or a ``skip_reason``; None where no package was looked up."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return packages if any("vulns" in one for one in packages) else None


def audit(ask: Ask, seconds: float, accepted: Sequence[str], say: Callable[[str], None]) -> int:
    """Ask one source after the other, for so many seconds in all; gives the exit code."""
    end = time.monotonic() + seconds
    for source in SOURCES:
        left = end - time.monotonic()
        packages = read(ask(source, left)) if left > 0 else None
        if packages is not None:
            break
    else:
        say(
            f"no advisories could be had within {seconds:g} s from {' or '.join(SOURCES.values())}: nothing is known "
            "of what is installed; try again where one of them can be reached"
        )
        return UNREACHABLE
    unknown = [one["name"] for one in packages if "vulns" not in one]
    found = 0
    for one in packages:
        for flaw in one.get("vulns", ()):
            names = [flaw["id"], *flaw.get("aliases", ())]
            if set(names) & set(accepted):
                continue
            found += 1
            fixed = " or ".join(flaw.get("fix_versions", ())) or "no version yet"
            say(f"{one['name']} {one['version']}: {', '.join(names)}; fixed in {fixed}")
    checked = len(packages) - len(unknown)
    say(f"{found} known vulnerabilities in {checked} packages, by {SOURCES[source]}")
    if unknown:
        say(f"not known there, so not checked: {', '.join(unknown)}")
    return SOME if found else NONE


def main() -> int:
    """Parse the command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("accepted", nargs="*", metavar="ID")
    parser.add_argument("--if-reachable", action="store_true", help="succeed where no source can be asked")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all, at most")
    asked = parser.parse_args()
    code = audit(ask, asked.seconds, asked.accepted, lambda line: print(f"audit: {line}", flush=True))
    return NONE if code == UNREACHABLE and asked.if_reachable else code


if __name__ == "__main__":
    sys.exit(main())
