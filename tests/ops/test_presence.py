"""What is told where the CUDA backend cannot run."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tenfold.core.errors import ConfigError
from tenfold.doctor.machine import look_at_gpus
from tenfold.ops.cuda import presence
from tenfold.ops.cuda.presence import Gpus, find_gpus


def torch_with(
    monkeypatch: pytest.MonkeyPatch, *cards: str, capability: tuple[int, int] = (9, 0), error: Exception | None = None
) -> None:
    """A torch that sees these cards, or fails to look."""

    def init() -> None:
        if error is not None:
            raise error

    cuda = SimpleNamespace(
        init=init,
        device_count=lambda: len(cards),
        get_device_name=lambda index: cards[index],
        get_device_capability=lambda index: capability,
    )
    monkeypatch.setattr(presence, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.13.0", cuda=cuda))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())  # type: ignore[arg-type]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs torch and triton: pip install 'tenfold\[cuda\]'"):
        find_gpus()
    monkeypatch.setattr(presence, "find_spec", lambda name: object() if name == "torch" else None)
    with pytest.raises(ConfigError, match="needs triton:"):
        find_gpus()


def test_a_damaged_install_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match="cannot be imported"):
        find_gpus()


@pytest.mark.parametrize(
    "error", [AssertionError("Torch not compiled with CUDA enabled"), RuntimeError("Found no NVIDIA driver\nmore")]
)
def test_no_gpu_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    torch_with(monkeypatch, error=error)
    reason = str(error).splitlines()[0]
    with pytest.raises(ConfigError, match=f"no NVIDIA GPU found by torch 2.13.0: {reason}$"):
        find_gpus()


def test_cards_that_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_with(monkeypatch, "NVIDIA H100")
    assert find_gpus() == Gpus(("NVIDIA H100",), "2.13.0")
    with pytest.raises(ConfigError, match=r"--tensor-parallel 2 needs 2 GPUs.* sees 1 \(NVIDIA H100\)"):
        find_gpus(2)
    torch_with(monkeypatch, "Tesla V100", capability=(7, 0))
    with pytest.raises(ConfigError, match=r"Tesla V100 has compute capability 7\.0; it needs 9\.0"):
        find_gpus()


def test_the_doctor_says_whether_it_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_with(monkeypatch, "NVIDIA H100")
    found: Any = look_at_gpus(["NVIDIA H100"])
    assert "runs on 1 of 1 (torch 2.13.0)" in found.words and "--backend cuda" in found.advice[0]
    monkeypatch.setattr(presence, "find_spec", lambda name: None)
    found = look_at_gpus(["NVIDIA H100"])
    assert "would not run" in found.words and "pip install" in found.words and not found.advice
