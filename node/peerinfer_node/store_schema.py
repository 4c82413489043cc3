"""The tables of state.db, how an older file is brought forward, and how a file that is no good is told from one that is.

`user_version` is the number of migrations that a file has seen. A migration that has been released never changes.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from peerinfer.errors import StateUnusable
from peerinfer_node.record_rows import TASK_KEY_BYTES

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # `number` stands for the job in the large tables: 8 bytes instead of 32 characters, twice per task.
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY, job TEXT NOT NULL UNIQUE, manifest BLOB NOT NULL, request TEXT NOT NULL,
            state TEXT NOT NULL, created_at_s REAL NOT NULL, ended_at_s REAL, summary TEXT NOT NULL)""",
        """CREATE TABLE results (
            number INTEGER NOT NULL REFERENCES jobs(number) ON DELETE CASCADE, task INTEGER NOT NULL,
            task_key BLOB NOT NULL, record_offset INTEGER NOT NULL, record_group INTEGER NOT NULL,
            first_item INTEGER NOT NULL, items INTEGER NOT NULL, PRIMARY KEY (number, task)) WITHOUT ROWID""",
        "CREATE INDEX results_by_key ON results (task_key)",
        """CREATE TABLE receipts (
            number INTEGER NOT NULL REFERENCES jobs(number) ON DELETE CASCADE, frame INTEGER NOT NULL,
            peer TEXT NOT NULL, signed BLOB NOT NULL, PRIMARY KEY (number, frame, peer)) WITHOUT ROWID""",
        """CREATE TABLE peers (
            peer TEXT PRIMARY KEY, addresses TEXT NOT NULL, advert BLOB NOT NULL, last_seen_s REAL NOT NULL)""",
        "CREATE INDEX peers_by_last_seen ON peers (last_seen_s)",
        "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ),
    (
        # One row for each record of a spool in place of one for each task. `tasks` holds 32-bit numbers, little-endian.
        """CREATE TABLE records (
            record INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES jobs(number) ON DELETE CASCADE,
            record_offset INTEGER NOT NULL, tasks BLOB NOT NULL, task_keys BLOB NOT NULL, frame INTEGER NOT NULL,
            peer TEXT NOT NULL, receipt BLOB NOT NULL)""",
        "CREATE INDEX records_by_job ON records (number)",
        """INSERT INTO records (number, record_offset, tasks, task_keys, frame, peer, receipt)
            SELECT number, record_offset, packed(task), joined_keys(task_key), 0, '', x'' FROM results
            GROUP BY number, record_offset ORDER BY number, record_offset""",
        """INSERT INTO records (number, record_offset, tasks, task_keys, frame, peer, receipt)
            SELECT number, 0, x'', x'', frame, peer, signed FROM receipts""",
        "DROP TABLE results",
        "DROP TABLE receipts",
    ),
    (
        """CREATE TABLE reputation (
            peer TEXT PRIMARY KEY, evidence TEXT NOT NULL, mac BLOB NOT NULL, at_s REAL NOT NULL) WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE statements (
            signed BLOB PRIMARY KEY, kind TEXT NOT NULL, note TEXT NOT NULL, mac BLOB NOT NULL)""",
    ),
)

_TABLES = ("jobs", "records", "peers", "settings")
_TABLES_OF_FIRST = ("jobs", "results", "receipts", "peers", "settings")
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Damaged(Exception):
    """The file is there and is not, or not any more, a state.db that this version can use. Its text says why."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode that outlives kill -9 with every commit (`synchronous=NORMAL`; a power cut may cost the
    last ones). Raises sqlite3.Error. To be used by one thread at a time."""
    connection = _plain(path)
    try:
        _configure(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _plain(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA journal_size_limit=67108864")


def open_checked(path: Path) -> sqlite3.Connection:
    """A connection to a file that was checked and has the newest schema. Raises `Damaged` or `StateUnusable`."""
    try:
        # SQLite would create the file readable for all; its -wal and -shm files take over the mode set here.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise StateUnusable(f"cannot use {path}: {error.strerror}") from None
    try:
        connection = _plain(path)
        try:
            # Checked first: a file that is not ours must not even change its journal mode.
            _check(connection)
            _configure(connection)
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        if is_damage(error):
            raise Damaged(str(error)) from None
        raise unusable(path, error) from None
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """True if the file is no good, whatever was asked of it."""
    return _code(error) in _DAMAGED


def unusable(path: Path, error: sqlite3.Error) -> StateUnusable:
    """What a foreign exception means to the user, in one line."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return StateUnusable(f"the disk that holds {path} is full; free some space and start again")
    if is_damage(error):
        return StateUnusable(f"{path} was damaged while it was in use ({error}); start again to have it moved aside")
    if code == sqlite3.SQLITE_IOERR:  # what a full disk says where SQLite needs room for its index of the log
        return StateUnusable(f"cannot use {path}: {error}; is its disk full, or failing?")
    return StateUnusable(f"cannot use {path}: {error}")


def _code(error: sqlite3.Error) -> int:
    # The low byte is the kind; the rest only refines it.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise Damaged(str(found).replace("\n", " "))
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= version <= len(MIGRATIONS):
        raise Damaged(f"its version is {version}, and this peerinfer knows {len(MIGRATIONS)} at most")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and tables:
        raise Damaged("it is the database of another program")
    lacking = [name for name in (_TABLES_OF_FIRST if version == 1 else _TABLES) if name not in tables]
    if version > 0 and lacking:
        raise Damaged(f"it lacks the table {lacking[0]}")


class _Packed:
    """An SQL aggregate: task numbers in one byte string."""

    def __init__(self) -> None:
        self._found: list[bytes] = []

    def step(self, task: int) -> None:
        self._found.append(task.to_bytes(4, "little"))

    def finalize(self) -> bytes:
        return b"".join(self._found)


class _JoinedKeys:
    """An SQL aggregate: keys in one byte string, or none if one of them is not a key of a task's contents."""

    def __init__(self) -> None:
        self._found: list[bytes] = []

    def step(self, key: bytes) -> None:
        self._found.append(key)

    def finalize(self) -> bytes:
        return b"".join(self._found) if all(len(key) == TASK_KEY_BYTES for key in self._found) else b""


def _migrate(connection: sqlite3.Connection) -> None:
    connection.create_aggregate("packed", 1, _Packed)  # type: ignore[arg-type]
    connection.create_aggregate("joined_keys", 1, _JoinedKeys)  # type: ignore[arg-type]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def move_aside(path: Path, jobs: Path) -> Path:
    """Renames a damaged state.db and the spools that it knew, so that a person may still look. Returns its new name.

    Raises `StateUnusable`.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    try:
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        if jobs.exists():
            jobs.rename(aside.with_name(aside.name + "-jobs"))
    except OSError as error:
        raise StateUnusable(f"cannot move the damaged {path} aside: {error.strerror}") from None
    return aside
