"""A job's priority after it was submitted: its owner's signed word, kept in the job's journal.

The manifest says nothing of priority, so that it may change. Whoever coordinates writes the owner's statement into the
journal as an event of its own, and goes by it as soon as a quorum has it; whoever takes over finds it there. Of several
statements the one with the highest number counts, whatever their order, so that no coordinator can bring an older one
back. What is not the owner's is passed over.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from peerinfer.codec import message, text, uint, wire
from peerinfer.envelope import Sign, seal, unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.fairness import Priority
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import PRIORITY
from peerinfer.limits import PRIORITY_CHANGES_MAX

WRITTEN, ENDED = "priority_written", "ended"
"""Fields of what an elector says of its journal: the number of the statement that counts there; whether the job is over."""


@message(47)
class JobPriority:
    """From a job's submitter: from now on it has this priority."""

    job: str = wire(text(64))
    sequence: int = wire(uint(48))
    """Wall-clock milliseconds of the submitter, or more: grows with every change."""
    priority: int = wire(uint(8))
    """As in JobBrief."""

    @property
    def word(self) -> str:
        return Priority(self.priority).name.lower()


def stated(job: JobId, word: str, wall_s: float, before: JobPriority | None, owner: PeerId, sign: Sign) -> bytes:
    """A signed statement that counts more than the one `before` it."""
    sequence = max(round(wall_s * 1000), before.sequence + 1 if before else 0)
    return seal(JobPriority(job, sequence, Priority[word.upper()]), owner, sign)


def opened(signed: bytes, job: JobId, owner: PeerId) -> JobPriority:
    """Raises `ProtocolError` for anything but the owner's word on this job."""
    try:
        _, statement = unseal(JobPriority, signed, signer=owner)
    except DecodeError as error:
        raise ProtocolError(f"only its owner changes a job's priority: {error}") from None
    if statement.job != job or statement.priority > Priority.LOW:
        raise ProtocolError("the statement is about another job, or a priority that there is not")
    return statement


def detail_of(signed: bytes) -> str:
    """How a statement stands in a batch."""
    return base64.b64encode(signed).decode()


def in_batch(detail: str, job: JobId, owner: PeerId) -> JobPriority | None:
    """The statement that a batch carries; None if it is not the owner's."""
    try:
        return opened(base64.b64decode(detail, validate=True), job, owner)
    except (ValueError, ProtocolError):
        return None


def newest(chain: Chain, job: JobId, owner: PeerId) -> JobPriority | None:
    """The statement that counts, of all in a journal."""
    found = [statement for detail in chain.details(PRIORITY) if (statement := in_batch(detail, job, owner))]
    return max(found, key=lambda statement: statement.sequence, default=None)


def told(chain: Chain | None, job: JobId, owner: PeerId) -> dict[str, object]:
    """What an elector says of its journal to an owner that changes the priority."""
    statement = newest(chain, job, owner) if chain is not None else None
    return {WRITTEN: statement.sequence if statement else 0, ENDED: bool(chain is not None and chain.ended)}


class Tally:
    """What electors have told of their journals. One of them alone may be lying."""

    def __init__(self, electors: Sequence[str], quorum: int, sequence: int) -> None:
        self._electors = electors
        self._quorum = quorum
        self._sequence = sequence
        self._written: dict[str, None] = {}
        self._ended: dict[str, None] = {}

    def count(self, elector: str, said: Mapping[str, object]) -> None:
        if elector not in self._electors:
            return
        written = said.get(WRITTEN)
        if isinstance(written, int) and written >= self._sequence:
            self._written[elector] = None
        if said.get(ENDED) is True:
            self._ended[elector] = None

    @property
    def is_written(self) -> bool:
        """A quorum has this statement, or a later one."""
        return len(self._written) >= self._quorum

    @property
    def is_ended(self) -> bool:
        return len(self._ended) >= self._quorum


def check_room(chain: Chain) -> None:
    """Raises `ProtocolError` if the journal has taken as many changes as it takes."""
    if len(chain.details(PRIORITY)) >= PRIORITY_CHANGES_MAX:
        raise ProtocolError(f"the priority of a job may be changed {PRIORITY_CHANGES_MAX} times, and it was")
