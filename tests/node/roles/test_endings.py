"""How jobs ended, on disks that are full for a while."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from peerinfer.errors import StateUnusable
from peerinfer.ids import JobId
from peerinfer_node.log import Log
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import JobRow
from peerinfer_node.roles.endings import SAVE_AGAIN_S, Endings

JOB = JobId("0" * 32)


class FullStore(MemoryStore):
    is_full = True

    async def set_job_state(self, job: JobId, state: str, *, ended_at_s: float | None, summary: str) -> None:
        if self.is_full:
            raise StateUnusable("the disk is full; free some space")
        await super().set_job_state(job, state, ended_at_s=ended_at_s, summary=summary)


async def test_an_end_is_known_at_once_and_written_when_the_disk_has_room(autojump_clock: MockClock) -> None:
    store = FullStore()
    running = JobRow(JOB, b"", "{}", "running", 1.0, None, "{}")
    await store.add_job(running)
    endings = Endings(store=store, log=Log())
    async with trio.open_nursery() as nursery:
        await endings.save(nursery, JOB, "failed", ended_at_s=7.0, summary='{"reason": "full"}')
        assert (await store.job(JOB)) == running
        told = endings.applied(running)
        assert (told.state, told.ended_at_s, told.summary) == ("failed", 7.0, '{"reason": "full"}')
        await trio.sleep(2.5 * SAVE_AGAIN_S)
        assert (await store.job(JOB)) == running
        store.is_full = False
    # The nursery is closed: nothing tries for ever.
    assert (await store.job(JOB)) == told
    assert endings.applied(running) is running
