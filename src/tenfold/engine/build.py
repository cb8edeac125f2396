"""From settings to a running core: the one place where the parts are put together."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

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
from tenfold.exec.drafter import DraftModel
from tenfold.exec.memory import free_memory, own_blocks, pool_blocks
from tenfold.exec.runner import LaunchingRunner, ModelRunner
from tenfold.grammar.grammars import Grammars
from tenfold.model.checkpoint import Checkpoint
from tenfold.model.draft import load_draft
from tenfold.model.load import load_model
from tenfold.model.store import cache_folder
from tenfold.ops.base import Ops, OwnMemory
from tenfold.ops.cores import cpu_name, usable_cores
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Weights
from tenfold.sched.forecast import Forecast
from tenfold.sched.scheduler import Scheduler
from tenfold.spec.finished import FinishedTexts
from tenfold.spec.forced import ForcedTokens
from tenfold.spec.lookup import PromptLookup
from tenfold.spec.proposer import Proposer


@dataclass(frozen=True, slots=True)
class Engine:
    """A core, what it runs on, and the model's tokenizer and chat template: a checkpoint without weights."""

    core: EngineCore
    info: EngineInfo
    checkpoint: Checkpoint


def build_engine(config: EngineConfig, *, warm_up: bool = False) -> Engine:
    """Load the model and make its core. Raises ModelError or ConfigError, saying what to do.

    ``warm_up``: on a GPU, kernels are compiled and steps captured now, not when they are first needed.
    """
    checkpoint = load_model(config.model, config.load_format)
    spec = checkpoint.spec
    wanted = _wanted_context(config, spec)
    ops = make_ops(config, checkpoint)
    drafts = make_draft_model(config, checkpoint, ops)
    if checkpoint.files:  # the ops have a form of their own
        drop_pages(tensor.data for tensor in checkpoint.weights.tensors.values())
    checkpoint = checkpoint.without_weights()
    blocks = _pool_blocks(config, ops, drafts, wanted)
    max_context = min(wanted, blocks * config.block_size)
    clock = WallClock()
    laps = ClockedLaps(clock) if config.profile else NO_LAPS
    attention = Attention(spec.windows)
    draft_name = drafts.name if drafts is not None else ""
    record = CostRecord(cache_folder() / "cost", (checkpoint.name, ops.describe(), draft_name, cpu_name()))
    known = record.load()
    cost = StepCost(known or FIRST_GUESS)
    cache = CacheManager(
        CacheConfig(blocks, config.block_size, config.prefix_sharing),
        partial(LeastWorth, cost=Forecast(cost, attention, config.scheduler.max_step_tokens).again),
    )
    grammars = Grammars(checkpoint.tokenizer, spec.vocab)
    runner = LaunchingRunner if config.backend == "cuda" else ModelRunner
    executor = runner(ops, blocks, config.block_size, laps, drafts, grammars, spare_core(config, ops))
    if warm_up and config.backend == "cuda":
        from tenfold.engine.warming import warm_up as make_steps

        make_steps(executor, config.scheduler, max_context, blocks, config.block_size, spec.heads // spec.kv_heads)
    calibration = Calibration(
        cache,
        executor,
        cost,
        attention,
        clock,
        config.scheduler,
        max_context,
        brief=known is not None,
        draft_model=drafts is not None,
    )
    proposers = proposers_of(config.scheduler.speculation, grammars)
    core = EngineCore(
        scheduler=Scheduler(config.scheduler, cache, cost, attention, proposers, draft_model=drafts is not None),
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
        grammars=grammars,
        pools=executor.pools,
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
        draft_model=draft_name,
        embedding_size=spec.hidden if executor.pools else 0,
    )
    return Engine(core, info, checkpoint)


def _wanted_context(config: EngineConfig, spec: ModelSpec) -> int:
    """Tokens of the longest context, unless the KV pool holds fewer."""
    wanted = config.max_context if config.max_context is not None else spec.max_context
    if not 1 < wanted <= spec.max_context:
        raise ConfigError(
            f"--max-context must be from 2 to {spec.max_context} for {spec.name}, got {config.max_context}"
        )
    return wanted


def _pool_blocks(config: EngineConfig, ops: Ops, drafts: DraftModel | None, max_context: int) -> int:
    kv = (config.kv_type, config.block_size, max_context)
    if isinstance(ops, OwnMemory):
        return own_blocks(ops.spec, *kv, config.scheduler.max_running, config.kv_tokens, ops.kv_room())
    specs = (ops.spec,) if drafts is None else (ops.spec, drafts.ops.spec)
    return pool_blocks(specs, *kv, config.kv_tokens, free_memory())


def proposers_of(config: SpeculationConfig, grammars: Grammars | None = None) -> tuple[Proposer, ...]:
    """Those that draft under ``config``."""
    if config.mode == "off":
        return ()
    found: list[Proposer] = [] if grammars is None else [ForcedTokens(grammars)]
    found.append(PromptLookup())
    if config.kept:
        found.append(FinishedTexts(config.kept))
    return tuple(found)


def make_draft_model(config: EngineConfig, checkpoint: Checkpoint, target: Ops) -> DraftModel | None:
    """The draft model that ``config`` names, if any. Raises ModelError or ConfigError, saying what to do."""
    wanted = config.draft_model
    if wanted == "off" or config.scheduler.speculation.mode == "off":
        return None
    if config.backend == "cuda":
        if wanted == "auto":
            return None
        raise ConfigError("--draft-model needs --backend cpu or reference: leave it out with --backend cuda")
    if wanted == "auto":
        path = draft_path(checkpoint.name)
        if not path.is_file():
            return None
    else:
        path = Path(wanted).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        draft = load_draft(path, checkpoint.weights)
        return DraftModel(path.stem, _beside(draft.weights, target, "int8"), draft.vocabulary)
    other = load_model(wanted, config.load_format)
    if other.spec.vocab != checkpoint.spec.vocab:
        raise ConfigError(
            f"--draft-model {wanted} has {other.spec.vocab} tokens, {checkpoint.name} has {checkpoint.spec.vocab}: a "
            "draft model needs the same vocabulary"
        )
    return DraftModel(other.name, _beside(other.weights, target, "auto"), np.arange(other.spec.vocab, dtype=np.int32))


def draft_path(model: str) -> Path:
    """Where the draft model made for a model is kept."""
    return cache_folder() / "drafts" / f"{model}.safetensors"


def _beside(weights: Weights, target: Ops, form: str) -> Ops:
    from tenfold.ops.reference import ReferenceOps

    if isinstance(target, ReferenceOps):
        return ReferenceOps(weights)
    from tenfold.ops.cpu import CpuOps

    assert isinstance(target, CpuOps)
    ops: Ops = CpuOps(weights, form=form, kv_type=target.kv_type, beside=target)
    return ops


def spare_core(config: EngineConfig, ops: Ops) -> bool:
    """Whether this process may use a core that ``ops`` do not compute on."""
    if config.backend != "cpu":
        return False
    from tenfold.ops.cpu import CpuOps

    return isinstance(ops, CpuOps) and usable_cores() > ops.model.threads


def make_ops(config: EngineConfig, checkpoint: Checkpoint) -> Ops:
    """The op set ``config.backend`` names, over the checkpoint's weights. Raises ConfigError, saying what to do."""
    if config.backend == "cpu":
        from tenfold.ops.cpu import CpuOps

        ops: Ops = CpuOps(
            checkpoint.weights,
            threads=config.threads,
            level=config.level,
            form=config.weights,
            kv_type=config.kv_type,
        )
        return ops
    if config.backend == "reference":
        from tenfold.ops.reference import ReferenceOps

        return ReferenceOps(checkpoint.weights)
    from tenfold.ops.cuda.presence import find_gpus

    find_gpus(config.cuda.tensor_parallel)
    from tenfold.engine.ranks import cuda_ops, start_ranks

    max_context = _wanted_context(config, checkpoint.spec)
    return cuda_ops(config, max_context, checkpoint.weights, start_ranks(config))
