"""Small files that are there whole or not at all."""

import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> bool:
    """Put ``data`` at ``path``, making its folder; False where the system does not let us."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    except OSError:
        return False
    return True
