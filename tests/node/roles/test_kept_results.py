"""Results of others on this node's disk: a bound in bytes, who makes room for whom, and who is refused."""

import json

import pytest
import trio
import trio.testing

from peerinfer.errors import LimitExceeded
from peerinfer.ids import JobId
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import JobRow
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.roles import kept_results
from peerinfer_node.roles.kept_results import NO_ROOM, KeptResults
from peerinfer_node.spool import HEADER_BYTES

ADA, BEN, CAL, OWN = (JobId(digit * 32) for digit in "1234")
BOUND = 1000


class World:
    def __init__(self):
        self.store = MemoryStore()
        self.kept = KeptResults(store=self.store, let_go=self.let_go)
        self.gone = []

    async def let_go(self, row, why):
        await self.kept.drop(row.job)
        await self.store.set_job_state(
            row.job, row.state, ended_at_s=row.ended_at_s, summary=json.dumps({"results_gone": why})
        )
        self.gone.append((row.job, why))

    async def add(self, job, *, ended_at_s=None, is_own=False, size=0):
        request = "{}" if is_own else json.dumps({"replica": {}})
        state = "running" if ended_at_s is None else "done"
        await self.store.add_job(JobRow(job, b"manifest", request, state, 1.0, ended_at_s, "{}"))
        if size:
            offset = await self.store.append_results(job, [bytes(size - HEADER_BYTES)])
            await self.store.add_record(RecordRow(job, offset, (0,)))

    async def take(self, job, size):
        """As an elector takes a record: room first."""
        await self.kept.make_room(job, size)


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(kept_results, "RESULTS_FOR_OTHERS_BYTES_MAX", BOUND)
    return World()


async def test_up_to_the_bound_everything_is_kept_and_one_byte_more_is_refused(world):
    await world.add(ADA)
    await world.add(BEN)
    await world.take(ADA, BOUND - 400)
    await world.take(BEN, 400)
    with pytest.raises(LimitExceeded, match="results kept for others: 1 bytes on top of 1,000 bytes would pass"):
        await world.take(BEN, 1)
    assert world.gone == []


async def test_results_of_the_job_that_ended_first_make_room_and_no_more_go_than_must(world):
    await world.add(ADA, ended_at_s=20.0, size=300)
    await world.add(BEN, ended_at_s=10.0, size=300)
    await world.add(CAL, size=300)
    await world.kept.look()
    await world.take(CAL, 100)
    assert world.gone == []
    await world.take(CAL, 1)
    assert world.gone == [(BEN, NO_ROOM)]
    await world.take(CAL, 299)
    assert len(world.gone) == 1
    await world.take(CAL, 1)
    assert world.gone == [(BEN, NO_ROOM), (ADA, NO_ROOM)]
    assert await world.store.results_bytes(ADA) == 0
    assert await world.store.results_bytes(CAL) == 300


async def test_results_of_jobs_that_are_not_over_never_go(world):
    await world.add(ADA, size=BOUND)
    await world.add(BEN)
    await world.kept.look()
    with pytest.raises(LimitExceeded):
        await world.take(BEN, 1)
    assert await world.store.results_bytes(ADA) == BOUND


async def test_own_results_neither_count_nor_go(world):
    await world.add(OWN, ended_at_s=1.0, is_own=True, size=5 * BOUND)
    await world.add(ADA)
    await world.kept.look()
    await world.take(ADA, BOUND)
    assert await world.store.results_bytes(OWN) == 5 * BOUND


async def test_what_was_written_past_the_bound_is_found_at_the_next_look(world):
    """A node that coordinates somebody else's job writes records of its own."""
    await world.add(ADA, ended_at_s=10.0, size=BOUND - 100)
    await world.add(BEN, size=100)
    await world.kept.look()
    assert world.gone == []
    await world.store.append_results(BEN, [b"x"])
    await world.kept.look()
    assert world.gone == [(ADA, NO_ROOM)]


async def test_a_record_larger_than_the_bound_costs_others_theirs_only_if_there_is_no_other_way(world):
    await world.add(ADA, ended_at_s=10.0, size=100)
    await world.add(BEN)
    await world.kept.look()
    with pytest.raises(LimitExceeded):
        await world.take(BEN, BOUND + 1)
    assert world.gone == [], "it would not have helped"


async def test_nothing_goes_for_a_record_that_is_only_announced(world):
    await world.add(ADA, ended_at_s=10.0, size=600)
    await world.add(BEN, size=400)
    await world.kept.look()
    await world.kept.check_room(600)
    with pytest.raises(LimitExceeded, match="601 bytes on top of 1,000 bytes"):
        await world.kept.check_room(601)
    assert world.gone == []
    await world.take(BEN, 600)
    assert world.gone == [(ADA, NO_ROOM)]


class SlowDisk(MemoryStore):
    """Says what there is before it is asked to go on, and answers when it is."""

    def __init__(self):
        super().__init__()
        self.waits = False
        self.goes_on = trio.Event()

    async def job(self, job):
        found = await super().job(job)
        await self._answer()
        return found

    async def results_bytes(self, job):
        size = await super().results_bytes(job)
        await self._answer()
        return size

    async def _answer(self):
        if self.waits:
            await self.goes_on.wait()


class SlowWorld(World):
    def __init__(self):
        super().__init__()
        self.store = SlowDisk()
        self.kept = KeptResults(store=self.store, let_go=self.let_go)


@pytest.fixture
async def slow(monkeypatch):
    monkeypatch.setattr(kept_results, "RESULTS_FOR_OTHERS_BYTES_MAX", BOUND)
    return SlowWorld()


async def test_results_may_go_and_come_while_the_disk_is_asked_which_jobs_are_over(slow):
    await slow.add(ADA, ended_at_s=10.0, size=400)
    await slow.add(BEN, size=400)
    await slow.add(CAL)
    await slow.kept.look()
    slow.store.waits = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.take, CAL, 201)
        await trio.testing.wait_all_tasks_blocked()
        await slow.kept.drop(ADA)
        await slow.kept.drop(BEN)
        await slow.take(OWN, 1)
        slow.store.goes_on.set()
    await slow.take(CAL, BOUND - 202)
    with pytest.raises(LimitExceeded):
        await slow.take(CAL, 1)


async def test_what_is_counted_while_the_disk_is_measured_counts(slow):
    await slow.add(ADA, size=400)
    await slow.add(BEN, size=400)
    await slow.kept.look()
    slow.store.waits = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.kept.look)
        await trio.testing.wait_all_tasks_blocked()
        await slow.take(ADA, 100)
        await slow.take(BEN, 90)
        await slow.take(CAL, 10)
        slow.store.goes_on.set()
    with pytest.raises(LimitExceeded, match="1,000 bytes on top of 1,000 bytes"):
        await slow.take(BEN, BOUND)


async def test_what_was_forgotten_is_not_counted_after_a_look(world):
    await world.add(ADA, size=BOUND)
    await world.add(BEN)
    await world.kept.look()
    await world.store.forget_job(ADA)
    await world.kept.look()
    await world.take(BEN, BOUND)
