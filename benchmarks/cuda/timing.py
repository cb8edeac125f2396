"""Times on the device, and the rows of the table that shows them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

_BATCH = 4  # calls between two events at least: events themselves take microseconds


@dataclass(frozen=True, slots=True)
class Row:
    """What one operation at one shape took, and what it had to do: the least bytes moved and operations."""

    name: str
    shape: str
    microseconds: float
    bytes: float = 0.0
    flops: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What this device reaches at best: bytes a second of a copy (read + written), operations of bf16 products."""

    device: str
    copy: float
    matrix: float


def median_time(call: Callable[[], object], *, seconds: float = 0.15, graph: bool = False) -> float:
    """Seconds that ``call`` takes on the device: the median of many, between events.

    ``graph``: of a captured graph of several calls, so that launching is not what is measured.
    """
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    many = _BATCH
    if graph:
        many = 8
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            for _ in range(many):
                call()
        once: Callable[[], object] = captured.replay
    else:

        def once() -> None:
            for _ in range(many):
                call()

    first = _between(once)
    times = [_between(once) for _ in range(max(5, min(200, int(seconds / max(first, 1e-6)))))]
    return statistics.median(times) / many


def _between(call: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def measure_limits() -> Limits:
    """Of the current device: a copy of 4 GB, and a product of 8192 x 8192 matrices of random bf16 numbers."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = 2 * source.numel() / median_time(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    matrix = 2 * 8192**3 / median_time(lambda: a @ b, seconds=0.5)
    return Limits(torch.cuda.get_device_name(), copy, matrix)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """||got - wanted|| / ||wanted||; not a number where something is not finite."""
    difference = (got.double() - wanted.double()).norm()
    return float(difference / wanted.double().norm())
