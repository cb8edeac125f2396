"""A model on a machine, as far as a simulation must know it: what steps cost there, and the memory for KV."""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import msgspec

from tenfold.core.errors import ConfigError
from tenfold.core.files import write_whole
from tenfold.cost.estimate import StepCost, StepFit
from tenfold.cost.shape import Attention, StepShape
from tenfold.spec.profile import DraftProfile

_FORMAT = 3
_FEW = (1, 2, 4, 8, 16, 32)  # sequences: kinds of steps end there, and one has all that are larger
KINDS = 2 * (len(_FEW) + 1)  # of each size, without prompts and with them
_QUANTILES = 31
_MOST = 1 << 26  # blocks, or tokens: beyond that a file is wrong,
_SANE = 1e4  # as it is where steps take so many times as long as they should, or as short
SPELLS = 900  # last seconds of which it is told how slow the machine was, at most
_TELLS = 0.1  # seconds of steps that tell how slow it was in one
_FADES = 0.7  # the power of a spell that is left for the next second where that has no such steps
_FAR = 100.0  # times as slow or fast as usual is the most that is believed
_ENOUGH = 12  # steps of a kind: of fewer, those of the nearest kind tell more


def kind_of(shape: StepShape) -> int:
    """Which kind of step this is: real times differ from predicted ones in a way of their own for each."""
    size = sum(shape.sequences > few for few in _FEW)
    return size + len(_FEW) + 1 if shape.prefill_keys else size


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """``blocks`` of ``block_size`` tokens hold KV; ``windows`` has an entry per layer, 0 for all keys.

    Steps take what ``fit`` says, ``drift`` times as long; ``spells`` has by how much more or less than that, second by
    second while it was looked at, for slow steps come together; and on top of it comes a ratio of those that were seen:
    ``ratios`` has quantiles of them for each kind of step. Both may be empty. ``drafts`` tells how drafts fare under
    the load that it had, where it had one that made some.
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
    spells: tuple[float, ...] = ()
    ratios: tuple[tuple[float, ...], ...] = ()
    drafts: DraftProfile | None = None
    format: int = _FORMAT

    @property
    def attention(self) -> Attention:
        """Counts keys as its model sees them."""
        return Attention(self.windows)

    def cost(self) -> StepCost:
        """What is known of its steps, at the speed it had when it was looked at."""
        return StepCost(self.fit, self.drift)

    def learned(self, steps: Iterable[tuple[StepShape, float, float]]) -> "Machine":
        """The same with how fast it was, second by second, and how real times scatter, taken from these steps: their
        shape, when they began, and how long they took, in seconds. The first spell is of the second in which the first
        step began, or ``SPELLS`` before the last one's."""
        cost = StepCost(self.fit)
        known = [(kind_of(shape), int(began), cost.fitted(shape), took) for shape, began, took in steps if took > 0]
        known = [one for one in known if one[2] > 0]
        if not known:
            return self
        drift = sum(took for *_, took in known) / sum(fitted for _, _, fitted, _ in known)
        spells = _spells((second, drift * fitted, took) for _, second, fitted, took in known)
        found: list[list[float]] = [[] for _ in range(KINDS)]
        for kind, second, fitted, took in known:
            found[kind].append(took / (fitted * drift * spells[second]))
        level, told = 1.0, []
        for second in range(max(min(spells), max(spells) - SPELLS + 1), max(spells) + 1):
            level = spells.get(second, level**_FADES)
            told.append(float(f"{level:.4g}"))
        return msgspec.structs.replace(self, drift=drift, spells=tuple(told), ratios=tuple(map(_quantiles, found)))

    def ratios_of(self, kind: int) -> tuple[float, ...]:
        """Real / predicted seconds of a kind of step, each as likely; of the nearest kind that was seen."""
        half = KINDS // 2
        first = kind // half * half
        near = sorted(range(first, first + half), key=lambda other: (abs(other - kind), other))
        far = sorted(set(range(KINDS)) - set(near))
        return next((self.ratios[one] for one in (*near, *far) if one < len(self.ratios) and self.ratios[one]), (1.0,))

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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} does not describe a machine: {error}; `tenfold profile --machine` does") from None
    if machine.format != _FORMAT:
        raise ConfigError(f"{where} is of format {machine.format}, but this Tenfold reads {_FORMAT}: measure it again")
    sizes = min(machine.blocks, machine.block_size, machine.max_context)
    ratios = [machine.drift, *machine.spells, *(ratio for some in machine.ratios for ratio in some)]
    most = max(machine.blocks, machine.block_size, machine.max_context)
    sane = all(1 / _SANE < ratio < _SANE for ratio in ratios) and machine.windows and min(machine.windows) >= 0
    sane = sane and (machine.drafts is None or machine.drafts.usable)
    sane = sane and len(machine.spells) <= SPELLS
    if sizes < 1 or most > _MOST or not machine.fit.usable or not sane:
        raise ConfigError(f"{where} describes no machine that could run: a size or a time is out of range")
    return machine


def _spells(steps: Iterable[tuple[int, float, float]]) -> dict[int, float]:
    """How many times as long as expected steps took, by the second that they began in. Where that had hardly any, it is
    as the one before, and the less so the longer ago that was: of an idle machine nothing is known."""
    sums: dict[int, tuple[float, float]] = {}
    for second, expected, took in steps:
        before = sums.get(second, (0.0, 0.0))
        sums[second] = before[0] + expected, before[1] + took
    level, last, found = 1.0, 0, {}
    for second in sorted(sums):
        expected, took = sums[second]
        if expected >= _TELLS:
            level = min(max(took / expected, 1 / _FAR), _FAR)
        else:
            level **= _FADES ** (second - last)
        found[second] = level
        last = second
    return found


def _quantiles(values: list[float]) -> tuple[float, ...]:
    """Evenly spaced ones, each in the middle of what it stands for; nothing of too few values."""
    if len(values) < _ENOUGH:
        return ()
    ordered, count = sorted(values), min(_QUANTILES, len(values))
    cuts = [at * len(values) // count for at in range(count + 1)]
    return tuple(round(mean(ordered[cuts[at] : cuts[at + 1]]), 4) for at in range(count))
