"""Two ranks on CPU processes, over gloo: together they give what one gives."""

import multiprocessing
import socket
from multiprocessing.connection import Connection

import numpy as np
import torch

from tenfold.ops.choosing import Wanted
from tenfold.ops.cuda.ops import CudaOps
from tenfold.ops.cuda.parallel import ALONE, follow, join_group
from tests.helpers.models import Slice, make_batch, random_weights, tiny_spec

SPEC = {"qkv_bias": True, "qk_norm": True, "tied_head": False, "kv_heads": 2, "post_norms": True}
CPU = torch.device("cpu")


def ops_of(ranks: object) -> CudaOps:
    weights = random_weights(tiny_spec(**SPEC), seed=4)
    return CudaOps(weights, ranks=ranks, device=CPU, dtype=torch.float32, max_rows=64, max_sequences=4)  # type: ignore[arg-type]


def passes(ops: CudaOps) -> list[np.ndarray]:
    """The logits of a prompt, and of the token that follows from them."""
    kv = ops.new_kv(5, 16)
    found = []
    for batch in (
        make_batch([Slice([3, 1, 4, 1, 5], 0, [2]), Slice([9, 2, 6], 0, [1])]),
        make_batch([Slice([-1], 5, [2]), Slice([-2], 3, [1])]),
    ):
        logits = ops.forward(batch, kv)
        found.append(logits.numpy().copy())
        ops.choose(logits, Wanted()).result()
    return found


def rank(number: int, address: str, told: Connection) -> None:
    torch.set_num_threads(1)
    group = join_group(number, 2, address, CPU, seconds=60)
    ops = ops_of(group)
    if number == 0:
        told.send((ops.kv_room(), passes(ops)))
        group.dismiss()
    else:
        follow(ops, group, 16)
        told.send(ops.kv_room())
    group.leave()


def test_two_ranks_give_what_one_gives() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe(duplex=False) for _ in range(2)]
    ranks = [context.Process(target=rank, args=(number, address, end[1])) for number, end in enumerate(ends)]
    for process in ranks:
        process.start()
    for _, sender in ends:
        sender.close()
    (room, found), other = (receiver.recv() for receiver, _ in ends)
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    alone = ops_of(ALONE)
    for got, wanted in zip(found, passes(alone), strict=True):
        assert np.abs(got - wanted).max() <= 2e-5 * np.abs(wanted).max()
    assert room == other == 2 * alone.kv_room()
