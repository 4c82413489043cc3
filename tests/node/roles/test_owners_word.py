"""An owner that cancels its job, or changes its priority, among electors of which one lies: a quorum's word counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from lease_setting import PEERS
from owners_roles import JOB, OWNER, cancelling_of, priorities_of

from peerinfer.control import JobRequest
from peerinfer.errors import UsageError
from peerinfer.job_priority import ENDED, WRITTEN, opened
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.priorities import CHANGE_AGAIN_S, CHANGE_TIMEOUT_S

HONEST, LIAR, OTHER = PEERS[:3]


class World:
    """The owner's node, which coordinates nothing, and what its electors answer."""

    def __init__(self):
        self.live = LiveJob(JOB.job, JOB.manifest, JOB.signed, JobRequest("-", ("-",)), 0.0)
        self.lives = {JOB.job: self.live}
        self.answers = {}
        self.campaigns: list[float] = []
        self.told: list[object] = []
        self.ended: list[str] = []
        self.elections = SimpleNamespace(
            seated=lambda job, manifest: SimpleNamespace(electors=tuple(PEERS[:3]), quorum=2),
            campaign=lambda job: self.campaigns.append(trio.current_time()),
        )

    async def tell(self, live, request, heard, again_s):
        self.told.append(request)
        for peer, answer in list(self.answers.items()):
            heard(peer, answer(request) if callable(answer) else answer)
        await trio.lowlevel.checkpoint()

    def priorities(self):
        return priorities_of(self.elections, self)

    async def cancelling(self):
        return await cancelling_of(self.lives, self.elections, self)

    def end(self):
        """The owner has read the end of the job in the journals of a quorum."""
        del self.lives[JOB.job]
        self.live.note_change()


def wrote(request):
    statement = opened(request.statement, JOB.job, PEERS[OWNER])
    return {WRITTEN: statement.sequence, ENDED: False}


NOTHING = {WRITTEN: 0, ENDED: False}


async def test_a_priority_is_changed_when_a_quorum_has_written_it_down(autojump_clock):
    world = World()
    world.answers = {HONEST: wrote, OTHER: wrote, LIAR: NOTHING}
    await world.priorities().change(world.live, "high")
    assert world.live.request.priority == "high"
    assert len(world.told) == 1


@pytest.mark.parametrize(
    "lie", [wrote, {WRITTEN: 1 << 60, ENDED: False}, {WRITTEN: 0, ENDED: True}, {WRITTEN: "1", ENDED: 1}, {}]
)
async def test_one_electors_word_neither_changes_a_priority_nor_ends_a_job(autojump_clock, lie):
    world = World()
    world.answers = {HONEST: NOTHING, LIAR: lie, PEERS[5]: wrote}  # The last one has no seat.
    with pytest.raises(UsageError, match="nobody coordinates job"):
        await world.priorities().change(world.live, "high")
    assert world.live.request.priority == "normal"
    assert len(world.told) == pytest.approx(CHANGE_TIMEOUT_S / CHANGE_AGAIN_S, abs=1.0)


async def test_a_job_that_has_ended_for_a_quorum_takes_no_priority(autojump_clock):
    world = World()
    world.answers = {HONEST: {WRITTEN: 0, ENDED: True}, OTHER: {WRITTEN: 0, ENDED: True}, LIAR: wrote}
    with pytest.raises(UsageError, match="has ended already"):
        await world.priorities().change(world.live, "high")


async def test_a_coordinator_is_told_again_although_somebody_says_that_the_job_has_ended(autojump_clock, nursery):
    world = World()
    world.answers = {LIAR: {"state": "cancelled"}}
    cancelling = await world.cancelling()
    assert not await cancelling.cancel(world.live, nursery), "it is not over on a liar's word"
    assert len(world.told) > 10
    assert len(world.campaigns) == len(world.told), "it looks into the journals of a quorum, each time"
    before = len(world.told)
    await trio.sleep(20.0)
    assert len(world.told) > before
    world.end()
    await trio.sleep(20.0)
    after = len(world.told)
    await trio.sleep(20.0)
    assert len(world.told) == after


async def test_who_cancels_hears_at_once_when_the_end_has_been_read(autojump_clock, nursery):
    world = World()
    hangs = trio.Event()

    async def tell(live, request, heard, again_s):
        heard(HONEST, {"state": "cancelled"})
        await hangs.wait()

    world.tell = tell
    cancelling = await world.cancelling()
    began_s = trio.current_time()
    async with trio.open_nursery() as asking:
        asking.start_soon(cancelling.cancel, world.live, nursery)
        await trio.sleep(1.0)
        world.end()
    assert trio.current_time() - began_s == pytest.approx(1.0)
