"""Small files that are there whole or not at all."""

import contextlib
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> bool:
    """Put ``data`` at ``path``, making its folder; False where the system does not let us."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(dir=path.parent, delete=False)  # noqa: SIM115 (it becomes `path`)
    except OSError:
        return False
    try:
        with file:
            file.write(data)
        Path(file.name).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(file.name).unlink()
        return False
    return True
