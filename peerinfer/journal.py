"""The journal of a job: a chain of signed batches over a write-once register per task.

A batch names the term under which it was first written and is signed by that term's candidate. The first batch of a
term carries the grants of a quorum, so that a batch of a term that nobody held cannot be invented, whoever passes it
on. Each batch holds the hash of the one before; two chains that agree in one hash agree in everything before it.

A register is written once: no chain names a task twice. What a quorum holds under the holder's own term is committed,
and so is all that went before (Raft §5.4.2). Whoever accepts batches from the holder of a term gives up what differs
from them, unless it is of that same term: the holder has read a quorum, so what differs was never committed. That
includes batches of a *higher* term than those that replace them, as in Raft.

A job that has ended may still be taken over, by opening batches alone: this is how the end of a holder that died while
it wrote it becomes final.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from peerinfer.codec import decode_as
from peerinfer.committees import COMMITTEE, Seated, check_next, first_committee
from peerinfer.envelope import unseal
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId
from peerinfer.lease_certificate import check_grants
from peerinfer.lease_messages import (
    FAILED_TASK,
    JournalBatch,
)
from peerinfer.limits import JOURNAL_BATCHES_PER_MESSAGE_MAX, JOURNAL_MESSAGE_BYTES_MAX
from peerinfer.messages import (
    Manifest,
    Signed,
    Term,
)

GENESIS = bytes(32)
"""The hash before the first batch."""

NO_TERM = Term(0, "")
OPENING = ("accepted", "takeover")
"""The first batch of every term has one of these events."""

ENDED = ("done", "failed", "cancelled")
PRIORITY = "priority"
"""The owner has changed the job's priority: see `job_priority`."""

EVENTS = ("", COMMITTEE, PRIORITY, *OPENING, *ENDED)

DIGEST_BYTES = 16
_PAGE_TASKS = 1024
_SLOT_BYTES = DIGEST_BYTES + 4
_EMPTY = bytes(_SLOT_BYTES)
_NOBODY = bytes(4)


class Divergence(Exception):
    """The batches offered do not continue this chain: offer those from `sequence` on."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"send the batches from {sequence} on")
        self.sequence = sequence


class Entry(NamedTuple):
    """What a register says of one task. A tuple, since a busy coordinator makes tens of thousands each second."""

    task: int
    digest: bytes
    worker: str
    """Peer id of who computed it; "" if the task failed for good."""


class Register:
    """Digest and worker of every written task: 20 bytes each, allocated by pages of 1,024 tasks."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._peers: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self.written = 0
        self.failed = 0

    def get(self, task: int) -> Entry | None:
        slot = self._slot(task)
        number = int.from_bytes(slot[DIGEST_BYTES:], "little")
        return Entry(task, slot[:DIGEST_BYTES], self._peers[number - 1]) if number else None

    def __contains__(self, task: int) -> bool:
        return self._slot(task)[DIGEST_BYTES:] != _NOBODY

    def put(self, entry: Entry) -> None:
        page, place = divmod(entry.task, _PAGE_TASKS)
        slots = self._pages.get(page)
        if slots is None:
            slots = self._pages[page] = bytearray(_PAGE_TASKS * _SLOT_BYTES)
        number = self._number(entry.worker)
        at = place * _SLOT_BYTES
        assert slots[at + DIGEST_BYTES : at + _SLOT_BYTES] == _NOBODY, f"task {entry.task} is written already"
        slots[at : at + _SLOT_BYTES] = entry.digest + (number + 1).to_bytes(4, "little")
        self.written += 1
        self.failed += not entry.worker

    def put_all(self, batch: JournalBatch) -> None:
        """Every entry of a batch of good form, page by page."""
        tasks = np.array(batch.tasks, np.int64)
        numbers = [self._number(peer) for peer in batch.peers]
        chosen = np.array([0 if worker == FAILED_TASK else numbers[worker] for worker in batch.workers], np.uint32)
        rows = np.empty((len(tasks), _SLOT_BYTES), np.uint8)
        rows[:, :DIGEST_BYTES] = np.frombuffer(batch.digests, np.uint8).reshape(-1, DIGEST_BYTES)
        rows[:, DIGEST_BYTES:] = (chosen + 1).astype("<u4").view(np.uint8).reshape(-1, 4)
        pages = tasks // _PAGE_TASKS
        for page in np.unique(pages):
            slots = self._pages.setdefault(int(page), bytearray(_PAGE_TASKS * _SLOT_BYTES))
            table = np.frombuffer(slots, np.uint8).reshape(_PAGE_TASKS, _SLOT_BYTES)
            here = pages == page
            places = tasks[here] % _PAGE_TASKS
            assert not table[places, DIGEST_BYTES:].any(), f"a task of page {page} is written already"
            table[places] = rows[here]
        self.written += len(tasks)
        self.failed += int((chosen == 0).sum())

    def holds_any(self, tasks: Sequence[int]) -> bool:
        """Whether one of the tasks is written."""
        wanted = np.array(tasks, np.int64)
        pages = wanted // _PAGE_TASKS
        for page in np.unique(pages):
            slots = self._pages.get(int(page))
            if slots is not None:
                table = np.frombuffer(slots, np.uint8).reshape(_PAGE_TASKS, _SLOT_BYTES)
                if table[wanted[pages == page] % _PAGE_TASKS, DIGEST_BYTES:].any():
                    return True
        return False

    def _number(self, peer: str) -> int:
        number = self._numbers.setdefault(peer, len(self._peers))
        if number == len(self._peers):
            self._peers.append(peer)
        return number

    def erase(self, task: int) -> None:
        entry = self.get(task)
        assert entry is not None, f"task {task} is not written"
        page, place = divmod(task, _PAGE_TASKS)
        self._pages[page][place * _SLOT_BYTES : (place + 1) * _SLOT_BYTES] = _EMPTY
        self.written -= 1
        self.failed -= not entry.worker

    def entries(self) -> Iterator[Entry]:
        for page in sorted(self._pages):
            for task in range(page * _PAGE_TASKS, (page + 1) * _PAGE_TASKS):
                entry = self.get(task)
                if entry is not None:
                    yield entry

    def _slot(self, task: int) -> bytes:
        page, place = divmod(task, _PAGE_TASKS)
        slots = self._pages.get(page)
        return _EMPTY if slots is None else bytes(slots[place * _SLOT_BYTES : (place + 1) * _SLOT_BYTES])


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

    @classmethod
    def after(cls, before: Link | None, signed: bytes, digest: bytes, batch: JournalBatch) -> Link:
        goes_on = before is not None and before.is_closing and before.epoch == batch.epoch
        is_closing = batch.event == COMMITTEE or goes_on
        return cls(signed, digest, batch.term, batch.event, batch.epoch, is_closing)


class Chain:
    """The batches that one node holds, and the register that they write."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._end = 0
        self.register = Register()

    def __len__(self) -> int:
        return len(self._links)

    @property
    def head(self) -> bytes:
        return self._links[-1].hash if self._links else GENESIS

    @property
    def last_term(self) -> Term:
        return self._links[-1].term if self._links else NO_TERM

    @property
    def ended(self) -> str:
        """done, failed or cancelled once a batch says that the job is over, else "". Final only once committed."""
        return self._links[self._end - 1].event if self._end else ""

    @property
    def end(self) -> int:
        """How many batches there are up to the job's end, that one included; 0 while it goes on."""
        return self._end

    @property
    def change(self) -> int:
        """How many batches there are up to the one that names the next committee, it included; 0 if none is named."""
        if not self._links or not self._links[-1].is_closing:
            return 0
        sequence = len(self._links)
        while self._links[sequence - 1].event != COMMITTEE:
            sequence -= 1
        return sequence

    def holds(self, count: int, head: bytes) -> bool:
        """True if the chain has `count` batches that end with this hash, or more after them."""
        return len(self._links) >= count and self.hash_before(count) == head

    def epoch_at(self, sequence: int) -> int:
        """Of this batch, or of the last one if there are fewer."""
        return self._links[min(sequence, len(self._links) - 1)].epoch if self._links else 0

    def cut(self, count: int) -> None:
        """Gives up everything after the first `count` batches."""
        self._cut(count)

    def link(self, sequence: int) -> Link:
        return self._links[sequence]

    def batch(self, sequence: int) -> JournalBatch:
        return _payload(self._links[sequence].signed)

    def signed(self, first: int, count: int) -> tuple[bytes, ...]:
        return tuple(link.signed for link in self._links[first : first + count])

    def part(self, first: int) -> tuple[bytes, ...]:
        """As many batches from `first` on as one message may carry; none past the end."""
        found: list[bytes] = []
        size = 0
        for link in self._links[first : first + JOURNAL_BATCHES_PER_MESSAGE_MAX]:
            size += len(link.signed)
            if found and size > JOURNAL_MESSAGE_BYTES_MAX:
                break
            found.append(link.signed)
        return tuple(found)

    def handovers(self) -> list[tuple[Term, JournalBatch]]:
        """The opening batch of every term."""
        return [(link.term, _payload(link.signed)) for link in self._links if link.event in OPENING]

    def details(self, event: str) -> list[str]:
        """What every batch with this event says beside it."""
        return [_payload(link.signed).detail for link in self._links if link.event == event]

    def certificate(self, term: Term) -> tuple[bytes, ...]:
        """The grants that made `term` its holder's; none if the chain does not know that term."""
        for link in reversed(self._links):
            if link.term == term and link.event in OPENING:
                return _payload(link.signed).certificate
        return ()

    def hash_before(self, sequence: int) -> bytes:
        return self._links[sequence - 1].hash if sequence else GENESIS

    def take(self, signed: bytes) -> None:
        """Adds a batch that this node has stored or written itself.

        Raises `DecodeError` or `ProtocolError` if it is damaged or does not continue the chain; the chain stays as it is.
        """
        digest, batch = _opened(signed)
        if batch.sequence != len(self._links) or batch.previous != self.head:
            raise ProtocolError(f"batch {batch.sequence} does not continue a chain of {len(self._links)}")
        _check_form(batch)
        if self.register.holds_any(batch.tasks):
            raise ProtocolError("a batch writes a task that is written already")
        self._add(Link.after(self._links[-1] if self._links else None, signed, digest, batch), batch)

    def extend(
        self,
        job: JobId,
        manifest: Manifest,
        term: Term,
        batches: Sequence[bytes],
        *,
        floor: int = 0,
        committees: Sequence[Seated] = (),
    ) -> tuple[int, int]:
        """Takes batches that the holder of `term` offers; those that are here already are skipped.

        Returns (the first sequence that changed, the sequence after the last batch offered); the chain is equal to the
        holder's up to there. What differs from the batches is given up if it is of terms below `term` and not among the
        first `floor` batches. `committees`: of every epoch, where there was more than the first. Raises `Divergence`, and
        `DecodeError` or `ProtocolError` for batches that no honest holder offers; the chain is then as it was.
        """
        kept = len(self._links)
        place: int | None = None
        fresh: list[tuple[Link, JournalBatch]] = []
        for signed in batches:
            digest, batch = _opened(signed)
            if place is None:
                place = self._joint(batch)
            if batch.sequence != place or batch.previous != (fresh[-1][0].hash if fresh else self.hash_before(place)):
                raise ProtocolError("the batches offered do not follow each other")
            place += 1
            if not fresh and batch.sequence < len(self._links):
                if self._links[batch.sequence].hash == digest:
                    continue
                kept = batch.sequence
                if self.last_term.order >= term.order or kept < floor:
                    raise ProtocolError(f"batch {kept} is another one here, and stays")
            author, _ = unseal(JournalBatch, signed)
            if author != batch.term.candidate:
                raise ProtocolError("a batch is signed by another than its term's candidate")
            if batch.job != job or batch.term.order > term.order:
                raise ProtocolError("a batch is of another job, or of a higher term than its holder's")
            before = fresh[-1][0] if fresh else self._links[kept - 1] if kept else None
            ended = 0 < self._end <= kept or any(link.event in ENDED for link, _ in fresh)
            _check(manifest, batch, before, committees, ended=ended)
            fresh.append((Link.after(before, signed, digest, batch), batch))
        self._check_written_once(kept, [batch for _, batch in fresh])
        if fresh:
            self._cut(kept)
            for link, batch in fresh:
                self._add(link, batch)
        return (kept if fresh else len(self._links)), place or 0

    def copy(self) -> Chain:
        """A chain of its own, for somebody who writes on it; the batches are shared."""
        other = Chain()
        for link in self._links:
            other._add(link, _payload(link.signed))
        return other

    def _joint(self, batch: JournalBatch) -> int:
        """Where the batches offered join the chain."""
        place = batch.sequence
        if place > len(self._links):
            raise Divergence(len(self._links))
        if self.hash_before(place) != batch.previous:
            if place == 0:
                raise ProtocolError("a first batch that continues something")
            raise Divergence(self._term_start(place - 1))
        return place

    def _term_start(self, sequence: int) -> int:
        """The first batch of the term that `sequence` is of: what differs there may differ from there on."""
        term = self._links[sequence].term
        while sequence and self._links[sequence - 1].term == term:
            sequence -= 1
        return sequence

    def _check_written_once(self, kept: int, fresh: Sequence[JournalBatch]) -> None:
        given_up: set[int] = set()
        for link in self._links[kept:]:
            given_up.update(_payload(link.signed).tasks)
        seen: set[int] = set()
        for batch in fresh:
            still_written = [task for task in batch.tasks if task not in given_up] if given_up else batch.tasks
            if not seen.isdisjoint(batch.tasks) or self.register.holds_any(still_written):
                raise ProtocolError("a batch writes a task that is written already")
            seen.update(batch.tasks)

    def _add(self, link: Link, batch: JournalBatch) -> None:
        if batch.tasks:
            self.register.put_all(batch)
        self._links.append(link)
        if link.event in ENDED and not self._end:
            self._end = len(self._links)

    def _cut(self, sequence: int) -> None:
        for link in self._links[sequence:]:
            for task in _payload(link.signed).tasks:
                self.register.erase(task)
        del self._links[sequence:]
        if self._end > sequence:
            self._end = 0

    def check(self) -> None:
        before = GENESIS
        written = 0
        for sequence, link in enumerate(self._links):
            digest, batch = _opened(link.signed)
            assert batch.sequence == sequence, f"batch {batch.sequence} stands at {sequence}"
            assert batch.previous == before, f"batch {sequence} does not continue the chain"
            assert digest == link.hash, f"batch {sequence} has another hash"
            for entry in entries_of(batch):
                assert self.register.get(entry.task) == entry, f"task {entry.task} is not as batch {sequence} wrote it"
            written += len(batch.tasks)
            before = link.hash
        assert written == self.register.written, f"{self.register.written} tasks written, {written} in the batches"


def _check_form(batch: JournalBatch) -> None:
    count = len(batch.tasks)
    if len(batch.digests) != DIGEST_BYTES * count or len(batch.workers) != count:
        raise ProtocolError("a batch's tasks, digests and workers are not as many")
    if len(set(batch.tasks)) != count:
        raise ProtocolError("a batch names a task twice")
    if any(worker >= len(batch.peers) and worker != FAILED_TASK for worker in batch.workers):
        raise ProtocolError("a batch names a worker that it does not list")
    if "" in batch.peers:
        raise ProtocolError("a batch lists a worker without a name")
    if batch.event not in EVENTS:
        raise ProtocolError("a batch has an event that this version does not know")
    if not batch.tasks and not batch.event:
        raise ProtocolError("a batch says nothing")
    if (batch.event == COMMITTEE) != bool(batch.committee) or (batch.committee and batch.tasks):
        raise ProtocolError("a batch names a committee or tasks, and says so")


def _check(
    manifest: Manifest, batch: JournalBatch, link: Link | None, committees: Sequence[Seated], *, ended: bool
) -> None:
    """Raises `ProtocolError` unless the batch may follow `link`."""
    known = committees or (first_committee(manifest),)
    first = known[0].epoch
    before = link.term if link else NO_TERM
    epoch = link.epoch if link else first
    _check_form(batch)
    if any(task >= manifest.tasks for task in batch.tasks):
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


def entries_of(batch: JournalBatch) -> Iterator[Entry]:
    for place, task in enumerate(batch.tasks):
        digest = batch.digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]
        worker = batch.workers[place]
        yield Entry(task, digest, "" if worker == FAILED_TASK else batch.peers[worker])


def _opened(signed: bytes) -> tuple[bytes, JournalBatch]:
    """The hash of a batch, and the batch. The signature is not looked at."""
    payload = decode_as(Signed, signed).payload
    return hashlib.sha256(payload).digest(), decode_as(JournalBatch, payload)


def _payload(signed: bytes) -> JournalBatch:
    return _opened(signed)[1]
