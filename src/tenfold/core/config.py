"""Settings: small frozen records; a part receives its own, never the whole."""

from dataclasses import dataclass

from tenfold.core.errors import ConfigError
from tenfold.core.slo import NO_SLO, Slo

DEFAULT_MODEL = "smollm2-135m"
KV_TYPES = ("bf16", "int8")
WEIGHTS = ("auto", "int4", "int8", "bf16")


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The KV pool. ``blocks`` x ``block_size`` tokens fit; ``prefix_sharing`` reuses equal prefixes."""

    blocks: int
    block_size: int = 16
    prefix_sharing: bool = True

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.block_size < 1:
            raise ConfigError("the KV pool needs at least one block of at least one token")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of a step and of the queue.

    ``max_step_tokens`` bounds the tokens of one step (decode first, prefill chunks fill the rest),
    ``max_running`` the sequences in flight, ``max_waiting`` the queue behind them. ``slo`` bounds a step's prefill
    further: to what leaves every running sequence its TPOT.
    """

    max_step_tokens: int = 512
    max_running: int = 64
    max_waiting: int = 4096
    slo: Slo = NO_SLO

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_waiting < 1:
            raise ConfigError("max_running and max_waiting must be at least 1")
        if self.max_step_tokens < self.max_running:
            raise ConfigError(
                f"max_step_tokens ({self.max_step_tokens}) must be at least max_running ({self.max_running}): "
                "every running sequence decodes one token per step"
            )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to run a model: what the command line's engine options set.

    ``model`` is a name, a Hugging Face id or a path. ``backend`` is ``cpu`` or ``reference``. ``threads`` 0
    means one per physical core this process may use. ``weights`` is one of ``WEIGHTS`` (docs/quantization.md).
    ``max_context`` None takes the model's own. The KV pool has ``kv_tokens`` slots; None sizes it from free memory
    and ``max_context``. ``profile`` records where the loop's time goes.
    """

    model: str = DEFAULT_MODEL
    backend: str = "cpu"
    threads: int = 0
    weights: str = "auto"
    max_context: int | None = None
    kv_tokens: int | None = None
    kv_type: str = "bf16"  # of KV_TYPES
    block_size: int = 16
    prefix_sharing: bool = True
    scheduler: SchedulerConfig = SchedulerConfig()
    profile: bool = False
