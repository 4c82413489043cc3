import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest
import trio
from lease_setting import PEERS, Setting, keys, term

from peerinfer.elector import Elector
from peerinfer.elector_events import Restored, SeatRow
from peerinfer.errors import DecodeError, ProtocolError, StateUnusable
from peerinfer.ids import JobId
from peerinfer.messages import Term
from peerinfer.snapshots import Snapshot
from peerinfer_node import seat_store
from peerinfer_node.seat_store import MemorySeatStore, SqliteSeatStore

JOB = JobId("0" * 31 + "1")
OTHER = JobId("0" * 31 + "2")


def seat(job=JOB, *, promised=3, granted=2, sealed=False, over=False):
    return SeatRow(job, b"manifest", 1, Term(promised, "ada"), Term(granted, "bob"), 3.0, sealed, over)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "seats.db"


@pytest.fixture(params=["file", "memory"])
def store(request, path):
    if request.param == "memory":
        yield MemorySeatStore()
        return
    with SqliteSeatStore.open(path, is_new_node=True) as opened:
        yield opened


async def test_seats_come_back_with_their_journals_in_order(store):
    await store.save_seat(seat(OTHER))
    await store.save_seat(seat(JOB, sealed=True, over=True))
    await store.save_batches(JOB, 0, [b"one", b"two"])
    assert await store.seats() == [(seat(JOB, sealed=True, over=True), (b"one", b"two")), (seat(OTHER), ())]


async def test_a_later_promise_replaces_the_earlier_and_keeps_the_journal(store):
    await store.save_seat(seat(promised=3))
    await store.save_batches(JOB, 0, [b"one"])
    await store.save_seat(seat(promised=9, over=True))
    assert await store.seats() == [(seat(promised=9, over=True), (b"one",))]


async def test_a_journal_is_replaced_from_where_it_is_told_on(store):
    await store.save_seat(seat())
    await store.save_batches(JOB, 0, [b"a", b"b", b"c"])
    await store.save_batches(JOB, 1, [b"d"])
    assert await store.seats() == [(seat(), (b"a", b"d"))]


async def test_a_snapshot_takes_the_place_of_the_batches_before_it(store):
    await store.save_seat(seat())
    await store.save_seat(seat(OTHER))
    await store.save_batches(JOB, 0, [b"a", b"b", b"c", b"d"])
    first, second = Snapshot(b"of two", b"c"), Snapshot(b"of three", b"d")
    await store.save_snapshot(JOB, 2, first)
    assert await store.snapshots() == {JOB: first}
    assert (await store.seats())[0] == (seat(), (b"c", b"d"))
    await store.save_batches(JOB, 3, [b"D", b"e"])
    await store.save_snapshot(JOB, 3, second)
    await store.save_seat(seat(promised=9))
    assert await store.snapshots() == {JOB: second}
    assert (await store.seats())[0] == (seat(promised=9), (b"D", b"e"))


async def test_a_snapshot_of_another_journal_takes_the_place_of_all_that_was_there(store):
    await store.save_seat(seat())
    await store.save_batches(JOB, 0, [b"a", b"b", b"c", b"d", b"e"])
    for base, tail in ((2, (b"C",)), (4, (b"E", b"F")), (6, ())):
        found = Snapshot(b"of others", b"C")
        await store.save_snapshot(JOB, base, found, tail)
        assert await store.snapshots() == {JOB: found}
        assert await store.seats() == [(seat(), tail)]


async def test_a_journal_that_begins_anew_takes_its_snapshot_with_it(store):
    await store.save_seat(seat())
    await store.save_batches(JOB, 0, [b"a", b"b"])
    await store.save_snapshot(JOB, 1, Snapshot(b"of one", b"b"))
    await store.save_batches(JOB, 0, [])
    assert await store.snapshots() == {}
    await store.save_batches(JOB, 0, [b"A"])
    assert await store.seats() == [(seat(), (b"A",))]
    await store.save_snapshot(JOB, 1, Snapshot(b"of one", b"B"))
    await store.forget(JOB, 1.0)
    assert await store.snapshots() == {}


async def test_a_file_from_before_snapshots_is_brought_forward(path):
    with SqliteSeatStore.open(path, is_new_node=True) as store:
        await store.save_seat(seat())
        await store.save_batches(JOB, 0, [b"a"])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE snapshots")
        connection.execute("PRAGMA user_version=3")
        connection.commit()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert store.warning is None
        assert await store.seats() == [(seat(), (b"a",))]
        await store.save_snapshot(JOB, 1, Snapshot(b"of one", b"b"))
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.snapshots() == {JOB: Snapshot(b"of one", b"b")}


async def test_a_forgotten_seat_takes_its_journal_with_it(store):
    await store.save_seat(seat())
    await store.save_batches(JOB, 0, [b"a"])
    await store.forget(JOB, 1.0)
    await store.save_seat(seat())
    assert await store.seats() == [(seat(), ())]


async def test_that_a_seat_was_given_up_is_not_forgotten_with_it(path):
    with SqliteSeatStore.open(path, is_new_node=True) as store:
        await store.save_seat(seat(JOB))
        assert await store.given_up() == []
        await store.forget(OTHER, 2.0)
        await store.forget(JOB, 1.0)
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.given_up() == [JOB, OTHER]
        assert await store.forgot_at_s() is None
        assert store.warning is None


async def test_the_seats_given_up_last_are_the_ones_remembered(path, monkeypatch):
    monkeypatch.setattr(seat_store, "SEATS_GIVEN_UP_MAX", 2)
    with SqliteSeatStore.open(path, is_new_node=True) as store:
        for number in (3, 1, 2):
            await store.forget(JobId(f"{number:032}"), float(number))
        assert await store.given_up() == [JobId(f"{number:032}") for number in (2, 3)]


async def test_what_was_saved_is_there_when_the_file_is_opened_again(path):
    with SqliteSeatStore.open(path, is_new_node=True) as store:
        await store.save_seat(seat())
        await store.save_batches(JOB, 0, [b"a"])
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.seats() == [(seat(), (b"a",))]
        assert await store.forgot_at_s() is None
        assert store.warning is None
    assert path.stat().st_mode & 0o777 == 0o600


# --- promises that were lost -------------------------------------------------------------------------------------------


async def test_a_new_node_has_forgotten_nothing(path):
    with SqliteSeatStore.open(path, is_new_node=True) as store:
        assert await store.forgot_at_s() is None


async def test_a_node_whose_file_is_gone_knows_that_it_has_forgotten(path):
    before_s = time.time()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert before_s <= await store.forgot_at_s() <= time.time()


async def test_that_something_was_forgotten_is_remembered(path):
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        forgot_at_s = await store.forgot_at_s()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.forgot_at_s() == forgot_at_s


async def test_an_empty_file_left_by_a_node_that_was_killed_counts_as_forgotten(path):
    path.touch()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.forgot_at_s() is not None


async def write_and_close(path, *, batches=50):
    with SqliteSeatStore.open(path, is_new_node=True) as store:
        for number in range(8):
            job = JobId(f"{number:032x}")
            await store.save_seat(seat(job))
            await store.save_batches(job, 0, [os.urandom(200) for _ in range(batches)])


DAMAGES = {
    "noise": lambda data: os.urandom(len(data)),
    "an empty header": lambda data: bytes(100) + data[100:],
    "a page of zeros": lambda data: data[:4096] + bytes(4096) + data[8192:],
    "half a file": lambda data: data[: len(data) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_file_is_moved_aside_and_the_node_knows_that_it_has_forgotten(path, damage):
    await write_and_close(path)
    path.write_bytes(damage(path.read_bytes()))
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.seats() == []
        assert await store.forgot_at_s() is not None
        assert "seats.db.corrupt-1" in store.warning
    assert path.with_name("seats.db.corrupt-1").exists()


async def test_a_promise_changed_by_a_single_bit_is_noticed(path):
    await write_and_close(path, batches=1)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE seats SET promised_round = promised_round - 1 WHERE job = ?", (f"{5:032x}",))
    connection.close()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.seats() == []
        assert "not as it was written" in store.warning
        assert await store.forgot_at_s() is not None


async def test_bytes_changed_at_random_places_never_bring_back_another_promise(path):
    await write_and_close(path, batches=2)
    whole = path.read_bytes()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        true = dict(await store.seats())
    rng = random.Random(7)
    for number in range(60):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        copy = path.with_name(f"copy-{number}.db")
        copy.write_bytes(data)
        with SqliteSeatStore.open(copy, is_new_node=False) as store:
            found = [row for row, _ in await store.seats()]
            lost = await store.forgot_at_s() is not None
        assert lost == (found == [])
        assert lost or found == list(true)


async def test_a_file_of_another_version_is_moved_aside(path):
    await write_and_close(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert "version is 99" in store.warning


async def test_a_database_of_another_program_is_moved_aside(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE seats (row INTEGER)")
    connection.execute("PRAGMA user_version=2")
    connection.close()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert await store.seats() == []
        assert store.warning is not None


def test_a_folder_in_its_place_is_told_in_one_line(path):
    path.mkdir()
    with pytest.raises(StateUnusable, match=r"cannot use .*seats\.db"):
        SqliteSeatStore.open(path, is_new_node=False)


async def test_a_call_that_fails_takes_no_other_with_it(path):
    with SqliteSeatStore.open(path, is_new_node=True) as store:
        failed = []

        async def orphan():
            try:
                await store.save_batches(OTHER, 0, [b"a batch of a job without a seat"])
            except StateUnusable as error:
                failed.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.save_seat, seat())
            nursery.start_soon(orphan)
            nursery.start_soon(store.save_seat, seat(JobId("f" * 32)))
        assert len(failed) == 1
        assert [row.job for row, _ in await store.seats()] == [JOB, JobId("f" * 32)]


# --- kill -9 ----------------------------------------------------------------------------------------------------------

WRITER = """
import sys, trio
from pathlib import Path
from peerinfer.elector_events import SeatRow
from peerinfer.ids import JobId
from peerinfer.messages import Term
from peerinfer_node.seat_store import SqliteSeatStore

async def write():
    job = JobId("0" * 31 + "1")
    with SqliteSeatStore.open(Path(sys.argv[1]), is_new_node=True) as store:
        for number in range(1, 1_000_000):
            await store.save_seat(SeatRow(job, b"m", 0, Term(number, "ada"), Term(number, "ada"), 3.0, False))
            await store.save_batches(job, number - 1, [number.to_bytes(8, "big")])
            print(number, flush=True)

trio.run(write)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 7, 40])
async def test_what_was_confirmed_before_kill_9_is_there_after_it(path, after):
    writer = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path)], stdout=subprocess.PIPE, text=True
    )
    confirmed = 0
    for line in writer.stdout:
        confirmed = int(line)
        if confirmed == after:
            writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        ((row, batches),) = await store.seats()
        assert await store.forgot_at_s() is None
        assert row.promised.round >= confirmed >= after
        assert [int.from_bytes(batch, "big") for batch in batches] == list(range(1, len(batches) + 1))
        assert confirmed <= len(batches) <= row.promised.round


# --- files of older versions --------------------------------------------------------------------------------------------

SCHEMA_OF_VERSION_2 = """
    CREATE TABLE seats (
        job TEXT PRIMARY KEY, manifest BLOB NOT NULL, epoch INTEGER NOT NULL,
        promised_round INTEGER NOT NULL, promised_candidate TEXT NOT NULL,
        granted_round INTEGER NOT NULL, granted_candidate TEXT NOT NULL,
        lease_s REAL NOT NULL, sealed INTEGER NOT NULL, is_over INTEGER NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE batches (
        job TEXT NOT NULL REFERENCES seats(job) ON DELETE CASCADE, sequence INTEGER NOT NULL, signed BLOB NOT NULL,
        PRIMARY KEY (job, sequence)) WITHOUT ROWID;
    CREATE TABLE facts (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
    PRAGMA user_version=2;
"""
"""As the last release before committees could change made it, word for word."""


def make_version_2(path, *, damaged=False):
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=WAL;" + SCHEMA_OF_VERSION_2)
    connection.execute("INSERT INTO facts VALUES ('forgot_at_s', 12.5)")
    for job, over in ((JOB, 0), (OTHER, 1)):
        values = (job, b"manifest", 0, 7, "ada", 5, "bob", 3.0, 0, over)
        checksum = hashlib.blake2b(repr(values).encode(), digest_size=16).digest()
        if damaged:
            values = (*values[:3], 6, *values[4:])
        connection.execute(f"INSERT INTO seats VALUES ({', '.join('?' * 11)})", (*values, checksum))
        connection.executemany("INSERT INTO batches VALUES (?, ?, ?)", [(job, 0, b"one"), (job, 1, b"two")])
    connection.commit()
    connection.close()


async def test_a_file_from_before_committees_could_change_keeps_its_promises_and_journals(path):
    make_version_2(path)
    expected = [
        (SeatRow(job, b"manifest", 0, Term(7, "ada"), Term(5, "bob"), 3.0, False, over), (b"one", b"two"))
        for job, over in ((JOB, False), (OTHER, True))
    ]
    changed = SeatRow(JOB, b"manifest", 1, Term(9, "cyd"), Term(9, "cyd"), 3.0, False, changes=(b"change",))
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert store.warning is None
        assert await store.seats() == expected
        assert await store.forgot_at_s() == 12.5
        assert await store.given_up() == []
        await store.save_seat(changed)
        await store.save_batches(JOB, 1, [b"three"])
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert store.warning is None
        assert await store.seats() == [(changed, (b"one", b"three")), expected[1]]


async def test_a_promise_that_was_changed_in_an_old_file_is_noticed_when_it_is_brought_forward(path):
    make_version_2(path, damaged=True)
    with SqliteSeatStore.open(path, is_new_node=False) as store:
        assert "not as it was written" in store.warning
        assert await store.seats() == []
        assert await store.forgot_at_s() > 1e9


def test_a_file_cut_at_any_place_brings_back_what_it_held_or_the_seat_is_known_to_be_lost(path):
    setting = Setting()
    journal = setting.written((term(1, 0), [[1, 2], [3], list(range(10, 90))])).signed(0, 9)
    whole_seat = SeatRow(setting.job, setting.signed, 0, term(1, 0), term(1, 0), 3.0, False)

    async def fill():
        with SqliteSeatStore.open(path, is_new_node=True) as store:
            await store.save_seat(whole_seat)
            await store.save_batches(setting.job, 0, journal)

    async def look(opened):
        return await opened.seats(), await opened.forgot_at_s()

    trio.run(fill)
    whole = path.read_bytes()
    lost = 0
    for size in [*range(0, len(whole), 1511), len(whole) - 1]:
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(whole[:size])
        with SqliteSeatStore.open(path, is_new_node=False) as store:
            seats, forgot_at_s = trio.run(look, store)
        if seats:  # What is missing of a page is read as zeros, where the whole of it is not looked at.
            ((row, batches),) = seats
            assert row == whole_seat
            if batches != journal:
                lost += 1
                with pytest.raises((DecodeError, ProtocolError)):
                    Elector(PEERS[0], keys(0).sign).handle(Restored(row, batches), 0.0)
        else:
            lost += 1
            assert forgot_at_s is not None
    assert lost > 5
