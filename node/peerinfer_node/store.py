"""What survives a crash: state.db (SQLite, WAL) beside the spools that hold the outputs.

Three lanes, so that none waits for another: one connection that writes, one that reads, and the spools. A method
returns when its change is with the kernel, which kill -9 does not undo. Changes that wait together share a transaction;
each runs inside a savepoint of its own, so that one that fails takes no other with it.

Order makes the two kinds of file agree: a record is in the spool before a row points at it, and the rows of a job go
before its spool does. What a crash or a power cut leaves in between is cleared at the next start: spools that no job
owns, and rows that point behind the end of their spool (their tasks simply run again).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from peerinfer.errors import LimitExceeded, StateUnusable
from peerinfer.ids import JobId, PeerId, is_job_id
from peerinfer.limits import JOBS_KEPT_MAX, PEERS_REMEMBERED_MAX
from peerinfer.tensors import Buffer
from peerinfer_node.lane import Call, Lane
from peerinfer_node.peer_rows import PeerRow, ReputationRow, StatementRow
from peerinfer_node.ports import JobRow
from peerinfer_node.record_rows import RecordRow, counting, in_order, with_keys
from peerinfer_node.spool import Spool
from peerinfer_node.store_schema import Damaged, connect, move_aside, open_checked, unusable

T = TypeVar("T")

_JOB = "job, manifest, request, state, created_at_s, ended_at_s, summary"
_RECORD = "record_offset, tasks, task_keys, frame, peer, receipt"


class SqliteStore:
    """`ports.Store` over state.db and the folder `jobs` beside it. Made by `open`; to be closed."""

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection, spool: Spool) -> None:
        self.warning: str | None = None
        """One line for the user if state.db had to be moved aside."""
        self._path = path
        self._writer = writer
        self._reader = reader
        self._spool = spool
        self._writing = Lane("store-write", self._commit_together)
        self._reading = Lane("store-read")
        self._spooling = Lane("store-spool")

    @classmethod
    def open(cls, path: Path | str) -> SqliteStore:
        """Opens or creates state.db at `path`, and `jobs` beside it.

        A file that is damaged, or of a newer version, is moved aside to state.db.corrupt-<n> with its spools; `warning`
        says so. Raises `StateUnusable` if the files cannot be used at all. Blocks while the whole file is checked.
        """
        path = Path(path)
        jobs = path.parent / "jobs"
        warning = None
        try:
            writer = open_checked(path)
        except Damaged as damage:
            aside = move_aside(path, jobs)
            warning = f"state.db could not be used ({damage}); it was moved to {aside}, and a new one was started"
            try:
                writer = open_checked(path)
            except Damaged as again:
                raise StateUnusable(f"cannot use {path}: {again}") from None
        try:
            jobs.mkdir(mode=0o700, exist_ok=True)
            spool = Spool(jobs)
            _make_agree(writer, spool)
            reader = connect(path)
        except OSError as error:
            writer.close()
            raise StateUnusable(f"cannot use {jobs}: {error.strerror}") from None
        except sqlite3.Error as error:
            writer.close()
            raise unusable(path, error) from None
        except StateUnusable:
            writer.close()
            raise
        store = cls(path, writer, reader, spool)
        store.warning = warning
        return store

    def close(self) -> None:
        """Finishes what was begun and closes every file. Blocks; may be called twice."""
        for lane in (self._spooling, self._reading, self._writing):
            lane.close()
        self._spool.close()
        self._reader.close()
        self._writer.close()

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- jobs ---

    async def add_job(self, row: JobRow) -> None:
        """Inserts or replaces. Past `JOBS_KEPT_MAX` the oldest ended jobs are forgotten, this node's own last.

        Raises `LimitExceeded` if none of them has ended, ValueError if the id is not a job id.
        """
        if not is_job_id(row.job):
            raise ValueError(f"not a job id: {row.job[:64]!r}")

        def work() -> list[JobId]:
            self._writer.execute(
                f"INSERT INTO jobs ({_JOB}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job) DO UPDATE SET "  # noqa: S608
                "manifest = excluded.manifest, request = excluded.request, state = excluded.state, "
                "created_at_s = excluded.created_at_s, ended_at_s = excluded.ended_at_s, summary = excluded.summary",
                (row.job, row.manifest, row.request, row.state, row.created_at_s, row.ended_at_s, row.summary),
            )
            kept = int(self._writer.execute("SELECT count(*) FROM jobs").fetchone()[0])
            if kept <= JOBS_KEPT_MAX:
                return []
            gone = self._writer.execute(
                "SELECT job FROM jobs WHERE ended_at_s IS NOT NULL AND job != ? ORDER BY "
                "json_extract(summary, '$.results_gone') IS NULL, json_extract(request, '$.replica') IS NULL, "
                "ended_at_s, number LIMIT ?",
                (row.job, kept - JOBS_KEPT_MAX),
            ).fetchall()
            if len(gone) < kept - JOBS_KEPT_MAX:
                raise LimitExceeded("jobs kept", current=kept - 1, attempted=1, limit=JOBS_KEPT_MAX, unit="jobs")
            self._writer.executemany("DELETE FROM jobs WHERE job = ?", gone)
            return [JobId(job) for (job,) in gone]

        for job in await self._write(work):
            await self._forget_spool(job)

    async def set_job_state(self, job: JobId, state: str, *, ended_at_s: float | None, summary: str) -> None:
        """No effect on a job that is not known."""

        def work() -> None:
            self._writer.execute(
                "UPDATE jobs SET state = ?, ended_at_s = ?, summary = ? WHERE job = ?",
                (state, ended_at_s, summary, job),
            )

        await self._write(work)

    async def job(self, job: JobId) -> JobRow | None:
        def work() -> JobRow | None:
            row = self._reader.execute(f"SELECT {_JOB} FROM jobs WHERE job = ?", (job,)).fetchone()  # noqa: S608
            return None if row is None else JobRow(*row)

        return await self._read(work)

    async def jobs(self, *, limit: int = 1000) -> list[JobRow]:
        def work() -> list[JobRow]:
            rows = self._reader.execute(
                f"SELECT {_JOB} FROM jobs ORDER BY created_at_s DESC, number DESC LIMIT ?",  # noqa: S608
                (max(0, limit),),
            )
            return [JobRow(*row) for row in rows]

        return await self._read(work)

    async def forget_job(self, job: JobId) -> None:
        def work() -> None:
            self._writer.execute("DELETE FROM jobs WHERE job = ?", (job,))

        await self._write(work)
        await self._forget_spool(job)

    async def drop_results(self, job: JobId) -> None:
        def work() -> None:
            self._writer.execute("DELETE FROM records WHERE number = (SELECT number FROM jobs WHERE job = ?)", (job,))

        await self._write(work)
        await self._forget_spool(job)

    async def results_bytes(self, job: JobId) -> int:
        return await self._spooling.call(lambda: self._spool.end(job))

    async def settle(self, job: JobId) -> None:
        await self._spooling.call(lambda: self._spool.sync(job))
        # With `synchronous=NORMAL` the log is synced before it is copied into the file, and only then.
        busy, _, _ = await self._read(lambda: self._reader.execute("PRAGMA wal_checkpoint(FULL)").fetchone())
        if busy:
            raise StateUnusable(f"{self._path} is busy; it will be written to the disk later")

    # --- results ---

    async def append_results(self, job: JobId, record: Sequence[Buffer]) -> int:
        return await self._spooling.call(lambda: self._spool.append(job, record))

    async def read_results(self, job: JobId, offset: int) -> bytes:
        return await self._spooling.call(lambda: self._spool.read(job, offset))

    async def add_record(self, row: RecordRow) -> None:
        tasks = struct.pack(f"<{len(row.tasks)}I", *row.tasks)

        def work() -> None:
            self._writer.execute(
                f"INSERT INTO records (number, {_RECORD}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (self._number(row.job), row.offset, tasks, row.keys, row.frame, row.peer, row.receipt),
            )

        await self._write(work)

    async def records_of(self, job: JobId) -> list[RecordRow]:
        return await self._read(lambda: counting(_rows(self._reader, job)))

    async def find_records(self, keys: Iterable[bytes]) -> list[RecordRow]:
        missing = set(keys)

        def work() -> list[RecordRow]:
            found: list[RecordRow] = []
            for (job,) in self._reader.execute("SELECT job FROM jobs ORDER BY number DESC").fetchall():
                found += with_keys(counting(_rows(self._reader, JobId(job))), missing)
                if not missing:
                    break
            return found

        return await self._read(work)

    async def void_results(self, job: JobId, tasks: Sequence[int]) -> None:
        void = set(tasks)

        def work() -> None:
            for record, row in _numbered(self._writer, job):
                if not void.isdisjoint(row.tasks):
                    left = row.with_tasks(lambda task, _: task not in void)
                    self._writer.execute(
                        "UPDATE records SET tasks = ?, task_keys = ? WHERE record = ?",
                        (struct.pack(f"<{len(left.tasks)}I", *left.tasks), left.keys, record),
                    )

        await self._write(work)

    async def receipts_of(self, job: JobId) -> list[RecordRow]:
        return await self._read(lambda: in_order(_rows(self._reader, job)))

    # --- peers and settings ---

    async def remember_peers(self, rows: Sequence[PeerRow]) -> None:
        def work() -> None:
            self._writer.executemany(
                "INSERT OR REPLACE INTO peers (peer, addresses, advert, last_seen_s) VALUES (?, ?, ?, ?)",
                [(row.peer, json.dumps(row.addresses), row.advert, row.last_seen_s) for row in rows],
            )
            excess = self._writer.execute("SELECT count(*) FROM peers").fetchone()[0] - PEERS_REMEMBERED_MAX
            if excess > 0:
                self._writer.execute(
                    "DELETE FROM peers WHERE peer IN (SELECT peer FROM peers ORDER BY last_seen_s, peer DESC LIMIT ?)",
                    (excess,),
                )

        await self._write(work)

    async def peers(self) -> list[PeerRow]:
        def work() -> list[PeerRow]:
            rows = self._reader.execute(
                "SELECT peer, addresses, advert, last_seen_s FROM peers ORDER BY last_seen_s DESC, peer"
            )
            return [PeerRow(PeerId(row[0]), tuple(json.loads(row[1])), row[2], row[3]) for row in rows]

        return await self._read(work)

    async def save_reputation(self, rows: Sequence[ReputationRow], gone: Sequence[PeerId]) -> None:
        def work() -> None:
            self._writer.executemany(
                "INSERT OR REPLACE INTO reputation (peer, evidence, mac, at_s) VALUES (?, ?, ?, ?)",
                [(row.peer, row.evidence, row.mac, row.at_s) for row in rows],
            )
            self._writer.executemany("DELETE FROM reputation WHERE peer = ?", [(peer,) for peer in gone])

        await self._write(work)

    async def reputation(self) -> list[ReputationRow]:
        def work() -> list[ReputationRow]:
            rows = self._reader.execute("SELECT peer, evidence, mac, at_s FROM reputation ORDER BY at_s, peer")
            return [ReputationRow(PeerId(str(row[0])), str(row[1]), _bytes(row[2]), row[3]) for row in rows]

        return await self._read(work)

    async def save_statements(self, rows: Sequence[StatementRow], gone: Sequence[bytes]) -> None:
        def work() -> None:
            self._writer.executemany("DELETE FROM statements WHERE signed = ?", [(signed,) for signed in gone])
            self._writer.executemany(
                "INSERT OR REPLACE INTO statements (signed, kind, note, mac) VALUES (?, ?, ?, ?)",
                [(row.signed, row.kind, row.note, row.mac) for row in rows],
            )

        await self._write(work)

    async def statements(self) -> list[StatementRow]:
        def work() -> list[StatementRow]:
            rows = self._reader.execute("SELECT kind, signed, note, mac FROM statements ORDER BY rowid")
            return [StatementRow(str(kind), _bytes(signed), str(note), _bytes(mac)) for kind, signed, note, mac in rows]

        return await self._read(work)

    async def setting(self, key: str) -> str | None:
        def work() -> str | None:
            row = self._reader.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
            return None if row is None else str(row[0])

        return await self._read(work)

    async def set_setting(self, key: str, value: str | None) -> None:
        def work() -> None:
            if value is None:
                self._writer.execute("DELETE FROM settings WHERE key = ?", (key,))
            else:
                self._writer.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))

        await self._write(work)

    # --- lanes ---

    async def _write(self, work: Callable[[], T]) -> T:
        try:
            return await self._writing.call(work)
        except sqlite3.Error as error:
            raise unusable(self._path, error) from None

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await self._reading.call(work)
        except sqlite3.Error as error:
            raise unusable(self._path, error) from None

    async def _forget_spool(self, job: JobId) -> None:
        await self._spooling.call(lambda: self._spool.forget(job))

    def _number(self, job: JobId) -> int:
        row = self._writer.execute("SELECT number FROM jobs WHERE job = ?", (job,)).fetchone()
        if row is None:
            raise StateUnusable(f"job {job} is not in {self._path}")
        return int(row[0])

    def _commit_together(self, calls: Sequence[Call]) -> None:
        """Performs the calls in one transaction. If the commit fails, so does every call."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for call in calls:
                self._writer.execute("SAVEPOINT call")
                call.perform()
                # A full disk makes SQLite roll back everything; then there is no savepoint left to go back to.
                if call.error is not None and self._writer.in_transaction:
                    self._writer.execute("ROLLBACK TO call")
                self._writer.execute("RELEASE call")
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            causes = [call.error for call in calls if isinstance(call.error, sqlite3.Error)]
            for call in calls:
                call.error = causes[0] if causes else error
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")


def _numbered(connection: sqlite3.Connection, job: JobId) -> list[tuple[int, RecordRow]]:
    """The rows of a job in the order in which they were added, each with its number in the table."""
    found = connection.execute(
        f"SELECT record, {_RECORD} FROM records JOIN jobs USING (number) WHERE job = ? ORDER BY record",  # noqa: S608
        (job,),
    )
    return [
        (
            record,
            RecordRow(job, offset, struct.unpack(f"<{len(tasks) // 4}I", tasks), keys, frame, PeerId(peer), receipt),
        )
        for record, offset, tasks, keys, frame, peer, receipt in found
    ]


def _bytes(value: object) -> bytes:
    """A column as it should be: an editor may have left a number there, and `bytes` of a number is so many zeros."""
    return value if isinstance(value, bytes) else b""


def _rows(connection: sqlite3.Connection, job: JobId) -> list[RecordRow]:
    return [row for _, row in _numbered(connection, job)]


def _make_agree(writer: sqlite3.Connection, spool: Spool) -> None:
    """Removes spools without a job, and rows whose record is not there."""
    numbers = {JobId(job): number for job, number in writer.execute("SELECT job, number FROM jobs") if is_job_id(job)}
    for job in spool.jobs():
        if job not in numbers:
            spool.forget(job)
    for job, number in numbers.items():
        writer.execute(
            "DELETE FROM records WHERE number = ? AND record_offset >= ? AND tasks != x''", (number, spool.end(job))
        )


def setting_in(path: Path, key: str) -> str | None:
    """A setting of a store that may not be there, or not be ours; it is looked at and not opened as one's own."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as reader:
            row = reader.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
