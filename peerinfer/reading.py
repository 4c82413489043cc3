"""Turning the pages of a neighbour's table, when a few names of it show that much of it is unknown here.

A newcomer reads one neighbour's table from the first key to the last, 64 names at a time, and from the others learns in
a kilobyte that there is nothing more to know. So does a node that was cut off for a while. One neighbour is read at a
time; one that stops answering is given up, and whoever shows unknown names next is read in its place. A table that is
full is a sample of a larger swarm, and is not read into: it would only push out what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from peerinfer.ids import PeerId
from peerinfer.limits import PAGE_PEERS_MAX
from peerinfer.machine import NEVER
from peerinfer.member_messages import Digest
from peerinfer.member_table import Table
from peerinfer.spread_messages import Page, PageWanted

UNKNOWN_SHARE = 1 / 8
"""Gossip is on its way with a name or two at any time; more say that something was missed."""

PAGE_WITHIN_S = 3.0
"""Who has not answered then is given up."""

READ_AGAIN_S = 30.0
"""The same neighbour is read so often at most: what is shown and cannot be had must not make a node read for ever."""

READ_REMEMBERED_MAX = 64


def pages_max(members_max: int) -> int:
    """Of a table with room for so many: if it is full, the page after the last full one is empty."""
    return -(-members_max // PAGE_PEERS_MAX) + 1


@dataclass(slots=True)
class _Book:
    peer: PeerId
    after: bytes
    pages_left: int
    until_s: float


class Reader:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._book: _Book | None = None
        self._read_s: dict[PeerId, float] = {}

    def shown(self, peer: PeerId, digest: Digest, unknown: int, now_s: float) -> None:
        """A neighbour has shown a part of its table, in which so many were unknown."""
        is_part = len(digest.known) < digest.of
        is_behind = unknown > 0 and unknown >= UNKNOWN_SHARE * len(digest.known)
        is_reading = self._book is not None and now_s < self._book.until_s and self._book.peer in self._table.neighbours
        if not is_part or not is_behind or is_reading or self._table.is_full:
            return
        if now_s < self._read_s.get(peer, -NEVER) + READ_AGAIN_S:
            return
        if len(self._read_s) >= READ_REMEMBERED_MAX:
            del self._read_s[next(iter(self._read_s))]
        self._read_s[peer] = now_s
        self._book = _Book(peer, b"", pages_max(self._table.members_max), now_s)
        self._turn(self._book, now_s)

    def read(self, peer: PeerId, page: Page, now_s: float) -> None:
        book = self._book
        if book is None or book.peer != peer:
            return
        keys = [known.key for known in page.known]
        is_last = len(keys) < PAGE_PEERS_MAX or max(keys) <= book.after
        if is_last or not book.pages_left or self._table.is_full:
            self._book = None
            return
        book.after = max(keys)
        self._turn(book, now_s)

    def _turn(self, book: _Book, now_s: float) -> None:
        book.pages_left -= 1
        book.until_s = now_s + PAGE_WITHIN_S
        self._table.send(book.peer, PageWanted(book.after))
