"""From a kept result to a journal entry: its digest, and, for jobs that outlive their submitter, copies on a quorum.

A result of such a job may be shown as final only when a later coordinator would find it, so its record is on a quorum
of electors before the journal says that it is final.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import trio

from peerinfer.ids import PeerId
from peerinfer.journal import Chain
from peerinfer.register import DIGEST_BYTES, Entry
from peerinfer.tensors import Buffer

CopyRecord = Callable[[int, Sequence[Buffer], tuple[int, ...]], Awaitable[None]]
"""Copies the record of this number, which counts for these tasks, to a quorum; returns when it is there."""

COPIES_TOGETHER_MAX = 64

IsTrue = Callable[[int, bytes], bool]
"""Whether this is the digest of the result of this task."""

WriteEntries = Callable[[tuple[Entry, ...], bool], None]


@dataclass(slots=True)
class _Copy:
    offset: int
    record: Sequence[Buffer]
    tasks: tuple[int, ...]
    done: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, slots=True)
class _Settled:
    entries: tuple[Entry, ...]
    copies: tuple[_Copy, ...]
    is_last: bool


class Recorder:
    """One job's results on their way into its journal, in the order in which they were settled."""

    def __init__(self, write: WriteEntries, copy: CopyRecord | None) -> None:
        self._write = write
        self._copy = copy
        self._digests: dict[int, bytes] = {}
        self._copies: dict[int, _Copy] = {}
        self._to_copy, self._copying = trio.open_memory_channel[_Copy](float("inf"))
        self._to_write, self._writing = trio.open_memory_channel[_Settled](float("inf"))

    def kept(self, offset: int, record: Sequence[Buffer], digests: dict[int, bytes]) -> None:
        """A record is in the spool at `offset`, with the outputs of these tasks."""
        self._digests |= digests
        if self._copy is None:
            return
        copy = _Copy(offset, record, tuple(digests))
        self._copies |= dict.fromkeys(digests, copy)
        self._to_copy.send_nowait(copy)

    def settle(self, peer: PeerId, tasks: Sequence[int], *, is_last: bool) -> None:
        if any(task not in self._digests for task in tasks):
            return  # It could not be kept, which breaks the job: nothing of it may be called final.
        entries = tuple(map(Entry, tasks, map(self._digests.pop, tasks), repeat(peer)))
        copies = tuple({id(copy): copy for copy in (self._copies.pop(task, None) for task in tasks) if copy}.values())
        self._put(_Settled(entries, copies, is_last))

    def fail(self, task: int, reason: str) -> None:
        digest = hashlib.blake2b(reason.encode(), digest_size=DIGEST_BYTES).digest()
        self._put(_Settled((Entry(task, digest, ""),), (), True))

    def void(self, tasks: Sequence[int]) -> None:
        for task in tasks:
            self._digests.pop(task, None)
            self._copies.pop(task, None)

    def _put(self, settled: _Settled) -> None:
        if self._copy is None:
            self._write(settled.entries, settled.is_last)
        else:
            self._to_write.send_nowait(settled)

    async def run(self) -> None:
        """Copies and writes until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_copies)
            async for settled in self._writing:
                for copy in settled.copies:
                    await copy.done.wait()
                self._write(settled.entries, settled.is_last)

    async def _run_copies(self) -> None:
        together = trio.Semaphore(COPIES_TOGETHER_MAX)
        async with trio.open_nursery() as nursery:
            async for copy in self._copying:
                await together.acquire()
                nursery.start_soon(self._run_copy, copy, together)

    async def _run_copy(self, copy: _Copy, together: trio.Semaphore) -> None:
        assert self._copy is not None
        await self._copy(copy.offset, copy.record, copy.tasks)
        copy.done.set()
        together.release()


def named_in(chain: Chain) -> IsTrue:
    """True for exactly those results that the journal names."""

    def is_named(task: int, digest: bytes) -> bool:
        entry = chain.register.get(task)
        return entry is not None and bool(entry.worker) and entry.digest == digest

    return is_named
