"""Settings: small frozen records; a part receives its own, never the whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tenfold.core.errors import ConfigError
from tenfold.core.slo import DEFAULT_CLASS, DEFAULT_CLASSES, SloClass

DEFAULT_MODEL = "smollm2-135m"
KV_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(  # by backend
    {"cpu": ("bf16", "int8"), "reference": ("bf16",), "cuda": ("bf16", "fp8")}
)
DUMMY = "dummy"
LOAD_FORMATS = ("auto", DUMMY)
LOG_LEVELS = ("debug", "info", "warning", "error")
WEIGHTS: Mapping[str, tuple[str, ...]] = MappingProxyType(  # by backend
    {
        "cpu": ("auto", "int4", "int8", "bf16"),
        "reference": ("auto",),
        "cuda": ("auto", "int4", "bf16", "fp8"),
    }
)
BACKENDS = tuple(WEIGHTS)


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
class Policy:
    """How the scheduler weighs one thing against another; the profiles are named settings of it.

    ``order``: ``slack`` (bounds, classes and tenants decide what is next) or ``arrival`` (first come, first served, as
    a baseline). ``least_share``: of the TPOT bound, what prefill gets of a step even where that breaks it.
    ``late_share``: of prefill's time, what prompts that missed their TTFT bound get beside those that can keep it;
    ``background_share``: what prompts without a bound get beside those, once they have waited for ``background_wait``
    seconds.
    ``stretch``: where no TPOT bound applies, a step with prefill may take so many times one without; None: no limit.
    ``admit``: a request is refused where its predicted TTFT is more than so many times its bound.
    ``fairness``: tokens by which tenants' service may differ before the one behind goes first.
    ``reserve``: of places, decode's time and KV blocks, what a tenant that holds much more than its share, and wants
    more, leaves to others that were here of late; its prompts then get a quarter of a step's room. 0: nothing of that.
    """

    order: str = "slack"
    least_share: float = 0.2
    late_share: float = 0.25
    background_share: float = 0.05
    background_wait: float = 0.25
    stretch: float | None = None
    admit: float = 0.85
    fairness: float = 4096.0
    reserve: float = 0.3


FIRST_COME = Policy(order="arrival")
PROFILES = {
    "interactive": Policy(least_share=0.1, stretch=3.0, fairness=2048.0),
    "balanced": Policy(),
    "throughput": Policy(
        least_share=0.5,
        background_share=0.5,
        background_wait=0.0,
        late_share=0.5,
        fairness=16384.0,
        reserve=0.0,
    ),
    "fcfs": FIRST_COME,
}


SPECULATION_MODES = ("auto", "fixed", "off")
MAX_DRAFT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """Whether and how far what comes next is drafted, to be checked in the same step.

    ``mode``: ``auto`` drafts where the cost model expects that to pay, ``fixed`` always, as a baseline, ``off`` never.
    ``draft_tokens`` bounds what is drafted for one sequence in one step. Drafts also come from texts that are finished:
    of those so many tokens are ``kept``.
    """

    mode: str = "auto"
    draft_tokens: int = 16
    kept: int = 65_536

    def __post_init__(self) -> None:
        if self.mode not in SPECULATION_MODES:
            raise ConfigError(f"speculation must be one of {', '.join(SPECULATION_MODES)}, got {self.mode!r}")
        if not 1 <= self.draft_tokens <= MAX_DRAFT_TOKENS:
            raise ConfigError(f"draft tokens must be from 1 to {MAX_DRAFT_TOKENS}, got {self.draft_tokens}")


NO_SPECULATION = SpeculationConfig(mode="off")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of a step and of the queue, and what is promised to whom.

    ``max_step_tokens`` bounds the tokens of one step (decode first, prefill chunks fill the rest),
    ``max_running`` the sequences in flight, ``max_waiting`` the queue behind them, ``max_waiting_per_tenant`` each
    tenant's part of it. Requests that name no class are of ``default_class``. ``tenants`` gives weights: a tenant with
    twice another's gets twice its service where both wait; others have 1.
    """

    max_step_tokens: int = 512
    max_running: int = 64
    max_waiting: int = 4096
    max_waiting_per_tenant: int | None = None
    classes: tuple[SloClass, ...] = DEFAULT_CLASSES
    default_class: str = DEFAULT_CLASS
    policy: Policy = PROFILES["balanced"]
    tenants: dict[str, float] = field(default_factory=dict)
    speculation: SpeculationConfig = SpeculationConfig()

    @property
    def most_together(self) -> int:
        """Sequences that one request may have: as many as may wait."""
        return min(self.max_waiting, self.max_waiting_per_tenant or self.max_waiting)

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_waiting < 1:
            raise ConfigError("max_running and max_waiting must be at least 1")
        if self.max_step_tokens < self.max_running:
            raise ConfigError(
                f"max_step_tokens ({self.max_step_tokens}) must be at least max_running ({self.max_running}): "
                "every running sequence decodes one token per step"
            )
        if self.max_waiting_per_tenant is not None and self.max_waiting_per_tenant < 1:
            raise ConfigError("max_waiting_per_tenant must be at least 1")
        if self.default_class not in {one.name for one in self.classes}:
            raise ConfigError(f"the default class {self.default_class!r} is none of the SLO classes")
        for name, weight in self.tenants.items():
            if not 0 < weight < float("inf"):
                raise ConfigError(f"the weight of tenant {name} must be above 0, got {weight:g}")


@dataclass(frozen=True, slots=True)
class CudaConfig:
    """Settings of the CUDA backend alone (docs/cuda.md).

    ``batch_invariant``: an output's bits depend on nothing but its request, as they always do on the CPU; slower.
    ``graphs``: steps of up to 1,024 rows are captured once and replayed. A model is divided among
    ``tensor_parallel`` GPUs. ``memory_reserve`` is what stays free of each GPU's memory: below 1 a share of it, from 1
    up GiB.
    """

    batch_invariant: bool = False
    graphs: bool = True
    tensor_parallel: int = 1
    memory_reserve: float = 0.05

    def __post_init__(self) -> None:
        if self.tensor_parallel < 1:
            raise ConfigError(f"--tensor-parallel must be at least 1, got {self.tensor_parallel}")
        if self.batch_invariant and self.tensor_parallel > 2:
            raise ConfigError(
                "--batch-invariant needs --tensor-parallel 1 or 2: more GPUs add in an order that depends on the batch"
            )
        if not 0 <= self.memory_reserve < float("inf"):
            raise ConfigError(
                f"--memory-reserve must be a share of the GPU's memory, as 0.05, or GiB from 1 up, as 4; "
                f"got {self.memory_reserve:g}"
            )

    def reserved(self, total: int) -> int:
        """Bytes that stay free of a GPU's ``total``."""
        reserve = self.memory_reserve
        return int(reserve * total if reserve < 1 else reserve * 2**30)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to run a model: what the command line's engine options set.

    ``model`` is a name, a Hugging Face id or a path; under ``load_format`` ``dummy``, the name of a model whose shape
    is taken, with random weights. ``backend`` is one of ``BACKENDS``, and ``weights`` (docs/quantization.md) and
    ``kv_type`` are of those it takes. ``threads`` 0 means one per physical core this process may use. ``level`` forces
    one of the CPU's levels of kernels (docs/quantization.md); None: the best one.
    ``max_context`` None takes the model's own. The KV pool has ``kv_tokens`` slots; None sizes it from free memory
    and ``max_context``. ``draft_model`` is a file or a model of the same vocabulary that drafts for it; ``auto`` takes
    the one made for the model, if it is in the cache, and ``off`` none. ``profile`` records where the loop's time goes.
    """

    model: str = DEFAULT_MODEL
    load_format: str = "auto"  # of LOAD_FORMATS
    backend: str = "cpu"
    threads: int = 0
    level: str | None = None
    weights: str = "auto"
    max_context: int | None = None
    kv_tokens: int | None = None
    kv_type: str = "bf16"
    block_size: int = 16
    prefix_sharing: bool = True
    draft_model: str = "auto"
    scheduler: SchedulerConfig = SchedulerConfig()
    profile: bool = False
    log_level: str = "warning"  # of LOG_LEVELS, for its own process
    log_format: str = "text"  # of logs.LOG_FORMATS, likewise
    cuda: CudaConfig = CudaConfig()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(f"unknown backend {self.backend!r}: choose one of {', '.join(BACKENDS)}")
        if self.load_format not in LOAD_FORMATS:
            raise ConfigError(f"unknown load format {self.load_format!r}: choose one of {', '.join(LOAD_FORMATS)}")
        _check_goes("--weights", self.weights, self.backend, WEIGHTS)
        _check_goes("--kv", self.kv_type, self.backend, KV_TYPES)
        if self.level is not None and self.backend != "cpu":
            raise ConfigError(f"--level {self.level} needs --backend cpu")
        if self.cuda.tensor_parallel > 1 and self.backend != "cuda":
            raise ConfigError(f"--tensor-parallel {self.cuda.tensor_parallel} needs --backend cuda")


def _check_goes(option: str, value: str, backend: str, taken: Mapping[str, tuple[str, ...]]) -> None:
    """Raise ConfigError, saying what goes with what."""
    if value in taken[backend]:
        return
    others = [name for name in taken if value in taken[name]]
    fits = f"{option} {value} needs --backend {' or '.join(others)}" if others else f"there is no {option} {value}"
    raise ConfigError(f"{fits}; --backend {backend} takes {', '.join(taken[backend])}")
