"""Triton's kernels compiled ahead of their first launch, many at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import triton
from triton.runtime.jit import JITFunction


@contextmanager
def compiling(threads: int = 16) -> Iterator[None]:
    """Within it kernels are not launched but compiled, by ``threads`` threads; at its end all are.

    What a kernel should have written is then not there. Those that do not compile are left to their first launch.
    """
    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        return launch(self, *args, grid=grid, warmup=True, **named)

    JITFunction.run = compile_only
    try:
        with ThreadPoolExecutor(threads) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
            yield
    finally:
        JITFunction.run = launch
