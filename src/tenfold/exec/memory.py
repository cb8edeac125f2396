"""How many KV blocks to have."""

from collections.abc import Sequence
from pathlib import Path

from tenfold.core.errors import ConfigError
from tenfold.ops.spec import ModelSpec
from tenfold.ops.work import slot_bytes

_DEFAULT_TOKENS = 65_536
_SHARE = 0.5  # of free memory, at most, unless told a size


def token_bytes(spec: ModelSpec, kv_type: str) -> int:
    """Bytes of KV one token takes in all layers. Raises ConfigError for a type that there is not."""
    return spec.layers * spec.kv_heads * slot_bytes(spec.head_dim, spec.head_dim, kv_type)


def free_memory() -> int:
    """Bytes this process may still use: the machine's available memory, or less where a cgroup limits it."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists():
        text = limit.read_text().strip()
        if text.isdigit():
            available = min(available, max(0, int(text) - int(used.read_text())))
    return available


def pool_blocks(
    specs: Sequence[ModelSpec], kv_type: str, block_size: int, max_context: int, kv_tokens: int | None, free: int
) -> int:
    """Blocks of the KV pool: ``kv_tokens`` if given, else 65,536 tokens or two full contexts, within half of ``free``.

    Each block holds keys and values of all ``specs``: a model's, and its draft model's. Raises ConfigError where memory
    does not suffice.
    """
    per_token = sum(token_bytes(spec, kv_type) for spec in specs)
    fits = int(free * _SHARE) // per_token
    return _blocks(per_token, block_size, max(_DEFAULT_TOKENS, 2 * max_context), kv_tokens, fits, free)


def own_blocks(
    spec: ModelSpec,
    kv_type: str,
    block_size: int,
    max_context: int,
    max_running: int,
    kv_tokens: int | None,
    room: int,
) -> int:
    """The same where ``room`` bytes are for nothing else: all that fit, but no more than ``max_running`` contexts."""
    per_token = token_bytes(spec, kv_type)
    most = max_running * -(-max_context // block_size) * block_size
    return _blocks(per_token, block_size, most, kv_tokens, room // per_token, room)


def _blocks(per_token: int, block_size: int, usual: int, kv_tokens: int | None, fits: int, free: int) -> int:
    if kv_tokens is None:
        kv_tokens = min(usual, fits)
    elif kv_tokens * per_token > free:
        raise ConfigError(
            f"{kv_tokens} tokens of KV take {kv_tokens * per_token / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are "
            f"free: lower --kv-tokens (at most about {fits})"
        )
    blocks = kv_tokens // block_size
    if blocks < 1:
        raise ConfigError(
            f"no room for KV: a block of {block_size} tokens takes {block_size * per_token} bytes and "
            f"{free} bytes are free; --kv-tokens must be at least {block_size}"
        )
    return blocks
