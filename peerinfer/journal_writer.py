"""The holder's pen: entries become signed batches at the end of its chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from peerinfer.committees import COMMITTEE
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import CHECKPOINT, MILESTONES
from peerinfer.lease_messages import (
    FAILED_TASK,
    JournalBatch,
)
from peerinfer.limits import JOURNAL_BATCH_TASKS_MAX, REASON_CHARS_MAX
from peerinfer.messages import Manifest, Term
from peerinfer.register import DIGEST_BYTES, Entry
from peerinfer.snapshots import digest

PEERS_WRITTEN_MAX = 256
"""Workers that are named in one batch: with as many tasks as it may hold, it takes 115 kB then."""

_WORKER = attrgetter("worker")


def _batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Few parts, of which none names more workers than are written into one batch."""
    while entries:
        part = entries[:JOURNAL_BATCH_TASKS_MAX]
        while len(set(map(_WORKER, part))) > PEERS_WRITTEN_MAX:
            part = part[: len(part) // 2]
        yield part
        entries = entries[len(part) :]


class JournalWriter:
    """Gathers entries and writes those that are new, in few batches."""

    def __init__(
        self,
        own: PeerId,
        sign: Callable[[bytes], bytes],
        job: JobId,
        manifest: Manifest,
        epoch: int,
        chain: Chain,
        wall_s: Callable[[], float],
    ) -> None:
        self._own = own
        self._sign = sign
        self._job = job
        self._manifest = manifest
        self._epoch = epoch
        self._chain = chain
        self._wall_s = wall_s
        self._waiting: dict[int, Entry] = {}

    @property
    def waiting(self) -> int:
        """Entries that are in no batch yet."""
        return len(self._waiting)

    def add(self, entries: Iterable[Entry]) -> None:
        """What is first said of a task counts; the rest is dropped."""
        given = list(entries)
        if not given:
            return
        tasks, digests, _ = zip(*given, strict=True)
        assert max(tasks) < self._manifest.tasks, f"task {max(tasks)} of {self._manifest.tasks}"
        assert set(map(len, digests)) == {DIGEST_BYTES}, f"a digest of none but {DIGEST_BYTES} bytes"
        if self._chain.register.holds_any(tasks):
            given = [entry for entry in given if entry.task not in self._chain.register]
            tasks = tuple(entry.task for entry in given)
        for task, entry in zip(tasks, given, strict=True):
            self._waiting.setdefault(task, entry)

    def forget(self) -> None:
        """The lease is gone: somebody else writes from here on."""
        self._waiting.clear()

    def open(self, term: Term, why: str, certificate: tuple[bytes, ...]) -> None:
        """The first batch of a term."""
        self._add_batch(term, (), "takeover" if len(self._chain) else "accepted", why, certificate)

    def write(self, term: Term, event: str = "", detail: str = "") -> None:
        """Everything that waits, and the event; one that is kept for ever stands alone, so that it takes little room."""
        parts = list(_batches(list(self._waiting.values())))
        self._waiting.clear()
        last = parts.pop() if parts and event not in MILESTONES else ()
        for part in parts:
            self._add_batch(term, part, "", "", ())
        if last or event:
            self._add_batch(term, last, event, detail, ())

    def change(self, term: Term, committee: tuple[str, ...]) -> None:
        """Everything that waits, and who elects in the next epoch."""
        self.write(term)
        self._add_batch(term, (), COMMITTEE, "", (), committee)

    def checkpoint(self, term: Term) -> None:
        """Where all that is here is committed: from now on everybody may give it up for a snapshot."""
        state = self._chain.state()
        if state is not None:
            self._add_batch(term, (), CHECKPOINT, "", (), state=digest(state))

    def _add_batch(
        self,
        term: Term,
        entries: Sequence[Entry],
        event: str,
        detail: str,
        certificate: tuple[bytes, ...],
        committee: tuple[str, ...] = (),
        state: bytes = b"",
    ) -> None:
        tasks, digests, workers = zip(*entries, strict=True) if entries else ((), (), ())
        peers = tuple(dict.fromkeys(filter(None, workers)))
        places = {"": FAILED_TASK} | {peer: place for place, peer in enumerate(peers)}
        batch = JournalBatch(
            job=self._job,
            epoch=self._epoch,
            term=term,
            sequence=len(self._chain),
            previous=self._chain.head,
            tasks=tasks,
            digests=b"".join(digests),
            workers=tuple(map(places.__getitem__, workers)),
            peers=peers,
            event=event,
            detail=detail[:REASON_CHARS_MAX],
            certificate=certificate,
            at_s=self._wall_s(),
            committee=committee,
            state=state,
        )
        self._chain.write(batch, self._own, self._sign)
