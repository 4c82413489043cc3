"""Asking those who may coordinate a job, of which one hangs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from lease_setting import PEERS
from owners_roles import JOB, OWNER, cancelling_of, priorities_of

from peerinfer.control import JobRequest
from peerinfer.errors import StreamClosed
from peerinfer.job_priority import ENDED, WRITTEN, opened
from peerinfer.replica_messages import JobCancelWanted, JobStateWanted
from peerinfer_node.log import Log
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.replicas import STATE_TIMEOUT_S
from peerinfer_node.roles.returning import Returning

COORDINATOR, OTHER, GONE = PEERS[:3]


class World:
    """A job that one node coordinates with one other elector; the third is powered off. Answers are there at once."""

    def __init__(self):
        self.live = LiveJob(JOB.job, JOB.manifest, JOB.signed, JobRequest("-", ("-",)), 0.0)
        self.lives = {JOB.job: self.live}
        self.asked: list[tuple[str, float]] = []
        self.is_over = False
        self.written = 0
        self.elections = SimpleNamespace(
            candidates=lambda job, manifest: (*PEERS[:3], PEERS[OWNER]),
            seated=lambda job, manifest: SimpleNamespace(electors=tuple(PEERS[:3]), quorum=2),
            campaign=self.campaign,
        )
        self.returning = Returning(
            own=PEERS[OWNER],
            replicas=self,
            elections=self.elections,
            log=Log(),
            stand=None,
            is_given_up=None,
            give_up=None,
        )

    async def state(self, peer, request):
        self.asked.append((peer, trio.current_time()))
        if peer == GONE:
            await trio.sleep(STATE_TIMEOUT_S)
            raise StreamClosed("did not answer")
        if isinstance(request, JobStateWanted):
            return {"state": "running"}
        if isinstance(request, JobCancelWanted):
            said = {"state": "cancelled" if self.is_over else "running"}
            if peer == COORDINATOR:
                await trio.sleep(0.05)  # All others have answered.
                self.is_over = True
            return said
        said = {WRITTEN: self.written, ENDED: False}
        if peer == COORDINATOR:
            await trio.sleep(0.05)  # Until a quorum has it in writing.
            self.written = opened(request.statement, JOB.job, PEERS[OWNER]).sequence
            said = {WRITTEN: self.written, ENDED: False}
        return said

    def campaign(self, job):
        """Who campaigns reads in the journals of a quorum that the job is over."""
        assert self.is_over
        self.lives.pop(job, None)
        self.live.note_change()


async def test_who_cancels_is_not_held_up_by_an_elector_that_is_gone(autojump_clock, nursery):
    world = World()
    cancelling = await cancelling_of(world.lives, world.elections, world.returning)
    began_s = trio.current_time()
    assert await cancelling.cancel(world.live, nursery)
    assert trio.current_time() - began_s < 0.5 < STATE_TIMEOUT_S


async def test_a_priority_is_not_held_up_by_an_elector_that_is_gone(autojump_clock):
    world = World()
    priorities = priorities_of(world.elections, world.returning)
    began_s = trio.current_time()
    await priorities.change(world.live, "high")
    assert world.live.request.priority == "high"
    assert trio.current_time() - began_s < 0.5 < STATE_TIMEOUT_S


@pytest.mark.parametrize(("again_s", "times"), [(0.7, 5), (1e9, 1)])  # Not at the very time when the round ends.
async def test_a_round_ends_when_the_last_has_answered_and_asks_the_others_again_meanwhile(
    autojump_clock, again_s, times
):
    world = World()
    heard: list[str] = []
    began_s = trio.current_time()
    await world.returning.tell(world.live, JobStateWanted(JOB.job), lambda peer, state: heard.append(peer), again_s)
    assert trio.current_time() - began_s == pytest.approx(STATE_TIMEOUT_S)
    assert set(heard) == {COORDINATOR, OTHER}
    asked = [[peer for peer, _ in world.asked].count(each) for each in (COORDINATOR, OTHER, GONE)]
    assert asked == [times, times, 1]
