"""A model on a machine, as far as a simulation must know it: what steps cost there, and the memory for KV."""

from pathlib import Path

import msgspec

from tenfold.core.errors import ConfigError
from tenfold.core.files import write_whole
from tenfold.cost.estimate import StepCost, StepFit
from tenfold.cost.shape import Attention

_FORMAT = 1


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """``blocks`` of ``block_size`` tokens hold KV; ``windows`` has an entry per layer, 0 for all keys. Steps take what
    ``fit`` says, ``drift`` times as long, times a ratio that is distributed as the quantiles ``spread`` tell.
    """

    model: str
    backend: str
    cpu: str
    max_context: int  # tokens, prompt plus output
    blocks: int
    block_size: int
    windows: tuple[int, ...]
    fit: StepFit
    drift: float = 1.0
    spread: tuple[float, ...] = ()
    format: int = _FORMAT

    @property
    def attention(self) -> Attention:
        """Counts keys as its model sees them."""
        return Attention(self.windows)

    def cost(self) -> StepCost:
        """What is known of its steps, at the speed it had when it was looked at."""
        return StepCost(StepFit(tuple(part * self.drift for part in self.fit.parts)))

    def with_blocks(self, tokens: int) -> "Machine":
        """The same with KV memory for this many tokens."""
        return msgspec.structs.replace(self, blocks=max(1, tokens // self.block_size))

    def to_json(self) -> bytes:
        """As :func:`read_machine` takes it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    def save(self, path: Path) -> None:
        """Raises ConfigError where that is not possible."""
        if not write_whole(path, self.to_json()):
            raise ConfigError(f"cannot write {path}: is its folder there, and may you write to it?")


def read_machine(data: bytes, where: str) -> Machine:
    """A machine as :meth:`Machine.save` or a server's ``/debug/machine`` wrote it. Raises ConfigError."""
    try:
        machine = msgspec.json.decode(data, type=Machine)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where} does not describe a machine: {error}; `tenfold profile --machine` does") from None
    if machine.format != _FORMAT:
        raise ConfigError(f"{where} is of format {machine.format}, but this Tenfold reads {_FORMAT}: measure it again")
    sizes = min(machine.blocks, machine.block_size, machine.max_context)
    if sizes < 1 or not machine.fit.usable or not machine.drift > 0 or any(not ratio > 0 for ratio in machine.spread):
        raise ConfigError(f"{where} describes no machine that could run: a size or a time is not above 0")
    return machine
