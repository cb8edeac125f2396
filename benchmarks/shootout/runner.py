"""The run itself: every system in turn, row by row, round by round."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.shootout import golden, traffic
from benchmarks.shootout.peers.base import Measured, Model, Peer, PeerError, Session
from benchmarks.shootout.quiet import Watch, wait_quiet
from benchmarks.shootout.record import Measurement, Run, System
from benchmarks.shootout.report import DISTURBED
from benchmarks.shootout.rows import BATCHES, FILL, KV_TOKENS, START, TRAFFIC
from benchmarks.shootout.servers import answer_all, free_port, memory_of, running, server_log

FIRST_SEED = 7


class Shootout:
    """One run. ``save`` is called after every measurement, so that an interrupted run leaves what it has."""

    def __init__(
        self,
        run: Run,
        model: Model,
        peers: Sequence[Peer],
        save: Callable[[Run], None],
        *,
        patience: float,
        retries: int,
    ) -> None:
        self._run = run
        self._model = model
        self._peers = peers
        self._patience = patience
        self._retries = retries
        self._save = save
        self._present: list[Peer] = []

    def prepare(self) -> None:
        """Convert weights; systems that cannot run are named as absent, with the reason."""
        for peer in self._peers:
            reason = peer.missing()
            if reason is None:
                try:
                    peer.prepare(self._model)
                    self._present.append(peer)
                except PeerError as error:
                    reason = str(error)
            self._run.systems.append(System(peer.name, peer.label, peer.flags, reason))
            if reason is not None:
                _say(f"{peer.label} is absent: {reason}")

    def offline(self, rows: Sequence[str], rounds: int) -> None:
        """Rows without HTTP, and the check of greedy outputs before them."""
        wanted = [row for row in BATCHES if row.name in rows]
        if not wanted:
            return
        with contextlib.ExitStack() as stack:
            sessions = self._open_all(stack)
            for name, session in sessions.items():
                self._check_golden(name, session)
            for number in range(rounds):
                for row in wanted:
                    for name, session in sessions.items():
                        seed = FIRST_SEED + number
                        self._measure(number, row.name, name, lambda s=session, r=row, n=seed: s.batch(r, n))

    def serving(self, rows: Sequence[str], rounds: int) -> None:
        """Rows through HTTP, a fresh server each time: no system finds a prompt in its cache."""
        wanted = [row for row in TRAFFIC if row.name in rows]
        for number in range(rounds):
            for row in wanted:
                for peer in self._present:
                    seed = FIRST_SEED + number
                    self._measure(
                        number, row.name, peer.name, lambda p=peer, r=row, n=seed: traffic.measure(p, self._model, r, n)
                    )
            if START in rows:
                for peer in self._present:
                    if peer.server(self._model, 16, KV_TOKENS, 0) is not None:
                        self._measure(number, START, peer.name, lambda p=peer, n=FIRST_SEED + number: self._start(p, n))

    def _open_all(self, stack: contextlib.ExitStack) -> dict[str, Session]:
        sessions: dict[str, Session] = {}
        for peer in self._present:
            try:
                session = peer.open(self._model)
            except PeerError as error:
                _say(f"{peer.label} does not load: {error}")
                self._note(peer.name, missing=f"does not load: {error}")
                continue
            stack.callback(session.close)
            sessions[peer.name] = session
        self._present = [peer for peer in self._present if peer.name in sessions]
        return sessions

    def _check_golden(self, name: str, session: Session) -> None:
        if self._model.golden is None:
            return
        try:
            share = golden.agreement(self._model.golden, session.greedy)
        except PeerError as error:
            _say(f"{name}: golden tokens: {error}")
            return
        _say(f"{name}: {share:.1%} of the golden tokens")
        self._note(name, agreement=share)

    def _measure(self, number: int, row: str, system: str, measure: Callable[[], Measured]) -> None:
        """Measure, again where others disturbed it; the least disturbed try counts."""
        tries: list[Measurement] = []
        while len(tries) <= self._retries:
            wait_quiet(self._patience)
            watch = Watch()
            try:
                got = measure()
                error = None
            except PeerError as failure:
                got, error = Measured({}, 0, 0), str(failure)
            share = watch.share() if got.others is None else got.others
            figures = error or "  ".join(f"{metric} {value:,.2f}" for metric, value in got.values.items())
            _say(f"round {number + 1}  {row:<13} {system:<14} {figures}  (others {share:.0%})")
            tries.append(
                Measurement(
                    number, row, system, got.values, got.prompt_tokens, got.output_tokens, share, got.note, error
                )
            )
            if error is not None or share <= DISTURBED:
                break
        self._run.measurements.append(min(tries, key=lambda one: (one.error is not None, one.others)))
        self._save(self._run)

    def _start(self, peer: Peer, seed: int) -> Measured:
        server = peer.server(self._model, 16, KV_TOKENS, free_port())
        assert server is not None
        with running(server, server_log(peer.name)) as started:
            prompt, output = answer_all(server, FILL.requests(self._model.encode.vocab, seed))
            values = {
                "first token, s": started.seconds,
                "memory, MB": started.memory,
                "memory filled, MB": memory_of(started.pid),
            }
            return Measured(values, prompt, output, others=started.others)

    def _note(self, name: str, **changes: object) -> None:
        systems = self._run.systems
        at = next(index for index, system in enumerate(systems) if system.name == name)
        systems[at] = replace(systems[at], **changes)  # type: ignore[arg-type]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
