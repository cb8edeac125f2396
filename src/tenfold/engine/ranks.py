"""The other ranks of a model that is divided among several GPUs: processes that compute what the first one tells them.

Each is ``python -m tenfold.engine.ranks RANK ADDRESS`` with the engine's settings on its standard input. It ends when
the first one does, and the first one when any of them dies: half a model computes nothing.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

from tenfold.core.config import EngineConfig
from tenfold.model.load import load_model
from tenfold.ops.tensors import Weights

if TYPE_CHECKING:
    from tenfold.ops.cuda.ops import CudaOps
    from tenfold.ops.cuda.parallel import Ranks

_log = logging.getLogger("tenfold.engine")
_DIED = 70  # exit code


def start_ranks(config: EngineConfig) -> "Ranks":
    """Start the other ranks, and become the first of the group. Raises ConfigError where they do not come."""
    from tenfold.ops.cuda.parallel import ALONE, join_group

    world = config.cuda.tensor_parallel
    if world == 1:
        return ALONE
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    settings = msgspec.msgpack.encode(config)
    for rank in range(1, world):
        command = [sys.executable, "-m", "tenfold.engine.ranks", str(rank), address]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert process.stdin is not None
        process.stdin.write(len(settings).to_bytes(8, "little") + settings)
        process.stdin.flush()  # and stays open: when this process ends, that one sees it
        threading.Thread(target=_watch, args=(process, rank), daemon=True).start()
    return join_group(0, world, address)


def _watch(process: subprocess.Popen[bytes], rank: int) -> None:
    """End this process when that one does: a sum that waits for it would wait for ever."""
    code = process.wait()
    _log.error("rank %d of the model ended with code %d; the engine cannot go on", rank, code)
    os._exit(_DIED)


def _end_with_the_first() -> None:
    """Also in the middle of a sum that waits for it."""
    sys.stdin.buffer.read()
    os._exit(0)


def cuda_ops(config: EngineConfig, max_context: int, weights: Weights, ranks: "Ranks") -> "CudaOps":
    """One rank's ops."""
    from tenfold.ops.cuda.ops import CudaOps

    return CudaOps(
        weights,
        form=config.weights,
        kv_type=config.kv_type,
        block_size=config.block_size,
        max_rows=config.scheduler.max_step_tokens,
        max_sequences=config.scheduler.max_running,
        max_context=max_context,
        settings=config.cuda,
        ranks=ranks,
    )


def main(rank: int, address: str) -> None:
    """Be rank ``rank`` until the first one ends."""
    from tenfold.ops.cuda.parallel import follow, join_group

    size = int.from_bytes(sys.stdin.buffer.read(8), "little")
    config = msgspec.msgpack.decode(sys.stdin.buffer.read(size), type=EngineConfig)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    checkpoint = load_model(config.model, config.load_format)
    group = join_group(rank, config.cuda.tensor_parallel, address)
    ops = cuda_ops(config, config.max_context or checkpoint.spec.max_context, checkpoint.weights, group)
    follow(ops, group, config.block_size)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
