"""One contract for both stores, then what only the one on disk can get wrong."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from peerinfer.errors import LimitExceeded, StateUnusable
from peerinfer.ids import JobId, PeerId
from peerinfer_node import memory_store, store, store_schema
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.peer_rows import PeerRow
from peerinfer_node.ports import JobRow, Store
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.spool import RECORD_BYTES_MAX
from peerinfer_node.store import SqliteStore


def job_id(number: int) -> JobId:
    return JobId(f"{number:032x}")


def job_row(
    number: int, *, ended_at_s: float | None = None, state: str = "running", request: str = "{}", summary: str = "{}"
) -> JobRow:
    return JobRow(job_id(number), b"manifest %d" % number, request, state, float(number), ended_at_s, summary)


def key_of(job: int, task: int) -> bytes:
    return b"%016d%016d" % (job, task)


def record_row(job: int, *tasks: int, offset: int = 0, keys: bytes | None = None, frame: int = 0) -> RecordRow:
    known = b"".join(key_of(job, task) for task in tasks) if keys is None else keys
    return RecordRow(job_id(job), offset, tasks, known, frame, PeerId("p"), b"signed %d" % frame if frame else b"")


async def tasks_of(kept: Store, job: int) -> list[int]:
    return sorted(task for row in await kept.records_of(job_id(job)) for task in row.tasks)


def peer_row(number: int, last_seen_s: float) -> PeerRow:
    return PeerRow(PeerId(f"peer{number}"), ("/ip4/10.0.0.1/tcp/1", 'odd "\n'), b"advert", last_seen_s)


@pytest.fixture(params=["sqlite", "memory"])
async def kept(request: Any, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with SqliteStore.open(tmp_path / "state.db") as opened:
        yield opened


# --- the contract --------------------------------------------------------------------------------------------------


async def test_a_job_is_remembered_changed_and_forgotten(kept: Store) -> None:
    assert await kept.job(job_id(1)) is None
    await kept.add_job(job_row(1))
    await kept.add_job(job_row(2))
    assert await kept.job(job_id(1)) == job_row(1)
    await kept.set_job_state(job_id(1), "done", ended_at_s=9.5, summary='{"items": 3}')
    changed = await kept.job(job_id(1))
    assert changed is not None
    assert (changed.state, changed.ended_at_s, changed.summary) == ("done", 9.5, '{"items": 3}')
    await kept.forget_job(job_id(1))
    assert [row.job for row in await kept.jobs()] == [job_id(2)]


async def test_a_job_added_again_replaces_the_old_row_and_keeps_its_results(kept: Store) -> None:
    await kept.add_job(job_row(1))
    await kept.add_record(record_row(1, 0))
    await kept.add_job(job_row(1, state="paused"))
    assert await kept.job(job_id(1)) == job_row(1, state="paused")
    assert await kept.records_of(job_id(1)) == [record_row(1, 0)]


async def test_jobs_come_newest_first_and_as_many_as_asked_for(kept: Store) -> None:
    for number in (2, 5, 1, 4, 3):
        await kept.add_job(job_row(number))
    assert [row.created_at_s for row in await kept.jobs()] == [5, 4, 3, 2, 1]
    assert [row.created_at_s for row in await kept.jobs(limit=2)] == [5, 4]
    assert await kept.jobs(limit=0) == []


async def test_changing_a_job_that_is_not_known_has_no_effect(kept: Store) -> None:
    await kept.set_job_state(job_id(1), "done", ended_at_s=1.0, summary="{}")
    await kept.forget_job(job_id(1))
    assert await kept.jobs() == []


async def test_what_is_not_a_job_id_is_refused(kept: Store) -> None:
    bad = JobRow(JobId("../x"), b"", "{}", "queued", 0.0, None, "{}")
    with pytest.raises(ValueError, match="not a job id"):
        await kept.add_job(bad)
    with pytest.raises(ValueError, match="not a job id"):
        await kept.append_results(JobId("../x"), [b""])


async def test_records_are_read_back_at_their_offsets(kept: Store) -> None:
    await kept.add_job(job_row(1))
    first = await kept.append_results(job_id(1), [b"ab", bytearray(b"cd"), memoryview(b"ef")])
    second = await kept.append_results(job_id(1), [])
    third = await kept.append_results(job_id(1), [b"third"])
    assert first < second < third
    assert await kept.read_results(job_id(1), first) == b"abcdef"
    assert await kept.read_results(job_id(1), second) == b""
    assert await kept.read_results(job_id(1), third) == b"third"
    for job, offset in ((1, third + 1), (1, 10**12), (2, 0)):
        with pytest.raises(StateUnusable):
            await kept.read_results(job_id(job), offset)
    with pytest.raises(ValueError, match="passes the limit"):
        await kept.append_results(job_id(1), [bytes(RECORD_BYTES_MAX + 1)])


async def test_the_record_that_was_added_last_counts_for_a_task(kept: Store) -> None:
    await kept.add_job(job_row(1))
    await kept.add_record(record_row(1, 3, 1, 2))
    await kept.add_record(record_row(1, 4, offset=60))
    await kept.add_record(record_row(1, 2, 4, keys=b"n" * 64, offset=99))
    assert await kept.records_of(job_id(1)) == [
        record_row(1, 3, 1),
        record_row(1, 2, 4, keys=b"n" * 64, offset=99),
    ]
    assert await kept.find_records([key_of(1, 2)]) == []
    assert await kept.records_of(job_id(2)) == []


async def test_results_are_found_by_key_across_jobs_and_the_last_job_counts(kept: Store) -> None:
    for number in (1, 2):
        await kept.add_job(job_row(number))
    key = b"k" * 32
    await kept.add_record(record_row(2, 6, 7, keys=b"j" * 32 + key))
    await kept.add_record(record_row(1, 0, 1, 2, keys=key + key_of(1, 1) + key_of(1, 2)))
    await kept.add_record(record_row(1, 5, keys=b"", offset=70))
    assert await kept.find_records([key, key_of(1, 1), b"x" * 32]) == [
        record_row(2, 7, keys=key),
        record_row(1, 1),
    ]
    await kept.forget_job(job_id(2))
    assert await kept.find_records([key]) == [record_row(1, 0, keys=key)]
    assert await kept.find_records([]) == []


async def test_of_two_tasks_with_the_same_key_one_is_found(kept: Store) -> None:
    await kept.add_job(job_row(1))
    await kept.add_record(record_row(1, 4, 9, keys=b"k" * 64))
    assert await kept.find_records([b"k" * 32]) == [record_row(1, 4, keys=b"k" * 32)]


async def test_voided_results_are_gone_and_may_come_again(kept: Store) -> None:
    await kept.add_job(job_row(1))
    await kept.add_record(record_row(1, 0, 1, 2, 3, 4, frame=5))
    await kept.add_record(record_row(1, 3, offset=50, frame=6))
    await kept.void_results(job_id(1), [1, 3, 77])
    assert await kept.records_of(job_id(1)) == [record_row(1, 0, 2, 4, frame=5)]
    assert await kept.find_records([key_of(1, 1), key_of(1, 3)]) == []
    assert [row.frame for row in await kept.receipts_of(job_id(1))] == [5, 6], "what was signed stays signed"
    await kept.add_record(record_row(1, 1, offset=90))
    assert await tasks_of(kept, 1) == [0, 1, 2, 4]


async def test_receipts_come_by_frame(kept: Store) -> None:
    await kept.add_job(job_row(1))
    rows = [record_row(1, 3 * number, offset=number, frame=frame) for number, frame in enumerate((2**48 - 1, 1, 2))]
    for row in [*rows, record_row(1, 100, offset=3)]:
        await kept.add_record(row)
    assert await kept.receipts_of(job_id(1)) == [rows[1], rows[2], rows[0]]
    assert await kept.receipts_of(job_id(2)) == []


async def test_a_record_of_an_unknown_job_is_refused(kept: Store) -> None:
    await kept.add_job(job_row(1))
    with pytest.raises(StateUnusable, match="is not"):
        await kept.add_record(record_row(2, 0))
    assert await kept.find_records([key_of(2, 0)]) == []


async def test_a_forgotten_job_takes_everything_with_it(kept: Store) -> None:
    await kept.add_job(job_row(1))
    offset = await kept.append_results(job_id(1), [b"record"])
    await kept.add_record(record_row(1, 0, frame=1))
    await kept.forget_job(job_id(1))
    await kept.add_job(job_row(1))
    assert await kept.records_of(job_id(1)) == []
    assert await kept.receipts_of(job_id(1)) == []
    assert await kept.find_records([key_of(1, 0)]) == []
    with pytest.raises(StateUnusable):
        await kept.read_results(job_id(1), offset)


async def test_the_oldest_ended_jobs_go_first_when_there_are_too_many(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (store, memory_store):
        monkeypatch.setattr(module, "JOBS_KEPT_MAX", 3)
    await kept.add_job(job_row(1))
    await kept.add_job(job_row(2, ended_at_s=20.0, state="done"))
    await kept.add_job(job_row(3, ended_at_s=10.0, state="failed"))
    offset = await kept.append_results(job_id(3), [b"outputs"])
    await kept.add_job(job_row(4))
    assert {row.job for row in await kept.jobs()} == {job_id(1), job_id(2), job_id(4)}
    with pytest.raises(StateUnusable):
        await kept.read_results(job_id(3), offset)
    await kept.add_job(job_row(5))
    with pytest.raises(LimitExceeded, match="jobs"):
        await kept.add_job(job_row(6))
    assert {row.job for row in await kept.jobs()} == {job_id(1), job_id(4), job_id(5)}
    await kept.add_job(job_row(5, state="paused"))


async def test_others_jobs_go_before_those_of_this_node_and_first_those_without_results(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (store, memory_store):
        monkeypatch.setattr(module, "JOBS_KEPT_MAX", 3)
    await kept.add_job(job_row(1, ended_at_s=10.0, state="done"))
    await kept.add_job(job_row(2, ended_at_s=20.0, state="done", request='{"replica": {}}'))
    gone = '{"results_gone": "its submitter has them"}'
    await kept.add_job(job_row(3, ended_at_s=30.0, state="done", request='{"replica": {}}', summary=gone))
    for new, left in ((4, {1, 2, 4}), (5, {1, 4, 5}), (6, {4, 5, 6})):
        await kept.add_job(job_row(new))
        assert {row.job for row in await kept.jobs()} == {job_id(number) for number in left}


async def test_dropped_results_leave_the_job_behind_and_settled_ones_stay(kept: Store) -> None:
    await kept.add_job(job_row(1))
    offset = await kept.append_results(job_id(1), [b"record"])
    await kept.add_record(record_row(1, 0, frame=1))
    await kept.settle(job_id(1))
    assert await kept.read_results(job_id(1), offset) == b"record"
    await kept.drop_results(job_id(1))
    assert [row.job for row in await kept.jobs()] == [job_id(1)]
    assert await kept.records_of(job_id(1)) == await kept.receipts_of(job_id(1)) == []
    with pytest.raises(StateUnusable):
        await kept.read_results(job_id(1), offset)
    await kept.drop_results(job_id(2))
    await kept.settle(job_id(2))


async def test_the_peers_seen_last_are_the_ones_remembered(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store, memory_store):
        monkeypatch.setattr(module, "PEERS_REMEMBERED_MAX", 3)
    await kept.remember_peers([peer_row(number, float(number)) for number in (1, 4, 2)])
    await kept.remember_peers([peer_row(3, 3.0), peer_row(5, 0.5), peer_row(2, 9.0)])
    assert await kept.peers() == [peer_row(2, 9.0), peer_row(4, 4.0), peer_row(3, 3.0)]


async def test_settings_are_set_replaced_and_removed(kept: Store) -> None:
    assert await kept.setting("paused_until") is None
    await kept.set_setting("paused_until", "1.5")
    await kept.set_setting("paused_until", "2.5")
    assert await kept.setting("paused_until") == "2.5"
    await kept.set_setting("paused_until", None)
    await kept.set_setting("never", None)
    assert await kept.setting("paused_until") is None


async def test_many_calls_at_once_all_take_effect_and_a_bad_one_harms_no_other(kept: Store) -> None:
    await kept.add_job(job_row(1))
    refused = []

    async def add(task: int) -> None:
        try:
            await kept.add_record(record_row(2 if task % 10 == 0 else 1, task))
        except StateUnusable:
            refused.append(task)

    async with trio.open_nursery() as nursery:
        for task in range(200):
            nursery.start_soon(add, task)
    assert sorted(refused) == list(range(0, 200, 10))
    assert await tasks_of(kept, 1) == [task for task in range(200) if task % 10]


# --- on disk -------------------------------------------------------------------------------------------------------


async def filled(path: Path) -> int:
    """A store with a job, a record and a result. Returns the record's offset."""
    with SqliteStore.open(path) as opened:
        await opened.add_job(job_row(1))
        await opened.append_results(job_id(1), [b"zeroth"])
        offset = await opened.append_results(job_id(1), [b"record"])
        await opened.add_record(record_row(1, 0, offset=offset, frame=1))
        await opened.remember_peers([peer_row(1, 1.0)])
        await opened.set_setting("key", "value")
    return offset


async def test_everything_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    offset = await filled(tmp_path / "state.db")
    with SqliteStore.open(tmp_path / "state.db") as opened:
        assert opened.warning is None
        assert await opened.jobs() == [job_row(1)]
        assert await opened.records_of(job_id(1)) == [record_row(1, 0, offset=offset, frame=1)]
        assert await opened.read_results(job_id(1), offset) == b"record"
        assert len(await opened.receipts_of(job_id(1))) == 1
        assert await opened.peers() == [peer_row(1, 1.0)]
        assert await opened.setting("key") == "value"


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as opened:
        await opened.add_job(job_row(1))
        await opened.append_results(job_id(1), [b"x"])
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}  # noqa: ASYNC240
    assert {"state.db", "state.db-wal", "state.db-shm", "jobs", f"{job_id(1)}.spool"} <= modes.keys()
    assert {mode for name, mode in modes.items() if name != "jobs"} == {0o600}
    assert modes["jobs"] == 0o700


async def test_no_thread_and_no_file_is_left_open(tmp_path: Path) -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    opened = SqliteStore.open(tmp_path / "state.db")
    await opened.add_job(job_row(1))
    await opened.append_results(job_id(1), [b"x"])
    opened.close()
    opened.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files
    with pytest.raises(StateUnusable, match="closed"):
        await opened.jobs()


async def test_calls_that_wait_together_share_a_transaction(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as opened:
        await opened.add_job(job_row(1))
        statements: list[str] = []
        opened._writer.set_trace_callback(statements.append)
        async with trio.open_nursery() as nursery:
            for task in range(500):
                nursery.start_soon(opened.add_record, record_row(1, task))
        opened._writer.set_trace_callback(None)
        assert len(await opened.records_of(job_id(1))) == 500
    assert statements.count("COMMIT") < 100


async def test_a_cancelled_caller_leaves_the_store_in_order(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as opened:
        with trio.CancelScope() as scope:
            scope.cancel()
            await opened.add_job(job_row(1))
        assert scope.cancelled_caught
        await opened.set_setting("after", "it")
        assert await opened.setting("after") == "it"


def make_garbage(path: Path) -> None:
    path.write_bytes(random.Random(3).randbytes(20_000))


def make_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def make_damaged_inside(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:12288] = b"\xff" * 8192
    path.write_bytes(data)


def make_future(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=999")
    connection.close()


def make_foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cookies (host)")
    connection.close()


def make_incomplete(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE records")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (make_garbage, "not a database"),
        (make_truncated, "malformed"),
        (make_damaged_inside, ""),
        (make_future, "version is 999"),
        (make_foreign, "another program"),
        (make_incomplete, "lacks the table records"),
    ],
)
async def test_a_state_db_that_is_no_good_is_moved_aside_and_said(tmp_path: Path, spoil: Any, reason: str) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    for number in (1, 2):
        spoil(path)
        spoilt = path.read_bytes()
        with SqliteStore.open(path) as opened:
            assert opened.warning is not None
            assert str(tmp_path / f"state.db.corrupt-{number}") in opened.warning
            assert reason in opened.warning
            assert "\n" not in opened.warning
            assert await opened.jobs() == []
            await opened.add_job(job_row(1))
            await opened.append_results(job_id(1), [b"x"])
            await opened.add_record(record_row(1, *range(500)))
        assert (tmp_path / f"state.db.corrupt-{number}").read_bytes() == spoilt
        assert (tmp_path / f"state.db.corrupt-{number}-jobs" / f"{job_id(1)}.spool").exists()
        with SqliteStore.open(path) as opened:
            assert opened.warning is None
            assert await opened.jobs() == [job_row(1)]


async def test_an_empty_state_db_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    with SqliteStore.open(tmp_path / "state.db") as opened:
        assert opened.warning is None
        await opened.add_job(job_row(1))


async def test_a_state_db_of_an_older_version_is_brought_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path / "state.db")
    newer = (*store_schema.MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",))
    monkeypatch.setattr(store_schema, "MIGRATIONS", newer)
    for _ in range(2):
        with SqliteStore.open(tmp_path / "state.db") as opened:
            assert opened.warning is None
            assert await opened.jobs() == [job_row(1)]
            assert opened._reader.execute("SELECT note FROM jobs").fetchone() == ("none",)


async def test_results_that_stood_one_to_a_row_are_kept_with_their_receipts(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    connection = sqlite3.connect(path)
    for statement in store_schema.MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("INSERT INTO jobs VALUES (7, ?, x'', '{}', 'done', 1.0, 2.0, '{}')", (job_id(1),))
    rows = [(3, key_of(1, 3), 0), (1, key_of(1, 1), 0), (2, key_of(1, 2), 40), (5, b"no key of its contents" * 2, 80)]
    connection.executemany("INSERT INTO results VALUES (7, ?, ?, ?, 0, 0, 1)", rows)
    connection.execute("INSERT INTO receipts VALUES (7, 4, 'p', x'01')")
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / f"{job_id(1)}.spool").write_bytes(bytes(200))
    with SqliteStore.open(path) as opened:
        assert opened.warning is None
        assert [(row.offset, sorted(row.keyed())) for row in await opened.records_of(job_id(1))] == [
            (0, [(1, key_of(1, 1)), (3, key_of(1, 3))]),
            (40, [(2, key_of(1, 2))]),
            (80, [(5, b"")]),
        ]
        assert [(row.frame, row.peer, row.receipt) for row in await opened.receipts_of(job_id(1))] == [(4, "p", b"\1")]


async def test_a_place_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    for path in (tmp_path / "folder.db", tmp_path / "missing" / "state.db"):
        with pytest.raises(StateUnusable, match="cannot use") as caught:
            SqliteStore.open(path)
        assert "\n" not in str(caught.value)


async def test_spools_without_a_job_are_cleared_at_the_start(tmp_path: Path) -> None:
    await filled(tmp_path / "state.db")
    stray = tmp_path / "jobs" / f"{job_id(9)}.spool"
    stray.write_bytes(b"left over")
    (tmp_path / "jobs" / "notes.txt").write_bytes(b"mine")
    SqliteStore.open(tmp_path / "state.db").close()
    assert not stray.exists()
    assert (tmp_path / "jobs" / "notes.txt").exists()
    assert (tmp_path / "jobs" / f"{job_id(1)}.spool").exists()


async def test_rows_whose_record_a_power_cut_took_are_cleared_at_the_start(tmp_path: Path) -> None:
    offset = await filled(tmp_path / "state.db")
    spool = tmp_path / "jobs" / f"{job_id(1)}.spool"
    spool.write_bytes(spool.read_bytes()[:offset])
    with SqliteStore.open(tmp_path / "state.db") as opened:
        assert await opened.records_of(job_id(1)) == []
        await opened.add_record(record_row(1, 1, offset=0))
        assert await opened.read_results(job_id(1), 0) == b"zeroth"


async def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as opened:
        await opened.add_job(job_row(1))
        pages = opened._writer.execute("PRAGMA page_count").fetchone()[0]
        opened._writer.execute(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(StateUnusable, match="full; free some space"):
            await opened.add_record(record_row(1, *range(5000)))
        assert await opened.records_of(job_id(1)) == []
        opened._writer.execute("PRAGMA max_page_count=1000000")
        await opened.add_record(record_row(1, 0))
        assert await opened.records_of(job_id(1)) == [record_row(1, 0)]


# --- kill -9 -------------------------------------------------------------------------------------------------------

KILL_ROUNDS = 12
WRITERS = 4

CHILD = """
import random, sys, trio
from pathlib import Path
from peerinfer.ids import JobId, PeerId
from peerinfer_node.ports import JobRow
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.store import SqliteStore

job = JobId("ab" * 16)
first, writers = int(sys.argv[2]), int(sys.argv[3])

async def write(store, task):
    while True:
        record = random.Random(task).randbytes(random.Random(task).randrange(200_000))
        offset = await store.append_results(job, [record[:7], record[7:]])
        key = b"%032d" % task
        await store.add_record(RecordRow(job, offset, (task,), key, task, PeerId("p"), key))
        print(task, offset, flush=True)
        task += writers

async def main():
    with SqliteStore.open(Path(sys.argv[1])) as store:
        assert store.warning is None, store.warning
        if await store.job(job) is None:
            await store.add_job(JobRow(job, b"", "{}", "running", 1.0, None, "{}"))
        async with trio.open_nursery() as nursery:
            for writer in range(writers):
                nursery.start_soon(write, store, first + writer)

trio.run(main)
"""


def run_and_kill(path: Path, first: int, lines_until_kill: int) -> dict[int, int]:
    """Offsets by task that a child acknowledged before it was killed."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(first), str(WRITERS)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    # Four writers are always under way, so after any line the child dies in the middle of something.
    lines = [child.stdout.readline() for _ in range(lines_until_kill)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.read().splitlines(keepends=True)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    return {int(task): int(offset) for task, offset in (line.split() for line in lines if line.endswith(b"\n"))}


@pytest.mark.slow
async def test_what_was_acknowledged_survives_kill_9_at_any_point(tmp_path: Path) -> None:
    rng = random.Random(20)
    job = JobId("ab" * 16)
    acknowledged: dict[int, int] = {}
    for kill_round in range(KILL_ROUNDS):
        acknowledged |= run_and_kill(tmp_path / "state.db", kill_round * 1_000_000, rng.randrange(1, 60))
        with SqliteStore.open(tmp_path / "state.db") as opened:
            assert opened.warning is None
            rows = {row.tasks[0]: row for row in await opened.records_of(job)}
            receipts = {row.frame for row in await opened.receipts_of(job)}
            assert rows.keys() == receipts
            for task, offset in acknowledged.items():
                assert rows[task].offset == offset
            # Every row points at a whole record, acknowledged or not.
            for task, row in rows.items():
                expected = random.Random(task).randbytes(random.Random(task).randrange(200_000))
                assert await opened.read_results(job, row.offset) == expected
    assert len(acknowledged) > KILL_ROUNDS


def test_a_disk_that_says_only_that_it_failed_is_named_as_full_or_failing(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    said = str(store_schema.unusable(tmp_path / "state.db", error))
    assert said == f"cannot use {tmp_path}/state.db: disk I/O error; is its disk full, or failing?"
