"""Where the kernels run: on the GPU, or in Triton's interpreter (see tests/conftest.py)."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")


@pytest.fixture(scope="session")
def device() -> "torch.device":
    """Where the kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", autouse=True)
def scalars_in_loops() -> None:
    """The interpreter holds scalars as arrays of one number, which NumPy 2.4 no longer takes as bounds of loops."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
