"""What binds a step, and what would help, in words."""

from tenfold.ops.limits import MachineLimits
from tenfold.profile.steps import OpProfile, StepProfile

_NEAR = 0.6  # of the limit: from here on it is the machine that binds
_FASTER = 1.2  # times the rate: what counts as faster instructions


def verdict(step: StepProfile, limits: MachineLimits) -> list[str]:
    """Sentences about one shape: its limits, whether fewer bits would help, how far the kernels are from the limit."""
    works = [op.work for op in step.ops if op.work is not None]
    weights = sum(work.weights for work in works) / step.read_rate
    keys = sum(work.kv_read + work.kv_written for work in works) / step.read_rate
    near = sum(work.activations for work in works) / limits.cache
    macs = sum(op.roof.macs_seconds for op in step.ops if op.roof)
    floor = (
        f"At least {_ms(weights + keys + near)} for bytes ({_ms(weights)} weights, {_ms(keys)} keys and values, "
        f"{_ms(near)} activations) and {_ms(macs)} for multiply-adds"
    )
    if macs > weights + keys + near:
        help_words = (
            f"Quantizing the weights further will not make this faster: their bytes take only {_ms(weights)}. "
            f"{_faster_instructions(step, limits)}"
        )
        return [f"{floor}: operations bind.", help_words, _kernels(step)]
    return [f"{floor}: bytes bind.", _fewer_bits(step, weights, keys), _kernels(step)]


def _fewer_bits(step: StepProfile, weights: float, keys: float) -> str:
    which, seconds = ("weights", weights) if weights >= keys else ("keys and values", keys)
    saved = seconds / 2
    words = (
        f"Fewer bits for the {which} would help: half of them saves up to {_ms(saved)}, {_share(saved / step.seconds)}."
    )
    return f"{words} More sequences per step would share the weights' bytes." if which == "weights" else words


def _faster_instructions(step: StepProfile, limits: MachineLimits) -> str:
    def macs_seconds(op: OpProfile) -> float:
        return op.roof.macs_seconds if op.roof else 0.0

    op = max(step.ops, key=macs_seconds)
    assert op.work is not None
    kind = max(op.work.macs.items(), key=lambda item: item[1])[0]
    own = limits.macs[kind]
    faster = [rate for rate in limits.macs.values() if rate.rate > _FASTER * own.rate]
    words = f"{op.op} has most of them, in {kind} ({own.instructions}, {own.rate / 1e9:,.0f} GMAC/s)"
    if not faster:
        return f"{words}, the fastest there is here."
    names = ", ".join(f"{rate.instructions} ({rate.rate / 1e9:,.0f})" for rate in faster)
    return f"{words}; faster ones are here: {names}."


def _kernels(step: StepProfile) -> str:
    slowest = max((op for op in step.ops if op.roof), key=lambda op: op.seconds)
    words = (
        f"Measured {_ms(step.seconds)}, {step.seconds / step.roof_seconds:.1f} x the ops' limits; {slowest.op} "
        f"({_share(slowest.seconds / step.seconds)} of the step) is at {_share(slowest.limit_share)} of its limit"
    )
    if slowest.limit_share >= _NEAR:
        return f"{words}: the machine binds it."
    return f"{words}: its kernel binds it (unpacking, scales, waiting); a better one helps before another format does."


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.1 else f"{1e3 * seconds:,.0f} ms"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"
