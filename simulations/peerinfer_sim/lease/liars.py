"""Electors that lie, each in one way. They keep an honest elector inside, so that they know what they lie about."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from peerinfer.codec import decode_as
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked, Effect, Event
from peerinfer.envelope import seal
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import NO_TERM
from peerinfer.lease_messages import (
    LEASE_REFUSALS,
    Append,
    Appended,
    Grant,
    Granted,
    JournalBatch,
    JournalPart,
    JournalWanted,
    LeaseRefused,
    LeaseWanted,
    Prepare,
    Promise,
    SeatOffered,
)
from peerinfer.limits import TERM_ROUND_MAX
from peerinfer.messages import Signed, Term


class Liar(Elector):
    """yes: promises, grants and acknowledges whatever it is asked, and keeps nothing.
    boaster: promises a longer journal than anybody's, and hands out one that it made up, or bits of the real one.
    withholder: promises a longer journal, and hands out nothing.
    refuser: refuses everything, for any reason there is.
    forgetful: honest, but its disk is lost when it crashes.
    """

    def __init__(self, own: PeerId, sign: Callable[[bytes], bytes], kind: str, dice: random.Random) -> None:
        super().__init__(own, sign)
        self.kind = kind
        self._dice = dice

    def handle(self, event: Event, now_s: float) -> list[Effect]:  # type: ignore[override]
        effects = super().handle(event, now_s)
        if self.kind == "forgetful" or not isinstance(event, Asked) or isinstance(event.request, SeatOffered):
            return effects
        lie = self._lie(event)
        if lie is None:
            return effects
        return [Answer(event.token, lie)] if not isinstance(lie, str) else []

    def _lie(self, event: Asked) -> Promise | Granted | LeaseRefused | Appended | JournalPart | str | None:
        """An answer, "silence", or None for the truth."""
        request = event.request
        match self.kind, request:
            case "yes", Prepare():
                return Promise(request.job, request.epoch, request.term, request.nonce, NO_TERM, 0)
            case "yes", LeaseWanted():
                grant = Grant(request.job, request.epoch, request.term, request.nonce, request.lease_s)
                return Granted(request.nonce, seal(grant, self._own, self._sign))
            case "yes", Append() if request.batches:
                last = decode_as(Signed, request.batches[-1]).payload
                reached = decode_as(JournalBatch, last).sequence + 1
                head = hashlib.sha256(last).digest()
                return Appended(request.job, request.nonce, request.term, reached, head)
            case "yes", JournalWanted():
                return JournalPart(request.job, request.nonce, request.first, ())
            case (("boaster" | "withholder"), Prepare()):
                last_term = Term(max(request.term.round - 1, 1), event.peer)
                return Promise(
                    request.job, request.epoch, request.term, request.nonce, last_term, self._dice.randint(1, 90)
                )
            case "withholder", JournalWanted():
                return "silence"
            case "boaster", JournalWanted():
                return JournalPart(request.job, request.nonce, request.first, self._invented(request))
            case "refuser", _:
                return LeaseRefused(
                    request.job if not isinstance(request, SeatOffered) else "",
                    getattr(request, "nonce", 0),
                    self._dice.choice(LEASE_REFUSALS),
                    "because",
                    Term(self._dice.choice((1, 1 << 40, TERM_ROUND_MAX)), event.peer),
                    remaining_s=self._dice.choice((-1.0, 0.0, 60.0, 1e300)),
                    sequence=self._dice.choice((0, 1, 1 << 31)),
                )
        return None

    def _invented(self, request: JournalWanted) -> tuple[bytes, ...]:
        chain = self.chain(JobId(request.job)) or Chain()
        match self._dice.randrange(4):
            case 0:
                batch = JournalBatch(
                    job=request.job,
                    epoch=0,
                    term=Term(7, self._own),
                    sequence=request.first,
                    previous=chain.hash_before(min(request.first, len(chain))) or bytes(32),
                    tasks=(1,),
                    digests=bytes(16),
                    workers=(0,),
                    peers=(self._own,),
                    event="takeover" if request.first else "accepted",
                )
                return (seal(batch, self._own, self._sign),)
            case 1:
                return (b"nonsense",)
            case 2:
                return chain.signed(max(request.first - 1, 0), 2)
            case _:
                return chain.signed(request.first, 1)
