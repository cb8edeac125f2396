"""The systems, Tenfold first. A new one is a module with a class like theirs, named here."""

from benchmarks.shootout.peers.base import Peer
from benchmarks.shootout.peers.llamacpp import LlamaCpp
from benchmarks.shootout.peers.openvino import OpenVino
from benchmarks.shootout.peers.tenfold import Tenfold
from benchmarks.shootout.peers.vllm import Vllm


def all_peers(kv: str = "bf16") -> dict[str, Peer]:
    """By name, in the order of the table; ``kv`` is how Tenfold stores keys and values."""
    peers: list[Peer] = [Tenfold(kv), LlamaCpp(), OpenVino("bf16"), OpenVino("f32"), Vllm()]
    return {peer.name: peer for peer in peers}
