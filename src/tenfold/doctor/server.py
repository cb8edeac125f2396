"""Diagnosing a running server: rules over what it tells of itself. Pure: evidence in, findings out."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tenfold.core.config import FIRST_COME, PROFILES, SchedulerConfig
from tenfold.doctor.evidence import Evidence
from tenfold.doctor.finding import Finding, in_order
from tenfold.doctor.work import MEANING, Work, work_of
from tenfold.observe.requests import ChoiceTimeline
from tenfold.ops.cores import cpu_name
from tenfold.ops.cpu import available_levels, level_name
from tenfold.traffic.figures import percentile

_QUEUED = 0.25  # of users' time: more of it in the queue is a problem,
_GROWN = 10  # requests by which the queue got longer meanwhile,
_OVERRUN = 0.8  # which weighs so much
_BUSY = 0.85  # of the machine's time: from here on it is the machine that they wait for
_SHARED = 0.25  # of the engine's time: if what every step takes is that much, more sequences would share it
_INTERFERENCE = 0.3  # of a running answer's time, others' prompts
_FELT = 0.15  # of users' time, the same: of less nobody complains
_SLOWED = 1.5  # times the gap between tokens without them
_FULL = 0.95  # of the KV blocks
_REPEATED = 0.02  # of users' time, spent without a place or computing again
_WASTED = 0.03  # of the engine's time, spent on drafted tokens beyond what they save
_ENGINE = 0.15  # of the engine's time, outside of the model
_DELIVERY = 0.1  # of users' time, from the engine to the connection
_OFF = 0.25  # error of predicted steps
_SLOWER = 1.5  # times as long as calibrated
_REFUSED, _MISSED = 0.01, 0.1  # of requests
_FEW = 8  # steps: of fewer nothing is said
_MAIN = 0.4  # of the engine's time: a part that large is what binds


def diagnose(evidence: Evidence) -> list[Finding]:
    """What is wrong, the worst first; then what binds. Says so where nothing is wrong."""
    work = work_of(evidence.steps, evidence.machine)
    rules: tuple[Callable[[Evidence, Work], Finding | None], ...] = (
        _kernels,
        _queueing,
        _interference,
        _kv_pressure,
        _speculation,
        _engine_share,
        _delivery,
        _slow_machine,
        _refusals,
        _bounds,
    )
    findings = [found for rule in rules if (found := rule(evidence, work)) is not None]
    if len(evidence.steps) < _FEW:
        words = "The server has done next to nothing: put its usual load on it, and look again while that runs."
        return in_order([*findings, Finding(name="idle", level="note", words=words)])
    findings.append(_binds(evidence, work))
    if (drafts := _drafts(evidence)) is not None and not any(one.name == "speculation" for one in findings):
        findings.append(drafts)
    if not any(one.level == "problem" for one in findings):
        findings.append(_healthy(evidence, work))
    return in_order(findings)


def _kernels(evidence: Evidence, work: Work) -> Finding | None:
    backend = evidence.machine.backend
    if backend.startswith("reference"):
        return Finding(
            name="kernels",
            level="problem",
            words=f"The reference ops run ({backend}): they are made to be right, not fast.",
            advice=("start the server with --backend cpu",),
            weight=1.0,
        )
    if backend.startswith("cuda"):
        return None
    best = next(iter(available_levels()), "")
    if not evidence.here or evidence.machine.cpu != cpu_name() or f"({level_name(best)}," in backend:
        return None
    return Finding(
        name="kernels",
        level="problem",
        words=f"The server runs {backend}, but this CPU runs kernels of level {level_name(best)}.",
        advice=("install Tenfold anew on this machine: its build leaves them out, or the server is an older one",),
        weight=0.9,
    )


def _queueing(evidence: Evidence, work: Work) -> Finding | None:
    choices = evidence.choices
    total = sum(one.total for one in choices)
    queued = sum(one.queue for one in choices)
    waiting = max((step.waiting for step in evidence.steps), default=0)
    grown = evidence.steps[-1].waiting - evidence.steps[0].waiting if evidence.steps else 0
    grows = grown >= _GROWN and 2 * waiting >= evidence.steps[-1].running
    if not total or (queued / total < _QUEUED and not grows):
        return None
    middle, late = (percentile([one.queue for one in choices], p) or 0.0 for p in (50, 95))
    words = (
        f"Requests spend {queued / total:.0%} of their time in the queue ({_time(middle)} at the median, {_time(late)} "
        f"at the 95th percentile; at most {waiting} waited" + (f", {grown} more at the end)" if grows else ")")
    )
    running = max((step.running for step in evidence.steps), default=0)
    weight = max(queued / total, _OVERRUN if grows else 0.0)
    shown = {
        "queued": queued / total,
        "grown": grown,
        "queue_p50_s": middle,
        "queue_p95_s": late,
        "busy": work.busy,
        "running": running,
    }
    advice = [] if _bounded(evidence, "ttft") else ["--slo ttft=… refuses at once (429) what would come too late"]
    lonely = work.parts()["weights"] >= _SHARED or work.busy < _BUSY
    if running >= evidence.limits.max_running and lonely and not _tight(evidence, work):
        words += f": all {running} places are taken."
        advice.insert(0, f"--max-running {2 * running}: steps have room for more sequences")
        return Finding(name="places", level="problem", words=words, advice=tuple(advice), evidence=shown, weight=weight)
    if work.busy >= _BUSY:
        words += f", while the machine is busy {work.busy:.0%} of the time: this load is more than it can do."
        first = "more replicas, or a smaller or more quantized model: `tenfold plan` finds what the load needs"
        return Finding(
            name="capacity",
            level="problem",
            words=words,
            advice=(first, *advice),
            evidence=shown,
            weight=weight,
        )
    words += f", though the machine is busy only {work.busy:.0%} of the time: they come in bursts, or places are kept."
    advice.append("look at --slo tpot=…: a tight bound keeps sequences out until others end")
    return Finding(name="queueing", level="problem", words=words, advice=tuple(advice), evidence=shown, weight=weight)


def _interference(evidence: Evidence, work: Work) -> Finding | None:
    alone = work.gap - work.interference
    if not work.gap or work.interference / work.gap < _INTERFERENCE or work.gap < _SLOWED * alone:
        return None
    total = sum(one.total for one in evidence.choices)
    felt = sum(one.interference for one in evidence.choices) / total if total else work.interference / work.gap
    if felt < _FELT:
        return None  # answers are so short that nobody notices
    limits = evidence.limits
    kept = _bounded(evidence, "tpot")
    if kept is not None and work.gap <= kept:
        return None  # slower than it could be, and as fast as was asked for
    words = (
        f"A token of a running answer takes {_time(work.gap)}, of which it waits {_time(work.interference)} for other "
        f"requests' prompts; alone it would take {_time(alone)}. Throughput is fine, and it feels slow."
    )
    advice = []
    if limits.policy.order == FIRST_COME.order:
        advice.append("serve without --profile fcfs: by arrival alone, prompts go before running answers")
    if kept is None:
        advice.append(f"--slo tpot={_time(2 * alone).replace(' ', '')}: prompts then get what that leaves of each step")
    if limits.policy == PROFILES["throughput"]:
        advice.append("--profile balanced, or interactive: throughput gives prompts at least half of a TPOT bound")
    elif limits.policy != PROFILES["interactive"]:
        advice.append("--profile interactive: a step with prompts takes at most three times one without")
    if limits.max_step_tokens > SchedulerConfig().max_step_tokens:
        advice.append(f"--max-step-tokens 512: now {limits.max_step_tokens} tokens of prompts go into one step")
    return Finding(
        name="interference",
        level="problem",
        words=words,
        advice=tuple(advice),
        evidence={"gap_s": work.gap, "interference_s": work.interference, "alone_s": alone, "of_users_time": felt},
        weight=felt,
    )


def _kv_pressure(evidence: Evidence, work: Work) -> Finding | None:
    machine, choices = evidence.machine, evidence.choices
    total = sum(one.total for one in choices)
    lost = sum(one.preempted + one.recompute for one in choices) / total if total else 0.0
    preempted = evidence.more("tenfold_num_preemptions_total", reason="memory")
    held = max((step.held for step in evidence.steps), default=0) / machine.blocks
    waits = any(step.waiting for step in evidence.steps)
    places = max((step.running for step in evidence.steps), default=0) >= evidence.limits.max_running
    if not (preempted and lost > _REPEATED) and not (held >= _FULL and waits and not places):
        return None
    tokens = machine.blocks * machine.block_size
    words = (
        f"KV memory is short: {held:.0%} of its {tokens:,} tokens were held, {preempted:.0f} sequences lost their "
        f"place for want of blocks, and {lost:.0%} of users' time went with waiting and computing again."
    )
    advice = [f"--kv-tokens {2 * tokens}: as much again"]
    if "kv bf16" in machine.backend:
        advice.insert(0, f"--kv {_eight_bits(machine.backend)}: twice the tokens in the same memory")
    advice.append(f"--max-running {max(1, evidence.limits.max_running // 2)}: fewer sequences at a time")
    return Finding(
        name="kv",
        level="problem",
        words=words,
        advice=tuple(advice),
        evidence={"held": held, "preemptions": preempted, "lost": lost, "kv_tokens": tokens},
        weight=max(lost, sum(one.queue for one in choices) / total if total and waits else 0.0, 0.1),
    )


def _speculation(evidence: Evidence, work: Work) -> Finding | None:
    """Where drafted tokens cost more than those that are right save."""
    told = _Drafts.of(evidence)
    share = (told.spent - told.saved) / work.total if work.total else 0.0
    if not told.drafted or share < _WASTED:
        return None
    words = (
        f"Speculation makes it slower: of {told.drafted:.0f} drafted tokens {told.right:.0%} were right. Checking them "
        f"took {told.spent / work.total:.0%} of the engine's time, and saved {told.saved / work.total:.0%}, with "
        f"{work.batch:.1f} sequences in decode: where a step is arithmetic, each drafted token costs as much as one "
        "that is wanted."
    )
    fixed = evidence.limits.speculation.mode == "fixed"
    advice = (
        ("--speculation auto: drafts only where that is expected to pay", "--speculation off")
        if fixed
        else ("--speculation off, and tell us: auto should have stopped by itself",)
    )
    shown = {"drafted": told.drafted, "right": told.right, "spent_s": told.spent, "saved_s": told.saved}
    return Finding(
        name="speculation", level="problem", words=words, advice=advice, evidence=shown, weight=max(share, 0.0)
    )


@dataclass(frozen=True, slots=True)
class _Drafts:
    """Tokens drafted meanwhile, what part was right, and seconds that they cost and saved."""

    drafted: float
    right: float
    spent: float
    saved: float

    @staticmethod
    def of(evidence: Evidence) -> "_Drafts":
        drafted = evidence.more("tenfold_spec_decode_num_draft_tokens_total")
        accepted = evidence.more("tenfold_spec_decode_num_accepted_tokens_total")
        spent, saved = (evidence.more("tenfold_spec_decode_seconds_total", kind=kind) for kind in ("spent", "saved"))
        return _Drafts(drafted, accepted / drafted if drafted else 0.0, spent, saved)


def _drafts(evidence: Evidence) -> Finding | None:
    """What speculation brings, where it does."""
    told = _Drafts.of(evidence)
    if not told.drafted:
        return None
    words = (
        f"Of {told.drafted:.0f} drafted tokens {told.right:.0%} were right: that took {_time(told.spent)} of the "
        f"engine's time and saved {_time(told.saved)}."
    )
    shown = {"drafted": told.drafted, "right": told.right, "spent_s": told.spent, "saved_s": told.saved}
    return Finding(name="drafts", level="note", words=words, evidence=shown)


def _engine_share(evidence: Evidence, work: Work) -> Finding | None:
    share = work.parts().get("engine", 0.0)
    if len(evidence.steps) < _FEW or share < _ENGINE:
        return None
    return Finding(
        name="engine",
        level="problem",
        words=f"{share:.0%} of the engine's time goes with {MEANING['engine']}: its process waits for a core, or "
        f"steps are very short ({_time(work.total / len(evidence.steps))} on average).",
        advice=(
            "leave the server's process a core: --threads one less than there are, and nothing else on the machine",
            "`tenfold profile --engine` shows it part by part",
        ),
        evidence={"engine": share},
        weight=share,
    )


def _delivery(evidence: Evidence, work: Work) -> Finding | None:
    total = sum(one.total for one in evidence.choices)
    late = sum(one.delivery for one in evidence.choices)
    if not total or late / total < _DELIVERY:
        return None
    return Finding(
        name="delivery",
        level="problem",
        words=f"{late / total:.0%} of users' time passes between the engine and their connection.",
        advice=("clients that read slowly, or an HTTP process without a core: see --threads",),
        evidence={"delivery": late / total},
        weight=late / total,
    )


def _slow_machine(evidence: Evidence, work: Work) -> Finding | None:
    error = evidence.now("tenfold_step_cost_error_ratio")
    drift = evidence.machine.drift
    if not evidence.calibrated:
        words = "Step times have not been measured yet (that takes an idle second): until then bounds are guesses."
        return Finding(name="calibration", level="note", words=words, weight=0.2)
    if len(evidence.steps) < _FEW or ((error or 0.0) < _OFF and drift < _SLOWER):
        return None
    return Finding(
        name="machine",
        level="problem",
        words=f"Steps take {drift:.2f} times as long as when they were calibrated, and predictions are off by "
        f"{error or 0.0:.0%} at the median: other work runs on this machine, or its clock went down.",
        advice=(
            "look for other processes; give the server cores of its own",
            "where it stays so: delete the files in ~/.cache/tenfold/cost and start again, to calibrate anew",
        ),
        evidence={"drift": drift, "error": error},
        weight=max(1 - 1 / drift, error or 0.0) / 2,
    )


def _refusals(evidence: Evidence, work: Work) -> Finding | None:
    refused = evidence.by("tenfold_requests_refused_total", "reason")
    count, finished = sum(refused.values()), evidence.more("tenfold_engine_finished_total")
    if not count or count / (count + finished) < _REFUSED:
        return None
    meaning = {
        "ttft": "their first token would come too late",
        "queue": "the queue is full",
        "tenant": "their tenant has as many in the queue as it may",
        "timeout": "they waited longer than they may",
    }
    told = ", ".join(f"{number:.0f} because {meaning.get(reason, reason)}" for reason, number in refused.items())
    advice = ["`tenfold plan` finds how many replicas keep the bounds at this load"]
    if "queue" in refused:
        advice.insert(0, f"--max-waiting: now {evidence.limits.max_waiting}")
    return Finding(
        name="refused",
        level="problem",
        words=f"{count / (count + finished):.0%} of the requests were refused: {told}.",
        advice=tuple(advice),
        evidence={"refused": refused, "finished": finished},
        weight=0.5 * count / (count + finished),
    )


def _bounds(evidence: Evidence, work: Work) -> Finding | None:
    outcomes = evidence.by("tenfold_slo_requests_total", "outcome")
    count = sum(outcomes.values())
    if not count or 1 - outcomes.get("met", 0.0) / count < _MISSED:
        return None
    missed = {name: number for name, number in outcomes.items() if name != "met"}
    told = ", ".join(f"{number:.0f} {name.replace('_', ' ')}" for name, number in missed.items())
    slow = [one for one in evidence.choices if one.tpot is not None and one.tpot_bound and one.tpot > one.tpot_bound]
    late = [one for one in evidence.choices if one.ttft is not None and one.ttft_bound and one.ttft > one.ttft_bound]
    advice = [_where(late, "queue", "prefill")] if late else []
    advice += [_where(slow, "decode", "interference", "preempted", "recompute")] if slow else []
    return Finding(
        name="bounds",
        level="problem",
        words=f"{1 - outcomes.get('met', 0.0) / count:.0%} of the answers missed a bound ({told} of {count:.0f}).",
        advice=tuple(advice),
        evidence={"outcomes": outcomes},
        weight=0.6 * (1 - outcomes.get("met", 0.0) / count),
    )


def _where(choices: list[ChoiceTimeline], *phases: str) -> str:
    seconds = {phase: sum(getattr(one, phase) for one in choices) for phase in phases}
    total = sum(seconds.values()) or 1.0
    told = ", ".join(f"{phase} {value / total:.0%}" for phase, value in sorted(seconds.items(), key=lambda i: -i[1]))
    which = "first tokens" if "queue" in phases else "slow answers"
    return f"late {which}: where their time went: {told}" if "queue" in phases else f"{which}: {told}"


def _eight_bits(backend: str) -> str:
    """What keys and values in 8 bits are called there."""
    return "fp8" if backend.startswith("cuda") else "int8"


def _binds(evidence: Evidence, work: Work) -> Finding:
    """Always told: where time goes, and so what fewer bits, shorter prompts, or more users at a time would change."""
    parts = work.parts()
    first, share = next(iter(parts.items()))
    told = ", ".join(f"{name} {part:.0%}" for name, part in parts.items() if part >= 0.005)
    words = f"The engine's time goes with: {told}; {work.batch:.1f} answers are in decode at a time."
    saved = parts["weights"] / 2
    backend = evidence.machine.backend
    advice: list[str]
    if first == "weights":
        words += f" Reading the weights binds{'' if share >= _MAIN else ' most'}."
        advice = [f"more requests at a time: they share what every step takes ({work.batch:.1f} do now)"]
        fewer = "fp8" if backend.startswith("cuda") else "int4"
        if fewer not in backend.partition(", kv ")[0]:
            advice.insert(0, f"--weights {fewer}: half the bytes save up to {saved:.0%} of the time")
    else:
        words += f" Quantizing the weights further would save at most {saved:.0%}: {MEANING[first]} binds."
        advice = {
            "prompts": [
                _prefixes(evidence),
                "prefill is arithmetic: more or faster cores, or more replicas, do help; fewer bits do not",
            ],
            "tokens": ["decode is arithmetic at this many sequences: more or faster cores, or more replicas"],
            "keys": [
                f"--kv {_eight_bits(backend)} halves the bytes of keys and values"
                if "kv bf16" in backend
                else "shorter contexts, or fewer at a time: keys and values are in 8 bits already"
            ],
            "drafts": ["what is drafted is told above"],
            "engine": ["see above: this is not the model's time"],
        }[first]
    return Finding(
        name=f"binds-{first}",
        level="note",
        words=words,
        advice=tuple(advice),
        evidence={**parts, "batch": work.batch, "busy": work.busy},
        weight=share,
    )


def _prefixes(evidence: Evidence) -> str:
    prompt = sum(one.prompt_tokens for one in evidence.choices)
    cached = sum(one.cached_tokens for one in evidence.choices)
    return (
        f"{cached / prompt if prompt else 0.0:.0%} of the prompts' tokens came from the prefix cache: put what "
        "requests have in common at the beginning"
    )


def _healthy(evidence: Evidence, work: Work) -> Finding:
    lines = evidence.choices
    first = [one.ttft for one in lines if one.ttft is not None]
    words = f"Nothing is wrong: the machine is busy {work.busy:.0%} of the time"
    if first:
        words += f", first tokens come after {_time(median(first))} at the median"
    if work.gap:
        words += f", further ones each {_time(work.gap)}"
    return Finding(name="healthy", level="fine", words=words + ".", evidence={"busy": work.busy, "gap_s": work.gap})


def _bounded(evidence: Evidence, name: str) -> float | None:
    """The bound that most of the last answers had, or that the default class has."""
    known = [bound for one in evidence.choices if (bound := getattr(one, f"{name}_bound")) is not None]
    if known:
        return float(median(known))
    classes = {one.name: one.slo for one in evidence.limits.classes}
    slo = classes[evidence.limits.default_class]
    return slo.ttft if name == "ttft" else slo.tpot


def _tight(evidence: Evidence, work: Work) -> bool:
    """Whether steps are as long as a TPOT bound lets them be already."""
    bound = _bounded(evidence, "tpot")
    return bound is not None and work.gap > 0.8 * bound


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
