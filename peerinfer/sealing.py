"""Closing an epoch: every elector is asked to seal it, until a quorum has; and copying the journal to those who lack it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from peerinfer.candidacy_events import Ask
from peerinfer.codec import encode
from peerinfer.committees import Seated, open_change, open_statements
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.lacking import Lack, Lacking
from peerinfer.lease_messages import CommitteeChange, LeaseRefused, SealGiven, SealWanted
from peerinfer.messages import Term
from peerinfer.snapshots import SnapshotInHand

SEALINGS_MAX = 8
"""So often electors are asked to seal before a candidate begins anew."""


class Sealing:
    """For one change that a quorum holds. Whoever begins is its holder, or has another elector's seal."""

    def __init__(
        self,
        job: JobId,
        seated: Seated,
        term: Term,
        change: bytes,
        chain: Chain,
        new_nonce: Callable[[], int],
        statements: Sequence[bytes] = (),
    ) -> None:
        """Raises `DecodeError` or `ProtocolError` for a change that cannot follow."""
        self._job = job
        self._seated = seated
        self._term = term
        self._change = change
        self._chain = chain
        self._new_nonce = new_nonce
        self._digest, self._batch = open_change(job, seated, change)
        self._seals: dict[str, bytes] = {}
        self._asked: dict[PeerId, tuple[int, Lacking]] = {}
        """The nonce of what was asked last, and what was answered since all were asked."""
        self._snapshot = SnapshotInHand()
        self._take(statements)

    def asks(self) -> list[Ask]:
        """To everybody who has not sealed yet, as far as is known."""
        return [
            ask
            for elector in self._seated.electors
            if elector not in self._seals
            for ask in self._asked_with(PeerId(elector), Lacking(), None)
        ]

    def given(self, given: SealGiven) -> None:
        self._take((given.statement,))

    def refused(self, elector: PeerId, refusal: LeaseRefused) -> list[Ask]:
        """It may have sealed already, or lack the journal."""
        if refusal.statement and refusal.change == self._change:
            self._take((refusal.statement,))
        nonce, lacking = self._asked.get(elector, (0, Lacking()))
        if refusal.kind != "gap" or refusal.nonce != nonce or not self._chain.holds(*self._end):
            return []
        lacks = refusal.sequence, refusal.snapshot_bytes
        return self._asked_with(elector, lacking, lacks) if lacking.is_getting_on(lacks) else []

    @property
    def _end(self) -> tuple[int, bytes]:
        return self._batch.sequence + 1, self._digest

    def _asked_with(self, elector: PeerId, lacking: Lacking, lacks: Lack | None) -> list[Ask]:
        """With what it lacks, if it has said so. None for one that was sent a snapshot often enough."""
        nonce = self._new_nonce()
        self._asked[elector] = nonce, lacking
        proofs = tuple(self._seals.values())
        wanted = SealWanted(self._job, self._seated.epoch, self._term, nonce, self._change, proofs)
        if lacks is None:
            self._snapshot.renew(elector)
            return [Ask(elector, wanted)]
        first, snapshot_bytes = lacks
        if first < self._chain.base:
            part = self._snapshot.part(self._chain, self._job, nonce, elector, snapshot_bytes)
            return [Ask(elector, replace(wanted, snapshot=encode(part)))] if part is not None else []
        batches = self._chain.part(first)[: self._batch.sequence + 1 - first]
        lacking.give(first + len(batches))
        return [Ask(elector, replace(wanted, batches=batches))] if batches else []

    def _take(self, statements: Sequence[bytes]) -> None:
        found = open_statements(self._job, self._seated, self._digest, self._batch.term.round, statements)
        for elector, (_, signed) in found.items():
            self._seals.setdefault(elector, signed)

    @property
    def seals(self) -> int:
        return len(self._seals)

    @property
    def record(self) -> bytes:
        """The `CommitteeChange`, once a quorum has sealed; b"" before."""
        if len(self._seals) < self._seated.quorum:
            return b""
        return encode(CommitteeChange(self._change, tuple(self._seals.values())))


class Closing:
    """An epoch that somebody else began to close, as another candidate goes on with it."""

    def __init__(self, sealing: Sealing, now_s: float, answer_s: float) -> None:
        self.sealing = sealing
        self._answer_s = answer_s
        self._times = 0
        self.again_s = now_s
        """When to ask all electors again."""

    def ask_again(self, now_s: float) -> list[Ask] | None:
        """None if they were asked often enough."""
        self._times += 1
        if self._times > SEALINGS_MAX:
            return None
        self.again_s = now_s + self._answer_s
        return self.sealing.asks()
