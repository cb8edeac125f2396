"""Options that several commands share."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from tenfold.core.config import MAX_DRAFT_TOKENS, PROFILES, CudaConfig, EngineConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.errors import ConfigError
from tenfold.core.slo import DEFAULT_CLASS, DEFAULT_CLASSES, parse_classes, parse_slo, with_slo

ENGINE_PANEL = "Engine"
CUDA_PANEL = "CUDA backend"
SLO_PANEL = "Service objectives"
COST_PANEL = "Cost"
SPECULATION_PANEL = "Speculation"


class Backend(StrEnum):
    """Which set of ops computes."""

    cpu = "cpu"
    reference = "reference"
    cuda = "cuda"


class LoadFormat(StrEnum):
    """Where weights come from."""

    auto = "auto"
    dummy = "dummy"


class Weights(StrEnum):
    """In how many bits weights are kept in memory."""

    auto = "auto"
    int4 = "int4"
    int8 = "int8"
    bf16 = "bf16"
    fp8 = "fp8"


class KvType(StrEnum):
    """How keys and values are stored."""

    bf16 = "bf16"
    int8 = "int8"
    fp8 = "fp8"


class Speculation(StrEnum):
    """Whether what comes next is drafted."""

    auto = "auto"
    fixed = "fixed"
    off = "off"


class LogLevel(StrEnum):
    """What is written to the log."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(StrEnum):
    """How the log is written."""

    text = "text"
    json = "json"


class Profile(StrEnum):
    """Named settings of the scheduler's policy."""

    interactive = "interactive"
    balanced = "balanced"
    throughput = "throughput"
    fcfs = "fcfs"


class ToolParser(StrEnum):
    """How the model writes calls of tools."""

    auto = "auto"
    hermes = "hermes"
    llama3 = "llama3"
    mistral = "mistral"
    none = "none"


class ReasoningParser(StrEnum):
    """How the model writes what it thinks before an answer."""

    auto = "auto"
    think = "think"
    none = "none"


LIMITS = SchedulerConfig()
GPU_LIMITS = SchedulerConfig(max_step_tokens=8192, max_running=256)  # what keeps its processors busy
CUDA = CudaConfig()

ModelArgument = Annotated[
    str, typer.Argument(help="A known name (see `tenfold models`), a Hugging Face id, a GGUF file or a folder.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A known name (see `tenfold models`), a Hugging Face id, a GGUF file or a folder."
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        min=0,
        max=4096,
        help="Threads to compute with; 0: one per physical core this process may use.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
Level = Annotated[
    str | None,
    typer.Option(
        show_default="the best",
        help="A level of CPU kernels: amx, avx512bf16, avx512, avx2 or portable.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
BackendOption = Annotated[
    Backend,
    typer.Option(
        "--backend",
        help="cpu; cuda: an NVIDIA GPU (docs/cuda.md); reference: slow and obviously right.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
LoadFormatOption = Annotated[
    LoadFormat,
    typer.Option(
        "--load-format",
        help="dummy: random weights in the shape of a published model, without any file, to measure speed.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
WeightsOption = Annotated[
    Weights,
    typer.Option(
        "--weights",
        help="auto: as stored. int8 (cpu), int4, fp8 (cuda): round larger weights while loading. bf16: in 16 bits.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
MaxContext = Annotated[
    int | None,
    typer.Option(
        min=2, help="Longest prompt plus output, in tokens; default: the model's.", rich_help_panel=ENGINE_PANEL
    ),
]
KvTokens = Annotated[
    int | None,
    typer.Option(
        min=1, help="KV memory for this many tokens; default: from free memory.", rich_help_panel=ENGINE_PANEL
    ),
]
KvTypeOption = Annotated[
    KvType,
    typer.Option(
        "--kv",
        help="How keys and values are stored: bf16, or in 8 bits: int8 (cpu; a scale per token and head), fp8 (cuda).",
        rich_help_panel=ENGINE_PANEL,
    ),
]
BatchInvariant = Annotated[
    bool,
    typer.Option(
        "--batch-invariant",
        help="The same bits of an answer whatever else is computed with it: slower on cuda; cpu always does.",
        rich_help_panel=CUDA_PANEL,
    ),
]
TensorParallel = Annotated[
    int,
    typer.Option("--tensor-parallel", min=1, help="GPUs that share the model.", rich_help_panel=CUDA_PANEL),
]
CudaGraphs = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs/--no-cuda-graphs",
        help="Capture steps of up to 1,024 rows once, and replay them.",
        rich_help_panel=CUDA_PANEL,
    ),
]
MemoryReserve = Annotated[
    float,
    typer.Option(
        "--memory-reserve",
        min=0.0,
        help="What stays free of a GPU's memory: a share of it below 1, GiB from 1 up.",
        rich_help_panel=CUDA_PANEL,
    ),
]
MaxRunning = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help=f"Sequences computed at a time. Default: {LIMITS.max_running}; cuda: {GPU_LIMITS.max_running}.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
MaxStepTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help=f"Tokens of one step: decode first, then prefill. Default: {LIMITS.max_step_tokens}; cuda: "
        f"{GPU_LIMITS.max_step_tokens}.",
        rich_help_panel=ENGINE_PANEL,
    ),
]
MaxWaiting = Annotated[
    int, typer.Option(min=1, help="Queue length; requests beyond it get a 429.", rich_help_panel=ENGINE_PANEL)
]
SloOption = Annotated[
    str | None,
    typer.Option(
        "--slo",
        metavar="BOUNDS",
        show_default=False,
        help="What requests of class standard are promised, as ttft=200ms,tpot=30ms (or one of the two): TTFT decides "
        "whose prompt comes next and who is refused, TPOT how much of a step prompts get.",
        rich_help_panel=SLO_PANEL,
    ),
]
SloClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slo-class",
        metavar="NAME:SETTINGS",
        show_default=False,
        help="A class that requests may name, as bulk:ttft=5s,tpot=200ms,weight=1,shed=yes,preempt=yes; may be "
        "repeated. There are interactive, standard (for those that name none) and batch.",
        rich_help_panel=SLO_PANEL,
    ),
]
ProfileOption = Annotated[
    Profile,
    typer.Option(
        "--profile",
        help="Settings of the one policy: smaller steps, or more prefill in each. fcfs: by arrival alone, no bounds.",
        rich_help_panel=SLO_PANEL,
    ),
]
MaxWaitingPerTenant = Annotated[
    int | None,
    typer.Option(
        min=1, show_default=False, help="Of the queue, at most so many of one tenant.", rich_help_panel=SLO_PANEL
    ),
]
TenantOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        metavar="NAME=WEIGHT",
        show_default=False,
        help="A tenant's part of the service beside others', 1 unless told; may be repeated.",
        rich_help_panel=SLO_PANEL,
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price",
        show_default=False,
        help="What an hour of this machine costs, in any currency, as 0.40: answers, timelines and metrics then tell "
        "each request's part of it.",
        rich_help_panel=COST_PANEL,
    ),
]
SpeculationOption = Annotated[
    Speculation,
    typer.Option(
        "--speculation",
        help="auto: draft tokens where that is expected to pay, and check them in the same step. fixed: always, for "
        "comparison. What comes out is the same.",
        rich_help_panel=SPECULATION_PANEL,
    ),
]
DraftTokens = Annotated[
    int,
    typer.Option(
        "--draft-tokens",
        min=1,
        max=MAX_DRAFT_TOKENS,
        help="Tokens drafted for a sequence in one step, at most.",
        rich_help_panel=SPECULATION_PANEL,
    ),
]
DraftModelOption = Annotated[
    str,
    typer.Option(
        "--draft-model",
        metavar="MODEL",
        help="A draft model's file, or a model of the same vocabulary. auto: the one made for the model, if it is in "
        "the cache. off: none.",
        rich_help_panel=SPECULATION_PANEL,
    ),
]
NoPrefixSharing = Annotated[
    bool,
    typer.Option(
        "--no-prefix-sharing", help="Compute equal prompt beginnings each time.", rich_help_panel=ENGINE_PANEL
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def engine_config(
    model: str,
    *,
    backend: Backend,
    threads: int,
    level: str | None = None,
    weights: Weights,
    max_context: int | None,
    kv_tokens: int | None,
    kv_type: KvType,
    prefix_sharing: bool = True,
    draft_model: str = "auto",
    scheduler: SchedulerConfig | None = None,
    log_level: LogLevel = LogLevel.warning,
    log_format: LogFormat = LogFormat.text,
    load_format: LoadFormat = LoadFormat.auto,
    cuda: CudaConfig = CUDA,
) -> EngineConfig:
    """The engine's settings from the options' values. Raises ConfigError."""
    return EngineConfig(
        model=model,
        load_format=load_format.value,
        backend=backend.value,
        threads=threads,
        level=level,
        weights=weights.value,
        max_context=max_context,
        kv_tokens=kv_tokens,
        kv_type=kv_type.value,
        prefix_sharing=prefix_sharing,
        draft_model=draft_model,
        scheduler=scheduler or SchedulerConfig(),
        log_level=log_level.value,
        log_format=log_format.value,
        cuda=cuda,
    )


def default_engine(model: str, scheduler: SchedulerConfig) -> EngineConfig:
    """An engine as `tenfold serve` makes it where nothing is said."""
    return EngineConfig(model=model, scheduler=scheduler)


def scheduler_config(
    max_step_tokens: int | None,
    max_running: int | None,
    max_waiting: int,
    *,
    backend: Backend = Backend.cpu,
    slo: str | None = None,
    slo_classes: Sequence[str] = (),
    profile: Profile = Profile.balanced,
    max_waiting_per_tenant: int | None = None,
    tenants: Sequence[str] = (),
    speculation: SpeculationConfig | None = None,
) -> SchedulerConfig:
    """The scheduler's limits; unless told otherwise those that suit ``backend``, and a step has room for every running
    sequence's next token.

    Raises ConfigError.
    """
    classes = DEFAULT_CLASSES if slo is None else with_slo(DEFAULT_CLASSES, DEFAULT_CLASS, parse_slo(slo))
    classes = parse_classes(slo_classes, classes)
    usual = GPU_LIMITS if backend == Backend.cuda else LIMITS
    max_running = max_running or usual.max_running
    return SchedulerConfig(
        max_step_tokens=max_step_tokens or max(usual.max_step_tokens, max_running),
        max_running=max_running,
        max_waiting=max_waiting,
        max_waiting_per_tenant=max_waiting_per_tenant,
        classes=classes,
        policy=PROFILES[profile.value],
        tenants=dict(map(_tenant, tenants)),
        speculation=speculation or SpeculationConfig(),
    )


def _tenant(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        return name or _bad_tenant(text), float(weight)
    except ValueError:
        return _bad_tenant(text), 0.0


def _bad_tenant(text: str) -> str:
    raise ConfigError(f"--tenant: {text!r} is not understood; write it as NAME=WEIGHT, as in acme=2")
