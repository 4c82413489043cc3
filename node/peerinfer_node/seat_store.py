"""What an elector must not forget: promises, grants and journals, in a file of their own that is synced at every commit.

`state.db` may lose its last commits in a power cut; here that would be a broken promise. So this file runs with
`synchronous=FULL`. A seat file that is damaged or gone cannot be rebuilt: the node then refuses every seat of jobs that
are older than the loss, because it may have promised something for them.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from peerinfer.elector import SeatRow
from peerinfer.errors import StateUnusable
from peerinfer.ids import JobId
from peerinfer.messages import Term
from peerinfer_node.lane import Call, Lane
from peerinfer_node.store_schema import unusable

T = TypeVar("T")

_VERSION = 1
_SCHEMA = (
    """CREATE TABLE seats (
        job TEXT PRIMARY KEY, manifest BLOB NOT NULL, epoch INTEGER NOT NULL,
        promised_round INTEGER NOT NULL, promised_candidate TEXT NOT NULL,
        granted_round INTEGER NOT NULL, granted_candidate TEXT NOT NULL,
        lease_s REAL NOT NULL, sealed INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE batches (
        job TEXT NOT NULL REFERENCES seats(job) ON DELETE CASCADE, sequence INTEGER NOT NULL, signed BLOB NOT NULL,
        PRIMARY KEY (job, sequence)) WITHOUT ROWID""",
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID",
)
_FORGOT = "forgot_at_s"


class SqliteSeatStore:
    """Implements `ports.SeatStore`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lane = Lane("peerinfer-seats", self._commit_together)
        self.warning: str | None = None

    @classmethod
    def open(cls, path: Path, *, is_new_node: bool) -> SqliteSeatStore:
        """`is_new_node`: the identity was made just now, so nothing can have been promised. Raises `StateUnusable`."""
        warning = None
        missing = not path.exists()
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            aside = _move_aside(path)
            warning = (
                f"{path.name} could not be used ({error}); it was moved to {aside}, older jobs get no vote from here"
            )
            missing = True
            connection = _connect(path)
        if missing and not is_new_node:
            connection.execute("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", (_FORGOT, time.time()))
        store = cls(path, connection)
        store.warning = warning
        return store

    def close(self) -> None:
        """May be called twice."""
        self._lane.close()
        self._connection.close()

    def __enter__(self) -> SqliteSeatStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def save_seat(self, row: SeatRow) -> None:
        def work() -> None:
            self._connection.execute(
                "INSERT INTO seats VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job) DO UPDATE SET "
                "epoch = excluded.epoch, promised_round = excluded.promised_round, "
                "promised_candidate = excluded.promised_candidate, granted_round = excluded.granted_round, "
                "granted_candidate = excluded.granted_candidate, lease_s = excluded.lease_s, sealed = excluded.sealed",
                (
                    row.job,
                    row.manifest,
                    row.epoch,
                    row.promised.round,
                    row.promised.candidate,
                    row.granted.round,
                    row.granted.candidate,
                    row.lease_s,
                    row.sealed,
                ),
            )

        await self._call(work)

    async def save_batches(self, job: JobId, first: int, batches: Sequence[bytes]) -> None:
        def work() -> None:
            self._connection.execute("DELETE FROM batches WHERE job = ? AND sequence >= ?", (job, first))
            rows = [(job, first + place, batch) for place, batch in enumerate(batches)]
            self._connection.executemany("INSERT INTO batches VALUES (?, ?, ?)", rows)

        await self._call(work)

    async def forget(self, job: JobId) -> None:
        def work() -> None:
            self._connection.execute("DELETE FROM seats WHERE job = ?", (job,))

        await self._call(work)

    async def seats(self) -> list[tuple[SeatRow, tuple[bytes, ...]]]:
        def work() -> list[tuple[SeatRow, tuple[bytes, ...]]]:
            found = []
            for row in self._connection.execute("SELECT * FROM seats ORDER BY job").fetchall():
                job, manifest, epoch, p_round, p_candidate, g_round, g_candidate, lease_s, sealed = row
                batches = self._connection.execute(
                    "SELECT signed FROM batches WHERE job = ? ORDER BY sequence", (job,)
                ).fetchall()
                seat = SeatRow(
                    JobId(job),
                    manifest,
                    epoch,
                    Term(p_round, p_candidate),
                    Term(g_round, g_candidate),
                    lease_s,
                    bool(sealed),
                )
                found.append((seat, tuple(signed for (signed,) in batches)))
            return found

        return await self._call(work)

    async def forgot_at_s(self) -> float | None:
        def work() -> float | None:
            row = self._connection.execute("SELECT value FROM facts WHERE key = ?", (_FORGOT,)).fetchone()
            return None if row is None else float(row[0])

        return await self._call(work)

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await self._lane.call(work)
        except sqlite3.Error as error:
            raise unusable(self._path, error) from None

    def _commit_together(self, calls: Sequence[Call]) -> None:
        """One transaction, and one sync, for all that waits."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for call in calls:
                self._connection.execute("SAVEPOINT call")
                call.perform()
                if call.error is not None and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK TO call")
                self._connection.execute("RELEASE call")
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            for call in calls:
                call.error = call.error or error
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


class MemorySeatStore:
    """The twin for simulations. What it holds is as durable as the object."""

    def __init__(self) -> None:
        self._seats: dict[JobId, SeatRow] = {}
        self._batches: dict[JobId, list[bytes]] = {}

    async def save_seat(self, row: SeatRow) -> None:
        self._seats[row.job] = row
        self._batches.setdefault(row.job, [])

    async def save_batches(self, job: JobId, first: int, batches: Sequence[bytes]) -> None:
        self._batches[job][first:] = batches

    async def forget(self, job: JobId) -> None:
        self._seats.pop(job, None)
        self._batches.pop(job, None)

    async def seats(self) -> list[tuple[SeatRow, tuple[bytes, ...]]]:
        return [(row, tuple(self._batches[job])) for job, row in sorted(self._seats.items())]

    async def forgot_at_s(self) -> float | None:
        return None


def _connect(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise StateUnusable(f"cannot use {path}: {error.strerror}") from None
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != "ok" or version > _VERSION:
            raise sqlite3.DatabaseError(str(found) if found != "ok" else f"version {version} is not known")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={_VERSION}")
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
