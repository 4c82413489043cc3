"""A journal without its batches: the register, the events that are still to be known, and the place where it goes on.

A holder whose batches are all committed writes a *checkpoint*: a batch that states the hash of the snapshot at this very
place. Whoever takes the checkpoint has compared that with its own journal, so that a quorum vouches for it once it is
committed; and since all before it was committed when it was written, those batches may be given up at once. A snapshot is
believed as the checkpoint is: by the signature of its holder, and the grants of the term, which are among its events.

The bytes of a snapshot are the same for every journal that holds the same batches, wherever they were given up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from peerinfer.codec import decode_as, encode
from peerinfer.errors import ProtocolError
from peerinfer.lease_messages import JournalState, SnapshotPart
from peerinfer.limits import MILESTONES_BYTES_MAX, SNAPSHOT_COPIES_MAX, SNAPSHOT_PART_BYTES, SNAPSHOT_PEERS_MAX
from peerinfer.register import DIGEST_BYTES, Register

STATE_BYTES_MAX = 1 << 20
"""Of everything but the register."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    data: bytes
    checkpoint: bytes
    """The signed batch that vouches for it, and follows it."""

    def part(self, job: str, nonce: int, offset: int) -> SnapshotPart:
        """From its beginning where the offset is past its end: that is of another snapshot."""
        if offset >= len(self.data):
            offset = 0
        return SnapshotPart(
            job, nonce, len(self.data), offset, self.checkpoint, self.data[offset : offset + SNAPSHOT_PART_BYTES]
        )


class _Journal(Protocol):
    @property
    def base(self) -> int: ...

    def snapshot(self) -> Snapshot | None: ...


class SnapshotInHand:
    """The snapshot of a journal on its way to others: made once for each base that it is sent of."""

    def __init__(self) -> None:
        self._made: tuple[int, Snapshot] | None = None
        self._sent: dict[str, int] = {}
        """Bytes of it to each elector that claimed to need them."""
        self._sent_of = 0
        """The base of what was sent: of another snapshot everybody may need everything."""

    def part(self, journal: _Journal, job: str, nonce: int, elector: str, offset: int) -> SnapshotPart | None:
        """What the elector says that it needs of a snapshot that there is; None where it was sent it often enough."""
        whole = self.of(journal)
        assert whole is not None, "batches are missing, and no snapshot is there"
        if self._sent_of != journal.base:
            self._sent, self._sent_of = {}, journal.base
        sent = self._sent.get(elector, 0)
        if sent >= SNAPSHOT_COPIES_MAX * len(whole.data):
            return None
        part = whole.part(job, nonce, offset)
        self._sent[elector] = min(sent + len(part.data), SNAPSHOT_COPIES_MAX * len(whole.data))
        return part

    def renew(self, elector: str) -> None:
        """It is asked anew: it may be sent one part, however often it was sent it."""
        if self._sent.get(elector, 0):
            self._sent[elector] -= 1

    def of(self, journal: _Journal) -> Snapshot | None:
        """None if the journal has none."""
        if self._made is None or self._made[0] != journal.base:
            found = journal.snapshot()
            if found is None:
                return None
            self._made = journal.base, found
        return self._made[1]

    def drop(self) -> None:
        self._made = None


def newest(milestones: Sequence[bytes]) -> tuple[bytes, ...]:
    """The first, and of the others the newest that there is room for."""
    kept: list[bytes] = []
    room = MILESTONES_BYTES_MAX
    for signed in reversed(milestones[1:]):
        room -= len(signed)
        if room < 0:
            break
        kept.append(signed)
    return (*milestones[:1], *reversed(kept))


def packed(state: JournalState, register: Register) -> bytes | None:
    """The bytes of a snapshot; None for a journal with more workers than one may name. `state` without peers."""
    peers, entries = register.packed()
    if len(peers) > SNAPSHOT_PEERS_MAX:
        return None
    head = encode(JournalState(state.sequence, state.head, state.term, state.epoch, peers, state.milestones))
    return b"".join((len(head).to_bytes(4, "little"), head, entries))


def unpacked(data: bytes, tasks: int) -> tuple[JournalState, Register]:
    """Raises `DecodeError` or `ProtocolError` for anything but a snapshot of a job of so many tasks."""
    end = 4 + int.from_bytes(data[:4], "little")
    if not 4 < end <= min(len(data), STATE_BYTES_MAX):
        raise ProtocolError("a snapshot is cut short")
    state = decode_as(JournalState, data[4:end])
    return state, Register.unpacked(state.peers, data[end:], tasks)


def bytes_max(tasks: int) -> int:
    """The largest that a snapshot of a job of so many tasks can be."""
    return STATE_BYTES_MAX + 4 + -(-tasks // 8) + register_bytes_max(tasks)


def register_bytes_max(tasks: int) -> int:
    """What a register of so many tasks takes in memory, were all of them written."""
    return (DIGEST_BYTES + 4) * tasks


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class Assembly:
    """A snapshot on its way here, part by part."""

    def __init__(self, tasks: int) -> None:
        self._bytes_max = bytes_max(tasks)
        self._data = bytearray()
        self._total = 0
        self._checkpoint = b""

    @property
    def held(self) -> int:
        """How many bytes have come."""
        return len(self._data)

    def take(self, part: SnapshotPart) -> Snapshot | None:
        """The whole once it is there. What does not follow is passed over; a first part begins anew.

        A part of another snapshot takes the place of what is here: whoever sends it has no other, and has to hear that
        nothing of it is here.

        Raises `ProtocolError` for what cannot be a part.
        """
        if not 0 < part.total <= self._bytes_max or not part.data or part.offset + len(part.data) > part.total:
            raise ProtocolError(f"a snapshot of {part.total} bytes; {self._bytes_max} are possible")
        if part.offset == 0 or (part.total, part.checkpoint) != (self._total, self._checkpoint):
            self._data.clear()
            self._total, self._checkpoint = part.total, part.checkpoint
        if part.offset == len(self._data):
            self._data += part.data
        if len(self._data) < self._total or not self._total:
            return None
        return Snapshot(bytes(self._data), self._checkpoint)
