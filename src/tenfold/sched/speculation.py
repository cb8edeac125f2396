"""How much is drafted in a step, for whom, and by which proposer: what the cost model expects to pay.

A drafted token is worth the chance that it comes, and costs what a further row makes the step longer, for all that are
in it. Tokens are taken, the best first, as many as make the mean time per token over the sequences in decode least: so
with one sequence, where a row is nearly free, much is drafted; the more there are, the surer a token has to be; and it
counts more for a sequence that gets little yet than for one that has many. Whoever has gained less than others so far
weighs more in that mean: a sequence for which nothing is ever right is hardly slowed by what is drafted for others.

(Leviathan et al., ICML'23; on goodput as the measure: SmartSpec, Liu et al., 2024.)
"""

from collections import Counter
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from tenfold.cache.manager import CacheManager
from tenfold.core.config import SpeculationConfig
from tenfold.cost.estimate import StepCost
from tenfold.sched.assembly import Assembly
from tenfold.sched.sequence import Sequence
from tenfold.spec.acceptance import Acceptance
from tenfold.spec.profile import DraftCounts, DraftProfile
from tenfold.spec.proposer import Proposal, Proposer
from tenfold.spec.runs import MATCHED

_DOUBT = 3.0  # tokens that a sequence's own luck is held against
_FADES = 0.95  # of what is known of its luck, what each further token leaves
_FAIR = 4.0  # power of a sequence's time so far, relative to what it would be without drafts, that it weighs with
_EVEN = 16  # tokens without gain that each is counted as having had
_UNLIKELY = 0.25  # of the chance at which a first token pays: less likely ones are not looked at
_ENOUGH = 1.0  # tokens that a draft from text brings on net: the draft model is not asked besides
_MODEL = 4  # tokens that count as standing behind the first one of the draft model
_MARGIN = 1.3  # times its price, what a token has to bring: after a step of many rows the next ones are slower, too
_USUAL = 4  # tokens for each sequence, of which one's price is the mean
_HOPE = 0.75  # steps per token that a token can save at most: half of one, for a sequence that weighs more than others
_LATELY = 0.1  # of what is known of the gap, what each further one replaces
_RESTS = 32  # steps planned ahead, at most, between two looks for drafts that find none worth it
_PROBED = 16  # steps for which no draft seems to pay, until one token is tried all the same; twice as many after each
_SELDOM = 512  # that was wrong, up to so many


@dataclass(slots=True)
class _Offer:
    """A draft for a sequence: who proposed it, how likely each of its tokens comes, and how many are taken."""

    sequence: Sequence
    source: int
    proposal: Proposal  # without tokens where the draft model is to make them
    chances: list[float]  # that it and all before it are right
    each: float  # predicted seconds that a token makes the step longer
    net: float  # tokens that come of it, less those that others could have had in the same time
    taken: int = 0
    expected: float = 0.0  # tokens that come of it

    def take(self) -> None:
        """One token more."""
        self.expected += self.chances[self.taken]
        self.taken += 1

    def leave(self) -> None:
        """One token less."""
        self.taken -= 1
        self.expected -= self.chances[self.taken]

    @property
    def gain(self) -> float:
        """By how much the next token lowers the sequence's steps per token."""
        tokens = 1 + self.expected
        return 1 / tokens - 1 / (tokens + self.chances[self.taken])


@dataclass(slots=True)
class Drafted:
    """A step's drafts, until it is applied."""

    offers: dict[str, _Offer] = field(default_factory=dict)  # by sequence
    plain: float = 0.0  # predicted seconds of its decode without them
    seconds: float = 0.0  # and with them
    decoding: int = 0  # sequences
    probed: str | None = None  # the one for which a token is tried that does not seem to pay


class Speculation:
    """Owner of what is known of proposers, and of each sequence's :class:`~tenfold.sched.sequence.Drafting`."""

    def __init__(
        self,
        config: SpeculationConfig,
        proposers: Many[Proposer],
        cost: StepCost,
        cache: CacheManager,
        *,
        model: bool = False,
    ) -> None:
        self._config = config
        self._proposers = proposers
        self._names = [*(proposer.name for proposer in proposers), "model"]
        self._model = model  # whether the executor has a draft model
        self._cost = cost
        self._cache = cache
        self._known: dict[tuple[int, str], Acceptance] = {}  # by proposer and class of requests
        self._passed = 0  # steps for which no draft seemed to pay, since one was tried all the same
        self._patience = _PROBED  # and after how many one is
        self._counts = DraftCounts()
        self._gap = 0.0  # seconds for which nobody computes, of late, where a step is not planned ahead
        self._rest = 0  # steps that may still be planned ahead before drafts are looked for again
        self._rests = 1  # and how many may be after the next look that finds none worth it
        self.drafted: Counter[str] = Counter()  # tokens, by proposer
        self.accepted: Counter[str] = Counter()
        self.spent = 0.0  # seconds that steps were predicted to take longer for what was drafted,
        self.saved = 0.0  # and that what was right would have taken without

    @property
    def profile(self) -> DraftProfile | None:
        """How drafts from text have fared so far; chances are those of late."""
        texts = len(self._proposers)
        return self._counts.profile([known for (source, _), known in self._known.items() if source < texts])

    def forgo(self, step: Assembly, plain: float) -> Drafted | None:
        """No drafts for a step that is planned ahead: they would depend on tokens that are not known yet. None where a
        draft might pay: more than what waiting for those tokens costs, as the last looks tell."""
        if self._model:
            return None  # it follows every sequence's tokens
        if step.decoding:
            if plain > 0 and self._hopeless(step, plain):
                self._passed += 1
            elif self._rest > 0 and self._config.mode == "auto":
                self._rest -= 1
            elif any(self._most(s) > 0 for s in step.decoding):
                return None
        return Drafted(plain=plain, seconds=plain, decoding=len(step.slices))

    def waited(self, seconds: float) -> None:
        """A step began so long after the one before had ended, for it was not planned ahead."""
        self._gap += (seconds - self._gap) * _LATELY

    def draft(self, step: Assembly, plain: float, limit: float | None) -> Drafted:
        """Add drafts to a step that holds decode, and nothing else, and takes ``plain`` seconds as it is. It is to take
        no longer than ``limit`` seconds."""
        drafted = self._drafts(step, plain, limit)
        if drafted.offers:
            self._rest, self._rests = 0, 1
        elif step.decoding:
            self._rest, self._rests = self._rests, min(2 * self._rests, _RESTS)
        return drafted

    def _drafts(self, step: Assembly, plain: float, limit: float | None) -> Drafted:
        budget = step.budget
        drafted = Drafted(plain=plain, seconds=plain, decoding=len(step.slices))
        sequences = step.decoding
        room = budget.tokens // 2  # prompts need some, too
        if not sequences or room <= 0 or plain <= 0:
            return drafted
        if self._hopeless(step, plain):
            self._passed += 1  # nobody need look for one
            return drafted
        fixed = self._config.mode == "fixed"
        row, key = self._cost.draft(budget.shape.rows, _USUAL * len(sequences))
        least = 0.0 if fixed else _UNLIKELY * row * len(sequences) / plain
        token = plain / len(sequences)  # seconds
        offers, others = [], []
        for s in sequences:
            offer = self._offer(s, row + key * len(s.tokens), token, least)
            if offer is not None:
                offers.append(offer)
            if self._model and (offer is None or offer.net < _ENOUGH):
                others.append((s, offer))
        if others:
            each, each_pass = self._cost.asked()
            more = row + each + each_pass / len(others)
            for s, offer in others:
                asked = self._ask(s, more + key * len(s.tokens), token, least)
                if asked is None or (offer is not None and offer.net >= asked.net):
                    continue
                offers.append(asked)
                if offer is not None:
                    offers.remove(offer)
        if not offers:
            return drafted
        if fixed:
            for offer in offers:
                offer.taken = len(offer.chances)
        else:
            drafted.probed = self._choose(offers, sequences, plain, limit, room)
            saved = sum(offer.expected * token - offer.taken * offer.each for offer in offers)
            if drafted.probed is None and saved <= self._gap > 0:
                return drafted  # the next step could not be planned ahead, which costs more
        for offer in offers:
            sequence = offer.sequence
            offer.taken = self._places(sequence, min(offer.taken, room), drafted.decoding)
            if offer.taken > 0:
                room -= offer.taken
                drafted.offers[sequence.id] = offer
                tokens = offer.proposal.tokens[: offer.taken]
                step.draft(sequence, tokens, 0 if tokens else offer.taken, self._cache.blocks(sequence.id))
        drafted.seconds = budget.predicted
        return drafted

    def begin(self, sequence: Sequence) -> None:
        """A sequence is here."""
        for proposer in self._proposers:
            proposer.begin(sequence.submission.start)

    def learn(self, step: Drafted, sequence: Sequence, held: int, used: int) -> None:
        """Of what was drafted for a sequence so many tokens were right, and in all it got ``used`` from the step.

        Called for each that was in decode, also where nothing was drafted for it.
        """
        drafting = sequence.drafting
        drafting.run += used if drafting.run else 0
        drafting.plain += used * step.plain
        if not step.offers:
            return
        drafting.saved += used * step.plain - step.seconds
        offer = step.offers.get(sequence.id)
        if offer is None:
            return
        name, accepted = self._names[offer.source], used - 1
        drafting.drafted += offer.taken
        drafting.accepted += accepted
        self.drafted[name] += offer.taken
        self.accepted[name] += accepted
        self.saved += accepted * step.plain / step.decoding
        if step.probed == sequence.id:
            self._patience = _PROBED if held else min(2 * self._patience, _SELDOM)
        known = self._acceptance(offer.source, sequence)
        for at in range(min(held + 1, offer.taken)):
            right = at < held
            drafting.expected = _FADES * drafting.expected + known.chance(offer.proposal.matched + at)
            drafting.held = _FADES * drafting.held + right
            known.observe(offer.proposal.matched + at, right)

    def ended(self, sequence: Sequence, *, finished: bool) -> None:
        """A sequence is over."""
        salt = sequence.submission.salt
        for proposer in self._proposers:
            proposer.end(sequence.id, sequence.tokens, salt, finished=finished)

    def close_step(self, step: Drafted) -> None:
        """All of the step's sequences have been learned from."""
        self.spent += step.seconds - step.plain

    def _hopeless(self, step: Assembly, plain: float) -> bool:
        """Whether not even a sure token would pay in a step that takes ``plain`` seconds, nor is one to be tried all
        the same."""
        count = len(step.decoding)
        row, _ = self._cost.draft(step.budget.shape.rows, _USUAL * count)
        return (
            self._config.mode != "fixed"
            and _HOPE * plain <= _MARGIN * row * (count - _HOPE)
            and plain <= _MARGIN * row * count
            and self._passed + 1 < self._patience
        )

    def _most(self, sequence: Sequence) -> int:
        left = sequence.submission.max_length - len(sequence.tokens) - 1
        return min(left, sequence.drafting.most, self._config.draft_tokens)

    def _offer(self, sequence: Sequence, each: float, token: float, least: float) -> _Offer | None:
        """The best draft for a sequence, as far as each token's chance is at least ``least``; one takes ``each``
        seconds, and without drafts every ``token`` seconds one comes."""
        most = self._most(sequence)
        if most <= 0:
            return None
        best: _Offer | None = None
        salt = sequence.submission.salt
        for source, proposer in enumerate(self._proposers):
            proposal = proposer.propose(sequence.id, sequence.tokens, salt, most)
            if proposal is None or not proposal.tokens:
                continue
            chances = self._chances(sequence, source, proposal.matched, len(proposal.tokens), least)
            net = _net(chances, each / token)
            if best is None or net > best.net:
                best = _Offer(sequence, source, proposal, chances, each, net)
        self._count(sequence, None if best is None else best.proposal.matched)
        return best

    def _count(self, sequence: Sequence, matched: int | None) -> None:
        run, sequence.drafting.run = sequence.drafting.run, 0
        if matched is None:
            self._counts.none()
            return
        if matched != min(run, MATCHED):
            self._counts.offered(matched)
        sequence.drafting.run = matched

    def _ask(self, sequence: Sequence, each: float, token: float, least: float) -> _Offer | None:
        """What the draft model would be asked for."""
        most = self._most(sequence)
        if most <= 0:
            return None
        source = len(self._proposers)
        chances = self._chances(sequence, source, _MODEL, most, least)
        return _Offer(sequence, source, Proposal((), _MODEL), chances, each, _net(chances, each / token))

    def _chances(self, sequence: Sequence, source: int, matched: int, most: int, least: float) -> list[float]:
        """Of each token, that it and all before it are right; up to the first below ``least``, which is there, too."""
        drafting = sequence.drafting
        luck = (drafting.held + _DOUBT) / (drafting.expected + _DOUBT)
        return self._acceptance(source, sequence).chain(matched, most, luck, least)

    def _acceptance(self, source: int, sequence: Sequence) -> Acceptance:
        kind = source, sequence.terms.slo_class.name
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = Acceptance()
        return known

    def _choose(
        self, offers: list[_Offer], sequences: list[Sequence], plain: float, limit: float | None, room: int
    ) -> str | None:
        """Take tokens, the best first, as many as make the weighted mean over the sequences of the step's seconds per
        token least. One alone may not pay where one for each does: looks on for as many tokens as there are offers.

        Where none pays, one may be tried all the same: returns for which sequence."""
        weights, total = {}, 0.0  # and the sum of weighted steps per token
        for s in sequences:
            before = s.drafting.plain + _EVEN * plain
            weights[s.id] = weight = (1 - s.drafting.saved / before) ** _FAIR
            total += weight
        seconds, priced, least = plain, plain, total * plain
        order: list[_Offer] = []
        taken = 0  # of those, as many as are best
        best = [(-weights[o.sequence.id] * o.gain / o.each, which) for which, o in enumerate(offers)]
        heapify(best)
        while best and len(order) < min(room, taken + len(offers)):
            which = best[0][1]
            offer = offers[which]
            seconds += offer.each
            if limit is not None and seconds > limit:
                break
            weight = weights[offer.sequence.id]
            total -= weight * offer.gain
            priced += _MARGIN * offer.each
            order.append(offer)
            offer.take()
            if total * priced < least:
                taken, least = len(order), total * priced
            if offer.taken < len(offer.chances):
                heapreplace(best, (-weight * offer.gain / offer.each, which))
            else:
                heappop(best)
        for offer in order[taken:]:
            offer.leave()
        if not taken:
            self._passed += 1
            if self._passed >= self._patience:
                probed = min(offers, key=lambda offer: offer.sequence.drafting.drafted)
                if limit is None or plain + probed.each <= limit:
                    self._passed = 0
                    probed.take()
                    return probed.sequence.id
        return None

    def _places(self, sequence: Sequence, wanted: int, decoding: int) -> int:
        """For how many drafted tokens there is room in KV memory, without taking what the ``decoding`` ones may
        need."""
        held = len(self._cache.blocks(sequence.id)) * self._cache.block_size - sequence.computed - 1
        if wanted <= held:
            return wanted
        missing = self._cache.missing(sequence.id, sequence.computed + 1 + wanted)
        spare = self._cache.pool.available - missing > decoding
        if spare and self._cache.reserve(sequence.id, sequence.computed + 1 + wanted):
            return wanted
        return held


def _net(chances: list[float], price: float) -> float:
    return sum([chance - price for chance in chances if chance > price])
