"""Whether the CUDA backend can run here. Imports torch only when asked."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from tenfold.core.errors import ConfigError

LEAST_CAPABILITY = (9, 0)  # Hopper: shared memory for the tiles, FP8, and what the kernels were run on
INSTALL = "pip install 'tenfold[cuda]'"


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs that torch sees, in its order, and torch's version."""

    names: tuple[str, ...]
    torch: str


def find_gpus(wanted: int = 1) -> Gpus:
    """The GPUs of this machine. Raises ConfigError where the backend cannot run on ``wanted`` of them, with the reason.

    Importing torch takes seconds.
    """
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"--backend cuda needs {' and '.join(missing)}: {INSTALL}")
    try:
        import torch
        import triton  # noqa: F401 (here, so that a damaged install is told in one line)
    except (ImportError, OSError) as error:
        raise ConfigError(f"--backend cuda: torch or triton cannot be imported ({error}): {INSTALL}") from None
    return _gpus_of(torch, wanted)


def _gpus_of(torch: Any, wanted: int) -> Gpus:
    version = str(torch.__version__)
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:  # the second from a torch that was built without CUDA
        reason = str(error).strip().partition("\n")[0] or repr(error)
        raise ConfigError(f"--backend cuda: no NVIDIA GPU found by torch {version}: {reason}") from None
    gpus = Gpus(tuple(torch.cuda.get_device_name(index) for index in range(count)), version)
    if wanted > count:
        names = ", ".join(gpus.names)
        raise ConfigError(f"--tensor-parallel {wanted} needs {wanted} GPUs; torch {version} sees {count} ({names})")
    for index in range(wanted):
        capability = torch.cuda.get_device_capability(index)
        if capability < LEAST_CAPABILITY:
            found, least = (".".join(map(str, one)) for one in (capability, LEAST_CAPABILITY))
            raise ConfigError(
                f"--backend cuda: {gpus.names[index]} has compute capability {found}; it needs {least} (Hopper) or more"
            )
    return gpus
