"""Print what pyproject.toml asks for, a requirement per line, for pip's -r: ``build``, ``run``, or names of extras."""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """``python scripts/requirements.py GROUP …``."""
    asked = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    project = asked["project"]
    groups = {
        "build": asked["build-system"]["requires"],
        "run": project["dependencies"],
        **project["optional-dependencies"],
    }
    print("\n".join(one for group in sys.argv[1:] for one in groups[group]))


if __name__ == "__main__":
    main()
