"""Former electors of a job whose owner named a committee anew: whoever coordinates tells them until each has heard.

One that comes back may not know that its generation is over. It serves nobody in that generation once it has seen the
owner's word, and it needs no answer to anything else.
"""

from __future__ import annotations

from collections.abc import Iterable

from peerinfer.candidacy_events import Ask
from peerinfer.ids import PeerId
from peerinfer.lease_messages import LeaseRefused, SeatOffered, SeatTaken

TELL_EVERY_RENEWALS = 4


class Fencing:
    """Of one generation, as one candidate sees it."""

    def __init__(self, seat: SeatOffered, epoch: int, former: Iterable[PeerId]) -> None:
        self._seat = seat
        self._epoch = epoch
        self._untold = dict.fromkeys(former)
        self._renewals = 0

    @property
    def untold(self) -> tuple[PeerId, ...]:
        return tuple(self._untold)

    def renewing(self) -> list[Ask]:
        """The lease is renewed: every so often all who have not answered are told again."""
        self._renewals += 1
        if self._renewals % TELL_EVERY_RENEWALS != 1:
            return []
        return [Ask(elector, self._seat) for elector in self._untold]

    def heard(self, elector: PeerId, reply: object) -> None:
        """One that has no seat of the job refuses, and has nothing that could be fenced."""
        knows = isinstance(reply, SeatTaken) and reply.epoch >= self._epoch
        if knows or (isinstance(reply, LeaseRefused) and reply.kind == "denied"):
            self._untold.pop(elector, None)
