"""From settings to a running core: the one place where the parts are put together."""

from dataclasses import dataclass
from functools import partial

from tenfold.cache.manager import CacheManager
from tenfold.cache.worth import LeastWorth
from tenfold.core.clock import WallClock
from tenfold.core.config import CacheConfig, EngineConfig, SpeculationConfig
from tenfold.core.errors import ConfigError
from tenfold.core.laps import NO_LAPS, ClockedLaps
from tenfold.core.memory import drop_pages
from tenfold.core.request import EngineInfo
from tenfold.cost.estimate import FIRST_GUESS, StepCost
from tenfold.cost.machine import Machine
from tenfold.cost.record import CostRecord
from tenfold.cost.shape import Attention
from tenfold.engine.calibration import Calibration
from tenfold.engine.core import EngineCore
from tenfold.exec.memory import free_memory, pool_blocks
from tenfold.exec.runner import ModelRunner
from tenfold.model.checkpoint import Checkpoint, load_checkpoint
from tenfold.model.store import cache_folder, resolve
from tenfold.ops.base import Ops
from tenfold.ops.cores import cpu_name
from tenfold.sched.forecast import Forecast
from tenfold.sched.scheduler import Scheduler
from tenfold.spec.finished import FinishedTexts
from tenfold.spec.lookup import PromptLookup
from tenfold.spec.proposer import Proposer


@dataclass(frozen=True, slots=True)
class Engine:
    """A core, what it runs on, and the model's tokenizer and chat template."""

    core: EngineCore
    info: EngineInfo
    checkpoint: Checkpoint


def build_engine(config: EngineConfig) -> Engine:
    """Load the model and make its core. Raises ModelError or ConfigError, saying what to do."""
    checkpoint = load_checkpoint(resolve(config.model))
    spec = checkpoint.spec
    ops = make_ops(config, checkpoint)
    drop_pages(tensor.data for tensor in checkpoint.weights.tensors.values())  # the ops have a form of their own
    wanted = config.max_context if config.max_context is not None else spec.max_context
    if not 1 < wanted <= spec.max_context:
        raise ConfigError(
            f"--max-context must be from 2 to {spec.max_context} for {spec.name}, got {config.max_context}"
        )
    blocks = pool_blocks(spec, config.kv_type, config.block_size, wanted, config.kv_tokens, free_memory())
    max_context = min(wanted, blocks * config.block_size)
    clock = WallClock()
    laps = ClockedLaps(clock) if config.profile else NO_LAPS
    attention = Attention(spec.windows)
    record = CostRecord(cache_folder() / "cost", (checkpoint.name, ops.describe(), cpu_name()))
    known = record.load()
    cost = StepCost(known or FIRST_GUESS)
    cache = CacheManager(
        CacheConfig(blocks, config.block_size, config.prefix_sharing),
        partial(LeastWorth, cost=Forecast(cost, attention, config.scheduler.max_step_tokens).again),
    )
    executor = ModelRunner(ops, blocks, config.block_size, laps)
    calibration = Calibration(
        cache, executor, cost, attention, clock, config.scheduler, max_context, brief=known is not None
    )
    core = EngineCore(
        scheduler=Scheduler(config.scheduler, cache, cost, attention, proposers_of(config.scheduler.speculation)),
        cache=cache,
        executor=executor,
        vocabulary=checkpoint.vocabulary(),
        clock=clock,
        max_context=max_context,
        vocab_size=spec.vocab,
        laps=laps,
        calibration=calibration,
        record=record,
        limits=config.scheduler,
        machine=Machine(
            model=checkpoint.name,
            backend=ops.describe(),
            cpu=cpu_name(),
            max_context=max_context,
            blocks=blocks,
            block_size=config.block_size,
            windows=spec.windows,
            fit=cost.fit,
        ),
    )
    info = EngineInfo(
        model=checkpoint.name,
        architecture=spec.architecture,
        backend=ops.describe(),
        max_context=max_context,
        vocab_size=spec.vocab,
        blocks=blocks,
        block_size=config.block_size,
        max_waiting=config.scheduler.most_together,
    )
    return Engine(core, info, checkpoint)


def proposers_of(config: SpeculationConfig) -> tuple[Proposer, ...]:
    """Those that draft under ``config``."""
    if config.mode == "off":
        return ()
    return (PromptLookup(), FinishedTexts(config.kept)) if config.kept else (PromptLookup(),)


def make_ops(config: EngineConfig, checkpoint: Checkpoint) -> Ops:
    """The op set ``config.backend`` names, over the checkpoint's weights."""
    if config.backend == "cpu":
        from tenfold.ops.cpu import CpuOps

        ops: Ops = CpuOps(checkpoint.weights, threads=config.threads, form=config.weights, kv_type=config.kv_type)
        return ops
    if config.backend == "reference":
        from tenfold.ops.reference import ReferenceOps

        if config.weights != "auto":
            raise ConfigError(
                f"the reference backend takes weights as stored: --weights {config.weights} needs --backend cpu"
            )
        return ReferenceOps(checkpoint.weights)
    raise ConfigError(f"unknown backend {config.backend!r}: choose cpu or reference")
