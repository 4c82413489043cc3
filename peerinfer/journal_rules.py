"""What a batch must be like to stand in a journal, and to follow the batch before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.committees import COMMITTEE, Seated, check_next, first_committee
from peerinfer.errors import ProtocolError
from peerinfer.lease_certificate import check_grants
from peerinfer.lease_messages import FAILED_TASK, JournalBatch
from peerinfer.messages import Manifest, Term
from peerinfer.register import DIGEST_BYTES

GENESIS = bytes(32)
"""The hash before the first batch."""

NO_TERM = Term(0, "")
OPENING = ("accepted", "takeover")
"""The first batch of every term has one of these events."""

DONE = "done"
"""Every task is written. An elector takes nobody's word for it."""

ENDED = (DONE, "failed", "cancelled")
CHECKPOINT = "checkpoint"
"""Everything before is committed, and its snapshot has the hash that the batch states."""

PRIORITY = "priority"
"""The owner has changed the job's priority: see `job_priority`."""

EVENTS = ("", COMMITTEE, PRIORITY, CHECKPOINT, *OPENING, *ENDED)
MILESTONES = (*OPENING, PRIORITY)
"""What stays to be known of batches that were given up for a snapshot."""


@dataclass(frozen=True, slots=True)
class Link:
    """One batch of a chain."""

    signed: bytes
    hash: bytes
    term: Term
    event: str
    epoch: int = 0
    is_closing: bool = False
    """The next committee has been named in this epoch: nothing follows but who took over, and the next epoch."""
    at_s: float = 0.0

    @classmethod
    def after(cls, before: Link | None, signed: bytes, digest: bytes, batch: JournalBatch) -> Link:
        goes_on = before is not None and before.is_closing and before.epoch == batch.epoch
        is_closing = batch.event == COMMITTEE or goes_on
        return cls(signed, digest, batch.term, batch.event, batch.epoch, is_closing, batch.at_s)


def check_form(batch: JournalBatch) -> None:
    count = len(batch.tasks)
    if len(batch.digests) != DIGEST_BYTES * count or len(batch.workers) != count:
        raise ProtocolError("a batch's tasks, digests and workers are not as many")
    if len(set(batch.tasks)) != count:
        raise ProtocolError("a batch names a task twice")
    if any(worker >= len(batch.peers) and worker != FAILED_TASK for worker in set(batch.workers)):
        raise ProtocolError("a batch names a worker that it does not list")
    if "" in batch.peers:
        raise ProtocolError("a batch lists a worker without a name")
    if batch.event not in EVENTS:
        raise ProtocolError("a batch has an event that this version does not know")
    if not batch.tasks and not batch.event:
        raise ProtocolError("a batch says nothing")
    if (batch.event == COMMITTEE) != bool(batch.committee) or (batch.committee and batch.tasks):
        raise ProtocolError("a batch names a committee or tasks, and says so")
    if (batch.event == CHECKPOINT) != bool(batch.state) or (batch.state and (batch.tasks or len(batch.state) != 32)):
        raise ProtocolError("a batch states a snapshot's hash or names tasks, and says so")


def check(
    manifest: Manifest, batch: JournalBatch, link: Link | None, committees: Sequence[Seated], *, ended: bool
) -> None:
    """Raises `ProtocolError` unless the batch may follow `link`."""
    known = committees or (first_committee(manifest),)
    first = known[0].epoch
    before = link.term if link else NO_TERM
    epoch = link.epoch if link else first
    check_form(batch)
    if batch.tasks and max(batch.tasks) >= manifest.tasks:
        raise ProtocolError("a batch names a task that the job has not")
    if batch.term.order < before.order:
        raise ProtocolError("terms only grow along a journal")
    opens = batch.event in OPENING
    if opens != (batch.term != before) or (batch.event == "accepted") != (batch.sequence == 0):
        raise ProtocolError("a term begins with an opening batch, and only there")
    if ended and (not opens or batch.tasks):
        raise ProtocolError("nothing follows the end of a job but who took it over")
    if batch.epoch != epoch and not (
        batch.epoch == epoch + 1 and opens and link is not None and link.event == COMMITTEE
    ):
        raise ProtocolError("an epoch begins with an opening batch, after the change of the committee")
    if link is not None and link.is_closing and (not opens or batch.tasks):
        raise ProtocolError("nothing follows the end of an epoch but who took over, and the next epoch")
    if batch.epoch - first >= len(known):
        raise ProtocolError(f"a batch is of epoch {batch.epoch}, whose committee is not known")
    if batch.event == COMMITTEE:
        check_next(known[batch.epoch - first], batch.committee)
    if opens:
        electors = known[batch.epoch - first].electors
        check_grants(electors, manifest.byzantine, batch.job, batch.epoch, batch.term, batch.certificate)
