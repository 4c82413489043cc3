"""What an elector must not forget: promises, grants and journals, in a file of their own that is synced at every commit.

`state.db` may lose its last commits in a power cut; here that would be a broken promise. So this file runs with
`synchronous=FULL`, and every seat carries a checksum, because SQLite notices only damage to its own structure. A seat
file that is damaged or gone cannot be rebuilt: the node then refuses every seat of jobs that are older than the loss,
because it may have promised something for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from peerinfer.elector_events import SeatRow
from peerinfer.errors import StateUnusable
from peerinfer.ids import JobId
from peerinfer.limits import SEATS_GIVEN_UP_MAX
from peerinfer.messages import Term
from peerinfer.snapshots import Snapshot
from peerinfer_node.lane import Call, Lane
from peerinfer_node.store_schema import Damaged, is_damage, unusable

T = TypeVar("T")

_VERSION = 4
_BEFORE_EPOCHS = 2
"""Seats of this version are all of a first epoch."""
_BEFORE_SNAPSHOTS = 3
"""Journals of this version are all there from their first batch on."""
_SNAPSHOTS = """CREATE TABLE snapshots (
    job TEXT PRIMARY KEY REFERENCES seats(job) ON DELETE CASCADE, base INTEGER NOT NULL, data BLOB NOT NULL,
    checkpoint BLOB NOT NULL) WITHOUT ROWID"""

_SCHEMA = (
    """CREATE TABLE seats (
        job TEXT PRIMARY KEY, manifest BLOB NOT NULL, epoch INTEGER NOT NULL,
        promised_round INTEGER NOT NULL, promised_candidate TEXT NOT NULL,
        granted_round INTEGER NOT NULL, granted_candidate TEXT NOT NULL,
        lease_s REAL NOT NULL, sealed INTEGER NOT NULL, is_over INTEGER NOT NULL, checksum BLOB NOT NULL,
        epochs TEXT NOT NULL DEFAULT '') WITHOUT ROWID""",
    """CREATE TABLE batches (
        job TEXT NOT NULL REFERENCES seats(job) ON DELETE CASCADE, sequence INTEGER NOT NULL, signed BLOB NOT NULL,
        PRIMARY KEY (job, sequence)) WITHOUT ROWID""",
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID",
    _SNAPSHOTS,
)
_FORGOT = "forgot_at_s"
_GIVEN_UP = "given up "
"""Before a job's id: what was promised for it is not known any more, so nothing may ever be promised for it again."""

_COLUMNS = (
    "job, manifest, epoch, promised_round, promised_candidate, granted_round, granted_candidate, lease_s, sealed, "
    "is_over, epochs, checksum"
)
# Not "INSERT OR REPLACE": that deletes the row first, and the journal with it.
_SAVE = (
    f"INSERT INTO seats ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job) DO UPDATE SET "  # noqa: S608
    + ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS.split(", ")[1:])
)
_SEATS = f"SELECT {_COLUMNS} FROM seats ORDER BY job"  # noqa: S608


class SqliteSeatStore:
    """Implements `ports.SeatStore`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lane = Lane("peerinfer-seats", self._commit_together)
        self.warning: str | None = None

    @classmethod
    def open(cls, path: Path, *, is_new_node: bool) -> SqliteSeatStore:
        """`is_new_node`: the identity was made just now, so nothing can have been promised.

        A file that is damaged, or of another version, is moved aside; `warning` says so. Raises `StateUnusable` if the
        file cannot be used at all. Blocks while the whole file is checked.
        """
        warning = None
        try:
            connection = _open_checked(path, is_new_node=is_new_node)
        except Damaged as damage:
            aside = _move_aside(path)
            warning = (
                f"{path.name} could not be used ({damage}); it was moved to {aside}, older jobs get no vote from here"
            )
            try:
                connection = _open_checked(path, is_new_node=False)
            except Damaged as again:
                raise StateUnusable(f"cannot use {path}: {again}") from None
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
            self._connection.execute(_SAVE, _values(row))

        await self._call(work)

    async def save_batches(self, job: JobId, first: int, batches: Sequence[bytes]) -> None:
        def work() -> None:
            self._connection.execute("DELETE FROM snapshots WHERE job = ? AND base > ?", (job, first))
            self._replace_batches(job, first, batches)

        await self._call(work)

    def _replace_batches(self, job: JobId, first: int, batches: Sequence[bytes]) -> None:
        self._connection.execute("DELETE FROM batches WHERE job = ? AND sequence >= ?", (job, first))
        rows = [(job, first + place, batch) for place, batch in enumerate(batches)]
        self._connection.executemany("INSERT INTO batches VALUES (?, ?, ?)", rows)

    async def forget(self, job: JobId, at_s: float) -> None:
        def work() -> None:
            self._connection.execute("DELETE FROM seats WHERE job = ?", (job,))
            self._connection.execute("INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", (_GIVEN_UP + job, at_s))
            self._connection.execute(
                "DELETE FROM facts WHERE key IN (SELECT key FROM facts WHERE key LIKE ? ORDER BY value DESC, key "
                "LIMIT -1 OFFSET ?)",
                (_GIVEN_UP + "%", SEATS_GIVEN_UP_MAX),
            )

        await self._call(work)

    async def given_up(self) -> list[JobId]:
        def work() -> list[JobId]:
            rows = self._connection.execute(
                "SELECT key FROM facts WHERE key LIKE ? ORDER BY value, key", (_GIVEN_UP + "%",)
            )
            return [JobId(key.removeprefix(_GIVEN_UP)) for (key,) in rows.fetchall()]

        return await self._call(work)

    async def save_snapshot(
        self, job: JobId, base: int, snapshot: Snapshot, batches: Sequence[bytes] | None = None
    ) -> None:
        def work() -> None:
            values = (job, base, snapshot.data, snapshot.checkpoint)
            self._connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", values)
            self._connection.execute("DELETE FROM batches WHERE job = ? AND sequence < ?", (job, base))
            if batches is not None:
                self._replace_batches(job, base, batches)

        await self._call(work)

    async def snapshots(self) -> dict[JobId, Snapshot]:
        def work() -> dict[JobId, Snapshot]:
            rows = self._connection.execute("SELECT job, data, checkpoint FROM snapshots").fetchall()
            return {JobId(job): Snapshot(data, checkpoint) for job, data, checkpoint in rows}

        return await self._call(work)

    async def seats(self) -> list[tuple[SeatRow, tuple[bytes, ...]]]:
        def work() -> list[tuple[SeatRow, tuple[bytes, ...]]]:
            found = []
            for values in self._connection.execute(_SEATS).fetchall():
                seat = _seat(values)
                batches = self._connection.execute(
                    "SELECT signed FROM batches WHERE job = ? ORDER BY sequence", (seat.job,)
                ).fetchall()
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
        """From the base on."""
        self._snapshots: dict[JobId, tuple[int, Snapshot]] = {}
        self._given_up: dict[JobId, float] = {}
        self.forgot_s: float | None = None
        """When its memory was lost, if ever."""

    async def save_seat(self, row: SeatRow) -> None:
        self._seats[row.job] = row
        self._batches.setdefault(row.job, [])

    async def save_batches(self, job: JobId, first: int, batches: Sequence[bytes]) -> None:
        base = self._snapshots[job][0] if job in self._snapshots else 0
        if first < base:
            del self._snapshots[job]
            base, self._batches[job] = 0, []
        self._batches[job][first - base :] = batches

    async def save_snapshot(
        self, job: JobId, base: int, snapshot: Snapshot, batches: Sequence[bytes] | None = None
    ) -> None:
        before = self._snapshots[job][0] if job in self._snapshots else 0
        self._snapshots[job] = base, snapshot
        del self._batches[job][: base - before]
        if batches is not None:
            self._batches[job] = list(batches)

    async def snapshots(self) -> dict[JobId, Snapshot]:
        return {job: snapshot for job, (_, snapshot) in self._snapshots.items()}

    async def forget(self, job: JobId, at_s: float) -> None:
        self._seats.pop(job, None)
        self._batches.pop(job, None)
        self._snapshots.pop(job, None)
        self._given_up[job] = at_s

    async def given_up(self) -> list[JobId]:
        return list(self._given_up)

    async def seats(self) -> list[tuple[SeatRow, tuple[bytes, ...]]]:
        return [(row, tuple(self._batches[job])) for job, row in sorted(self._seats.items())]

    async def forgot_at_s(self) -> float | None:
        return self.forgot_s


def _values(row: SeatRow) -> tuple[Any, ...]:
    values = (
        row.job,
        row.manifest,
        row.epoch,
        row.promised.round,
        row.promised.candidate,
        row.granted.round,
        row.granted.candidate,
        row.lease_s,
        int(row.sealed),
        int(row.over),
        _epochs_text(row),
    )
    return (*values, _checksum(values))


def _seat(values: tuple[Any, ...]) -> SeatRow:
    job, manifest, epoch, p_round, p_candidate, g_round, g_candidate, lease_s, sealed, over, epochs, _ = values
    promised, granted = Term(p_round, p_candidate), Term(g_round, g_candidate)
    row = SeatRow(JobId(job), manifest, epoch, promised, granted, lease_s, bool(sealed), bool(over))
    if not epochs:
        return row
    changes, change, statement = json.loads(epochs)
    return replace(
        row,
        changes=tuple(bytes.fromhex(each) for each in changes),
        change=bytes.fromhex(change),
        statement=bytes.fromhex(statement),
    )


def _epochs_text(row: SeatRow) -> str:
    """What there is beyond a first epoch that goes on; empty for nearly all."""
    if not (row.changes or row.change):
        return ""
    return json.dumps([[each.hex() for each in row.changes], row.change.hex(), row.statement.hex()])


def _checksum(values: Sequence[Any]) -> bytes:
    *others, epochs = values
    # As it was before there were epochs, where there is none: those seats stay as they are.
    covered = tuple(others) if epochs == "" else tuple(values)
    return hashlib.blake2b(repr(covered).encode(), digest_size=16).digest()


def _open_checked(path: Path, *, is_new_node: bool) -> sqlite3.Connection:
    """Raises `Damaged`, `StateUnusable`."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise StateUnusable(f"cannot use {path}: {error.strerror}") from None
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise Damaged(str(found).replace("\n", " "))
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _BEFORE_EPOCHS, _BEFORE_SNAPSHOTS, _VERSION):
            raise Damaged(f"its version is {version}, and this peerinfer knows {_VERSION}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        if version == 0:
            _make(connection, is_new_node=is_new_node)
        if version in (_BEFORE_EPOCHS, _BEFORE_SNAPSHOTS):
            connection.execute("BEGIN IMMEDIATE")
            if version == _BEFORE_EPOCHS:
                connection.execute("ALTER TABLE seats ADD COLUMN epochs TEXT NOT NULL DEFAULT ''")
            connection.execute(_SNAPSHOTS)
            connection.execute(f"PRAGMA user_version={_VERSION}")
            connection.execute("COMMIT")
        for values in connection.execute(_SEATS):
            if values[-1] != _checksum(values[:-1]):
                raise Damaged("a seat is not as it was written")
        if connection.execute("SELECT 1 FROM batches WHERE typeof(signed) != 'blob' LIMIT 1").fetchone():
            raise Damaged("a journal is not as it was written")
    except sqlite3.Error as error:
        connection.close()
        # Without a code, a text is none; an SQL error: the tables have other columns, of another program.
        if is_damage(error) or getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise Damaged(str(error)) from None
        raise unusable(path, error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection, *, is_new_node: bool) -> None:
    # One transaction: a node that is killed here must not find an empty file next time and take it for its memory.
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    if not is_new_node:
        connection.execute("INSERT INTO facts (key, value) VALUES (?, ?)", (_FORGOT, time.time()))
    connection.execute(f"PRAGMA user_version={_VERSION}")
    connection.execute("COMMIT")


def _move_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    try:
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise StateUnusable(f"cannot move the damaged {path} aside: {error.strerror}") from None
    return aside
