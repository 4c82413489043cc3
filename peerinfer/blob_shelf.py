"""Which blobs a store keeps: their room, the order of their last use, and who pins them. Decides what has to go."""

from __future__ import annotations

from collections import OrderedDict

from peerinfer.errors import LimitExceeded
from peerinfer.ids import Cid
from peerinfer.limits import MIB


class BlobShelf:
    """Room for `bytes_max` bytes. A pin outlives its blob: what comes back under it is kept again."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._bytes: OrderedDict[Cid, int] = OrderedDict()
        """By last use, the longest ago first."""
        self._holders: dict[Cid, set[str]] = {}
        self._pins: dict[str, list[Cid]] = {}

    def __contains__(self, cid: Cid) -> bool:
        return cid in self._bytes

    def by_last_use(self) -> list[Cid]:
        """The most recent first."""
        return list(reversed(self._bytes))

    def place(self, cid: Cid, blob_bytes: int) -> list[Cid]:
        """Puts a blob up as the one used last, and returns those taken down for it, the longest unused first.

        Raises `LimitExceeded`, changing nothing, if what is pinned leaves too little room.
        """
        going, held_after = self._going(blob_bytes)
        if held_after > self.bytes_max:
            raise LimitExceeded(
                "the blob cache (what is pinned by jobs cannot make room; raise its limit or wait for them)",
                current=(held_after - blob_bytes) / MIB,
                attempted=blob_bytes / MIB,
                limit=self.bytes_max / MIB,
                unit="MiB",
            )
        for other in going:
            self.remove(other)
        self.restore(cid, blob_bytes)
        return going

    def restore(self, cid: Cid, blob_bytes: int) -> None:
        """Puts up as the one used last what is there already, however much it is."""
        self._bytes[cid] = blob_bytes
        self.bytes_held += blob_bytes

    def trim(self) -> list[Cid]:
        """What must go, and is taken down, because the limit was lowered."""
        going, _ = self._going(0)
        for cid in going:
            self.remove(cid)
        return going

    def _going(self, more_bytes: int) -> tuple[list[Cid], int]:
        """The blobs in the way of so many bytes, and what would be held with those bytes and without those blobs."""
        going: list[Cid] = []
        held_after = self.bytes_held + more_bytes
        for cid, blob_bytes in self._bytes.items():
            if held_after <= self.bytes_max:
                break
            if cid not in self._holders:
                going.append(cid)
                held_after -= blob_bytes
        return going, held_after

    def touch(self, cid: Cid) -> None:
        self._bytes.move_to_end(cid)

    def remove(self, cid: Cid) -> None:
        self.bytes_held -= self._bytes.pop(cid)

    def pin(self, cid: Cid, holder: str) -> bool:
        """False if the holder had pinned it already."""
        holders = self._holders.setdefault(cid, set())
        if holder in holders:
            return False
        holders.add(holder)
        self._pins.setdefault(holder, []).append(cid)
        return True

    def is_pinned(self, cid: Cid) -> bool:
        return cid in self._holders

    @property
    def holders(self) -> list[str]:
        return list(self._pins)

    def unpin(self, holder: str) -> list[Cid]:
        """Takes back every pin of the holder, and returns the blobs that they were on."""
        cids = self._pins.pop(holder, [])
        for cid in cids:
            self._holders[cid].remove(holder)
            if not self._holders[cid]:
                del self._holders[cid]
        return cids
