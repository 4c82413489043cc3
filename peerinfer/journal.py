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

from peerinfer import snapshots
from peerinfer.codec import decode_as, encode
from peerinfer.committees import COMMITTEE, Seated
from peerinfer.envelope import Sign, author_of
from peerinfer.envelope import signed as sealed
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal_base import Base, vouched_for
from peerinfer.journal_rules import (
    CHECKPOINT,
    DONE,
    ENDED,
    GENESIS,
    NO_TERM,
    OPENING,
    Link,
    check,
    check_form,
)
from peerinfer.lease_messages import (
    FAILED_TASK,
    JournalBatch,
    JournalState,
)
from peerinfer.limits import (
    JOB_TASKS_MAX,
    JOURNAL_BATCH_OVERHEAD_BYTES,
    JOURNAL_BATCHES_PER_MESSAGE_MAX,
    JOURNAL_MESSAGE_BYTES_MAX,
    JOURNAL_TAIL_BYTES,
)
from peerinfer.messages import Manifest, Signed, Term
from peerinfer.register import DIGEST_BYTES, Entry, Register


class Divergence(Exception):
    """The batches offered do not continue this chain: offer those from `sequence` on."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"send the batches from {sequence} on")
        self.sequence = sequence


class Chain:
    """The batches that one node holds, those before `base` as a snapshot alone, and the register that they write."""

    def __init__(self, tasks: int = JOB_TASKS_MAX) -> None:
        """`tasks`: the job's, where they are known: no more are made room for."""
        self._links: list[Link] = []
        """From `base` on."""
        self._base = Base()
        self._checkpoints: list[int] = []
        """Of the batches from the base on."""
        self._tail_bytes = 0
        self._end = 0
        self.register = Register(tasks)

    def __len__(self) -> int:
        return self._base.sequence + len(self._links)

    @property
    def base(self) -> int:
        """The first batch that is here; those before were given up for a snapshot."""
        return self._base.sequence

    @property
    def _last(self) -> Link | None:
        return self._links[-1] if self._links else self._base.last

    @property
    def head(self) -> bytes:
        return self._last.hash if self._last else GENESIS

    @property
    def last_term(self) -> Term:
        return self._last.term if self._last else NO_TERM

    @property
    def last_at_s(self) -> float:
        """When the last batch was written, by the clock of who wrote it; 0 if there is none."""
        return self._last.at_s if self._last else 0.0

    @property
    def ended(self) -> str:
        """done, failed or cancelled once a batch says that the job is over, else "". Final only once committed."""
        return self.link(self._end - 1).event if self._end else ""

    @property
    def end(self) -> int:
        """How many batches there are up to the job's end, that one included; 0 while it goes on."""
        return self._end

    @property
    def change(self) -> int:
        """How many batches there are up to the one that names the next committee, it included; 0 if none is named."""
        if self._last is None or not self._last.is_closing:
            return 0
        sequence = len(self)
        while self.link(sequence - 1).event != COMMITTEE:
            sequence -= 1
        return sequence

    def holds(self, count: int, head: bytes) -> bool:
        """True if the chain has `count` batches that end with this hash, or more after them.

        What was given up for a snapshot was committed, and so is whatever is asked for here.
        """
        return count < self.base or (len(self) >= count and self.hash_before(count) == head)

    def epoch_at(self, sequence: int) -> int:
        """Of this batch, or of the last one if there are fewer."""
        if self._base.last is not None and (sequence < self.base or not self._links):
            return self._base.last.epoch
        return self.link(min(sequence, len(self) - 1)).epoch if self._links else 0

    def cut(self, count: int) -> None:
        """Gives up everything after the first `count` batches."""
        self._cut(count)

    def link(self, sequence: int) -> Link:
        """One that is here, not before the base."""
        assert sequence >= self.base, f"batch {sequence} was given up, those from {self.base} on are here"
        return self._links[sequence - self.base]

    def term_of(self, sequence: int) -> Term:
        """Of this batch; of those before the base, that of the last one."""
        if sequence < self.base and self._base.last is not None:
            return self._base.last.term
        return self.link(sequence).term

    def batch(self, sequence: int) -> JournalBatch:
        return _payload(self.link(sequence).signed)

    def signed(self, first: int, count: int) -> tuple[bytes, ...]:
        """As far as they are here."""
        start, stop = max(first - self.base, 0), max(first + count - self.base, 0)
        return tuple(link.signed for link in self._links[start:stop])

    def part(self, first: int) -> tuple[bytes, ...]:
        """As many batches from `first` on as one message may carry; none past the end, and none before the base."""
        if first < self.base:
            return ()
        found: list[bytes] = []
        size = 0
        place = first - self.base
        for link in self._links[place : place + JOURNAL_BATCHES_PER_MESSAGE_MAX]:
            size += len(link.signed)
            if found and size > JOURNAL_MESSAGE_BYTES_MAX:
                break
            found.append(link.signed)
        return tuple(found)

    def handovers(self) -> list[tuple[Term, JournalBatch]]:
        """The opening batch of every term."""
        opened = [_payload(signed) for signed in self._told(OPENING)]
        return [(batch.term, batch) for batch in opened]

    def details(self, event: str) -> list[str]:
        """What every batch with this event says beside it."""
        return [_payload(signed).detail for signed in self._told((event,))]

    def _told(self, events: Sequence[str]) -> list[bytes]:
        """Every batch with one of these events, those that a snapshot has kept included."""
        kept = [signed for signed in self._base.milestones if _payload(signed).event in events]
        return kept + [link.signed for link in self._links if link.event in events]

    def certificate(self, term: Term) -> tuple[bytes, ...]:
        """The grants that made `term` its holder's; none if the chain does not know that term."""
        for signed in reversed(self._told(OPENING)):
            batch = _payload(signed)
            if batch.term == term:
                return batch.certificate
        return ()

    def hash_before(self, sequence: int) -> bytes:
        """b"" where that is not known any more."""
        if sequence <= self.base:
            return self._base.head if sequence == self.base else b""
        return self.link(sequence - 1).hash

    # --- snapshots ---------------------------------------------------------------------------------------------------

    @property
    def is_long(self) -> bool:
        """There are so many batches that a snapshot takes less room."""
        since = self._checkpoints[-1] + 1 if self._checkpoints else 0
        return since < len(self) and self._tail_bytes > max(
            JOURNAL_TAIL_BYTES, self.register.written * (DIGEST_BYTES + 4) // 4
        )

    def state(self) -> bytes | None:
        """The snapshot of all that is here, for a checkpoint that follows; None if it would be too large."""
        return self._base.followed_by(self._links).packed(self.register)

    def snapshot(self) -> snapshots.Snapshot | None:
        """Of what is before the base; None while nothing is."""
        if not self.base:
            return None
        register = self.register.copy()
        for link in self._links:
            register.erase(_payload(link.signed).tasks)
        data = self._base.packed(register)
        assert data is not None, "a snapshot became too large behind its checkpoint"
        return snapshots.Snapshot(data, self._base.checkpoint)

    def compact(self, known: int) -> bool:
        """Gives up what is before the last checkpoint among the first `known` batches; False if there is none."""
        for sequence in reversed(self._checkpoints):
            if self.base < sequence < known:
                count = sequence - self.base
                self._base = self._base.followed_by(self._links[:count], self.link(sequence).signed)
                self._tail_bytes -= sum(map(_size, self._links[:count]))
                del self._links[:count]
                self._checkpoints = [one for one in self._checkpoints if one >= sequence]
                return True
        return False

    def install(
        self,
        job: JobId,
        manifest: Manifest,
        term: Term,
        taken: snapshots.Snapshot,
        *,
        floor: int = 0,
        committees: Sequence[Seated] = (),
    ) -> bool:
        """Begins with a snapshot in place of what is here, and the checkpoint that vouches for it.

        False, and nothing is changed, where all of it is here. Raises `DecodeError` or `ProtocolError` unless the
        checkpoint is of a term that a quorum granted, not above `term`, and nothing final (`floor`) is lost; the chain is
        then as it was.
        """
        state, register = vouched_for(job, manifest, term, taken, committees)
        if self.last_term.order > term.order:
            raise ProtocolError("a snapshot takes the place of a higher term than its holder's")
        if self.holds(state.sequence, state.head) and len(self) > state.sequence:
            return False
        if state.sequence < max(floor, self.base):
            raise ProtocolError(f"a snapshot of {state.sequence} batches, and more are final here")
        self._begin_with(state, register, taken.checkpoint)
        return True

    def restore(self, taken: snapshots.Snapshot, tasks: int) -> None:
        """As it was stored. Raises `DecodeError` or `ProtocolError` if it is damaged."""
        _, batch = _opened(taken.checkpoint)
        state, register = snapshots.unpacked(taken.data, tasks)
        if batch.state != snapshots.digest(taken.data) or batch.sequence != state.sequence:
            raise ProtocolError("a snapshot is not as it was written")
        self._begin_with(state, register, taken.checkpoint)
        self._drop_tail()

    def _begin_with(self, state: JournalState, register: Register, checkpoint: bytes) -> None:
        self._links, self._checkpoints, self._tail_bytes, self._end = [], [], 0, 0
        self._base, self.register = Base.of(state, checkpoint), register
        digest, batch = _opened(checkpoint)
        self._add(Link.after(self._last, checkpoint, digest, batch), batch, is_checked=True)

    def _drop_tail(self) -> None:
        """What follows a stored snapshot is stored as well."""
        self._links, self._checkpoints, self._tail_bytes = [], [], 0

    # --- batches -----------------------------------------------------------------------------------------------------

    def take(self, signed: bytes) -> None:
        """Adds a batch that this node has stored or written itself.

        Raises `DecodeError` or `ProtocolError` if it is damaged or does not continue the chain; the chain stays as it is.
        """
        digest, batch = _opened(signed)
        self._continue(signed, digest, batch)

    def write(self, batch: JournalBatch, own: PeerId, sign: Sign) -> None:
        """Adds a batch of this node's own. Raises `ProtocolError` like `take`."""
        statement = sealed(batch, own, sign)
        self._continue(encode(statement), hashlib.sha256(statement.payload).digest(), batch)

    def _continue(self, signed: bytes, digest: bytes, batch: JournalBatch) -> None:
        if batch.sequence != len(self) or batch.previous != self.head:
            raise ProtocolError(f"batch {batch.sequence} does not continue a chain of {len(self)}")
        check_form(batch)
        self._add(Link.after(self._last, signed, digest, batch), batch, is_checked=True)

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
        kept = len(self)
        place: int | None = None
        fresh: list[tuple[Link, JournalBatch]] = []
        for signed in batches:
            statement = decode_as(Signed, signed)
            digest, batch = hashlib.sha256(statement.payload).digest(), decode_as(JournalBatch, statement.payload)
            if place is None and batch.sequence < self.base:
                continue  # Final, here and there.
            if place is None:
                place = self._joint(batch)
            if batch.sequence != place or batch.previous != (fresh[-1][0].hash if fresh else self.hash_before(place)):
                raise ProtocolError("the batches offered do not follow each other")
            place += 1
            if not fresh and batch.sequence < len(self):
                if self.link(batch.sequence).hash == digest:
                    continue
                kept = batch.sequence
                if self.last_term.order >= term.order or kept < floor:
                    raise ProtocolError(f"batch {kept} is another one here, and stays")
            if author_of(JournalBatch, statement) != batch.term.candidate:
                raise ProtocolError("a batch is signed by another than its term's candidate")
            if batch.job != job or batch.term.order > term.order:
                raise ProtocolError("a batch is of another job, or of a higher term than its holder's")
            before = fresh[-1][0] if fresh else self._link_before(kept)
            ended = 0 < self._end <= kept or any(link.event in ENDED for link, _ in fresh)
            check(manifest, batch, before, committees, ended=ended)
            fresh.append((Link.after(before, signed, digest, batch), batch))
        if place is None and batches:
            raise Divergence(self.base)
        if fresh:
            self._replace(kept, fresh, manifest.tasks)
        return (kept if fresh else len(self)), place or 0

    def _replace(self, kept: int, fresh: Sequence[tuple[Link, JournalBatch]], tasks: int) -> None:
        given_up, names = self._links[kept - self.base :], self.register.names
        self._cut(kept)
        try:
            for link, batch in fresh:
                self._add(link, batch)
            if self.register.written < tasks and any(link.event == DONE for link, _ in fresh):
                raise ProtocolError(f"a job is said to be done with {self.register.written} of {tasks} tasks written")
        except ProtocolError:
            self._cut(kept)
            for link in given_up:
                self._add(link, _payload(link.signed), is_checked=True)
            self.register.forget_names(names)
            raise

    def _link_before(self, sequence: int) -> Link | None:
        return self._base.last if sequence == self.base else self.link(sequence - 1)

    def copy(self) -> Chain:
        """A chain of its own, for somebody who writes on it; the batches are shared."""
        other = Chain()
        other._links, other.register = list(self._links), self.register.copy()
        other._base, other._checkpoints = self._base, list(self._checkpoints)
        other._tail_bytes, other._end = self._tail_bytes, self._end
        return other

    def _joint(self, batch: JournalBatch) -> int:
        """Where the batches offered join the chain."""
        place = batch.sequence
        if place > len(self):
            raise Divergence(len(self))
        if self.hash_before(place) != batch.previous:
            if place == 0:
                raise ProtocolError("a first batch that continues something")
            if place == self.base:
                raise ProtocolError("a batch that continues something else than what is final here")
            raise Divergence(self._term_start(place - 1))
        return place

    def _term_start(self, sequence: int) -> int:
        """The first batch of the term that `sequence` is of: what differs there may differ from there on."""
        term = self.link(sequence).term
        while sequence > self.base and self.link(sequence - 1).term == term:
            sequence -= 1
        return sequence

    def _add(self, link: Link, batch: JournalBatch, *, is_checked: bool = False) -> None:
        """Raises `ProtocolError` for a task that is written already, and for a checkpoint of something else than what is
        here, unless that was looked at."""
        if link.event == CHECKPOINT and not is_checked:
            state = self.state()
            if state is None or batch.state != snapshots.digest(state):
                raise ProtocolError("a checkpoint is of another journal than this one")
        if batch.tasks:
            self.register.put_all(batch)
        if link.event == CHECKPOINT:
            self._checkpoints.append(len(self))
        self._links.append(link)
        self._tail_bytes += _size(link)
        if link.event in ENDED and not self._end:
            self._end = len(self)

    def _cut(self, sequence: int) -> None:
        if sequence < self.base:
            assert sequence == 0, f"{self.base} batches are final, and {sequence} should be left"
            self.__init__()  # type: ignore[misc]
            return
        for link in self._links[sequence - self.base :]:
            self._tail_bytes -= _size(link)
            self.register.erase(_payload(link.signed).tasks)
        del self._links[sequence - self.base :]
        self._checkpoints = [one for one in self._checkpoints if one < sequence]
        if self._end > sequence:
            self._end = 0

    def check(self) -> None:
        before = self._base.head
        written = 0
        for sequence, link in enumerate(self._links, self.base):
            digest, batch = _opened(link.signed)
            assert batch.sequence == sequence, f"batch {batch.sequence} stands at {sequence}"
            assert batch.previous == before, f"batch {sequence} does not continue the chain"
            assert digest == link.hash, f"batch {sequence} has another hash"
            for entry in entries_of(batch):
                assert self.register.get(entry.task) == entry, f"task {entry.task} is not as batch {sequence} wrote it"
            written += len(batch.tasks)
            before = link.hash
        assert written == self.register.written or (self.base and written <= self.register.written), (
            f"{self.register.written} tasks written, {written} in the batches"
        )
        assert self._tail_bytes == sum(map(_size, self._links)), f"{self._tail_bytes} bytes of batches"


def _size(link: Link) -> int:
    """What it takes in memory."""
    return len(link.signed) + JOURNAL_BATCH_OVERHEAD_BYTES


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
