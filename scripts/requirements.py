"""Print what pyproject.toml asks for: ``build``, or the name of an extra. One requirement per line, for pip's -r."""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """``python scripts/requirements.py build|dev|oracle``."""
    group = sys.argv[1]
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    print("\n".join(project["build-system"]["requires"] if group == "build" else extras[group]))


if __name__ == "__main__":
    main()
