"""The journal of a job: a chain of signed batches over a write-once register per task.

A batch names the term under which it was first written and is signed by that term's candidate. The first batch of a
term carries the grants of a quorum, so that a batch of a term that nobody held cannot be invented, whoever passes it
on. Each batch holds the hash of the one before; two chains that agree in one hash agree in everything before it.

A register is written once: a second batch that names a task with another digest is refused. What a quorum holds under
the holder's own term is committed, and so is all that went before (Raft §5.4.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peerinfer.codec import decode_as
from peerinfer.committee import quorum
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.messages import FAILED_TASK, Grant, JournalBatch, Manifest, Signed, Term

GENESIS = bytes(32)
"""The hash before the first batch."""

NO_TERM = Term(0, "")
OPENING = ("accepted", "takeover")
"""The first batch of every term has one of these events."""

ENDED = ("done", "failed", "cancelled")
EVENTS = ("", *OPENING, *ENDED)

DIGEST_BYTES = 16
_PAGE_TASKS = 1024
_SLOT_BYTES = DIGEST_BYTES + 4


class Divergence(Exception):
    """The batches offered do not continue this chain: offer those from `sequence` on."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"send the batches from {sequence} on")
        self.sequence = sequence


@dataclass(frozen=True, slots=True)
class Entry:
    """What a register says of one task."""

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
        slot = self._slot(task, create=False)
        if slot is None:
            return None
        number = int.from_bytes(slot[DIGEST_BYTES:], "little")
        return Entry(task, bytes(slot[:DIGEST_BYTES]), self._peers[number - 1]) if number else None

    def put(self, entry: Entry) -> None:
        """Raises `ProtocolError` if the register was written with something else."""
        known = self.get(entry.task)
        if known is not None:
            if known != entry:
                raise ProtocolError(f"task {entry.task} was written with another digest or worker")
            return
        number = self._numbers.setdefault(entry.worker, len(self._peers))
        if number == len(self._peers):
            self._peers.append(entry.worker)
        slot = self._slot(entry.task, create=True)
        assert slot is not None
        slot[:DIGEST_BYTES] = entry.digest
        slot[DIGEST_BYTES:] = (number + 1).to_bytes(4, "little")
        self.written += 1
        self.failed += not entry.worker

    def entries(self) -> Iterator[Entry]:
        for page in sorted(self._pages):
            for task in range(page * _PAGE_TASKS, (page + 1) * _PAGE_TASKS):
                entry = self.get(task)
                if entry is not None:
                    yield entry

    def _slot(self, task: int, *, create: bool) -> memoryview | None:
        page, place = divmod(task, _PAGE_TASKS)
        if page not in self._pages:
            if not create:
                return None
            self._pages[page] = bytearray(_PAGE_TASKS * _SLOT_BYTES)
        return memoryview(self._pages[page])[place * _SLOT_BYTES : (place + 1) * _SLOT_BYTES]


@dataclass(frozen=True, slots=True)
class Link:
    """One batch of a chain."""

    signed: bytes
    hash: bytes
    term: Term
    event: str


class Chain:
    """The batches that one node holds, and the register that they write."""

    def __init__(self) -> None:
        self._links: list[Link] = []
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
        """done, failed or cancelled once the job is over, else ""."""
        return self._links[-1].event if self._links and self._links[-1].event in ENDED else ""

    def link(self, sequence: int) -> Link:
        return self._links[sequence]

    def signed(self, first: int, count: int) -> tuple[bytes, ...]:
        return tuple(link.signed for link in self._links[first : first + count])

    def handovers(self) -> list[tuple[Term, JournalBatch]]:
        """The opening batch of every term."""
        return [(link.term, _payload(link.signed)) for link in self._links if link.event in OPENING]

    def hash_before(self, sequence: int) -> bytes:
        return self._links[sequence - 1].hash if sequence else GENESIS

    def take(self, signed: bytes) -> None:
        """Adds a batch that this node has stored or written itself."""
        batch = _payload(signed)
        self._add(signed, batch)

    def extend(self, manifest: Manifest, term: Term, batches: Sequence[bytes]) -> tuple[int, int]:
        """Takes batches that the holder of `term` offers; those that are here already are skipped.

        Returns (the first sequence that changed, the sequence after the last batch offered); the chain is equal to the
        holder's up to there. A suffix of lower terms is replaced. Raises `Divergence`, and `DecodeError` or
        `ProtocolError` for batches that no honest holder offers; those offered before the bad one may have been taken.
        """
        changed = len(self._links)
        matched = 0
        for signed in batches:
            author, batch = unseal(JournalBatch, signed)
            if author != batch.term.candidate:
                raise ProtocolError("a batch is signed by another than its term's candidate")
            if batch.term.order > term.order:
                raise ProtocolError("a batch is of a higher term than its holder's")
            sequence = batch.sequence
            if sequence > len(self._links):
                raise Divergence(len(self._links))
            if self.hash_before(sequence) != batch.previous:
                raise Divergence(sequence - 1)
            matched = sequence + 1
            if sequence < len(self._links):
                here = self._links[sequence]
                if here.hash == _hash(signed):
                    continue
                if here.term.order >= batch.term.order:
                    raise ProtocolError("two batches of one term stand at the same place")
                self._cut(sequence)
            self._check(manifest, batch)
            self._add(signed, batch)
            changed = min(changed, sequence)
        return changed, matched

    def _check(self, manifest: Manifest, batch: JournalBatch) -> None:
        count = len(batch.tasks)
        if len(batch.digests) != DIGEST_BYTES * count or len(batch.workers) != count:
            raise ProtocolError("a batch's tasks, digests and workers are not as many")
        if any(task >= manifest.tasks for task in batch.tasks) or len(set(batch.tasks)) != count:
            raise ProtocolError("a batch names a task that the job has not, or one twice")
        if any(worker >= len(batch.peers) and worker != FAILED_TASK for worker in batch.workers):
            raise ProtocolError("a batch names a worker that it does not list")
        if batch.event not in EVENTS:
            raise ProtocolError("a batch has an event that this version does not know")
        if self.ended:
            raise ProtocolError("nothing follows the end of a job")
        opens = batch.event in OPENING
        if opens != (batch.term != self.last_term) or (batch.event == "accepted") != (not self._links):
            raise ProtocolError("a term begins with an opening batch, and only there")
        if batch.term.order < self.last_term.order:
            raise ProtocolError("terms only grow along a journal")
        if opens:
            check_certificate(manifest, batch)

    def _add(self, signed: bytes, batch: JournalBatch) -> None:
        for entry in entries_of(batch):
            self.register.put(entry)
        self._links.append(Link(signed, _hash(signed), batch.term, batch.event))

    def _cut(self, sequence: int) -> None:
        kept = self._links[:sequence]
        self._links = []
        self.register = Register()
        for link in kept:
            self._add(link.signed, _payload(link.signed))

    def check(self) -> None:
        before = GENESIS
        for sequence, link in enumerate(self._links):
            batch = _payload(link.signed)
            assert batch.sequence == sequence, f"batch {batch.sequence} stands at {sequence}"
            assert batch.previous == before, f"batch {sequence} does not continue the chain"
            before = link.hash


def entries_of(batch: JournalBatch) -> Iterator[Entry]:
    for place, task in enumerate(batch.tasks):
        digest = batch.digests[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]
        worker = batch.workers[place]
        yield Entry(task, digest, "" if worker == FAILED_TASK else batch.peers[worker])


def check_certificate(manifest: Manifest, batch: JournalBatch) -> None:
    """Raises `ProtocolError` unless a quorum of the committee granted the batch's term."""
    granted: set[str] = set()
    for signed in batch.certificate:
        try:
            elector, grant = unseal(Grant, signed)
        except DecodeError as error:
            raise ProtocolError(f"a grant in a certificate is not valid: {error}") from None
        if (grant.job, grant.epoch, grant.term) != (batch.job, batch.epoch, batch.term):
            raise ProtocolError("a grant in a certificate is for something else")
        if elector in manifest.committee:
            granted.add(elector)
    needed = quorum(len(manifest.committee), manifest.byzantine)
    if len(granted) < needed:
        raise ProtocolError(f"a certificate has {len(granted)} grants of the committee, {needed} are needed")


def _payload(signed: bytes) -> JournalBatch:
    return decode_as(JournalBatch, decode_as(Signed, signed).payload)


def _hash(signed: bytes) -> bytes:
    return hashlib.sha256(decode_as(Signed, signed).payload).digest()
