"""An owner that cancels while its electors are gone: whole nodes under virtual time."""

from __future__ import annotations

import pytest
import trio
from played_world import PlayedWorld

from peerinfer.control import JOB_ENDED, JobRequest, Json
from peerinfer.errors import JobFailed, NetworkError, StateUnusable, UsageError
from peerinfer.ids import JobId, PeerId
from peerinfer.limits import JOB_UNLED_MAX_S
from peerinfer.replica_messages import ReplicaOffered
from peerinfer_node.roles.cancelling import CANCEL_TIMEOUT_S, NEVER_HEARD
from peerinfer_node.roles.replicas import Replicas

GONE_S = 40.0


async def all_know(world: PlayedWorld, job: str, within_s: float) -> None:
    """Every node that knows the job knows that it is cancelled, and every seat that it is over."""
    with trio.fail_after(within_s):
        while True:
            rows = [await sim.node.ports.store.job(JobId(job)) for sim in world.alive]
            seats = [sim.node.elections.elector for sim in world.alive]
            ended = all(row is None or row.state == "cancelled" for row in rows)
            if ended and all(seat.is_over(JobId(job)) for seat in seats if JobId(job) in seat.jobs):
                return
            await trio.sleep(0.5)


def test_a_job_whose_electors_are_gone_is_cancelled_at_once_and_they_hear_of_it_when_they_are_back() -> None:
    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        control = world.submitter.node.control
        job = await control.submit(request)
        electors = await world.electors(job)
        for sim in electors:
            world.crash(sim, GONE_S)
        await trio.sleep(5.0)
        assert (await control.job(job))["state"] == "paused"
        began_s = trio.current_time()
        await control.cancel(job)
        assert trio.current_time() - began_s == pytest.approx(CANCEL_TIMEOUT_S, abs=0.1)
        shown = await control.job(job)
        assert shown["state"] == "cancelled"
        assert shown["reason"].startswith("cancelled by its owner; these electors hear of it when they are back: ")
        assert all(sim.peer_id in shown["reason"] for sim in electors)
        pictures = [picture["state"] async for picture in control.watch(job)]
        assert pictures == ["cancelled"], "whoever watches waits for nothing"
        await all_know(world, job, within_s=GONE_S + 30.0)
        shown = await control.job(job)
        assert shown["reason"] == "cancelled by its owner"
        assert (shown["blocked"], shown["missing"]) == ("", [])
        return shown

    PlayedWorld(play).run()


def test_the_word_of_an_owner_that_is_killed_meanwhile_still_holds() -> None:
    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        job = await world.submitter.node.control.submit(request)
        for sim in await world.electors(job):
            world.crash(sim, GONE_S)
        await trio.sleep(5.0)
        await world.submitter.node.control.cancel(job)
        world.crash(world.submitter, 5.0)
        await trio.sleep(10.0)
        assert (await world.submitter.node.control.job(job))["state"] == "cancelled"
        await all_know(world, job, within_s=GONE_S + 30.0)
        return await world.submitter.node.control.job(job)

    PlayedWorld(play).run()


def test_a_cancellation_that_could_not_be_written_down_is_written_when_it_is_asked_for_again() -> None:
    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        control = world.submitter.node.control
        job = await control.submit(request)
        for sim in await world.electors(job):
            world.crash(sim, GONE_S)
        await trio.sleep(5.0)
        world.submitter.disk.is_full = True
        with pytest.raises(StateUnusable):
            await control.cancel(job)
        world.submitter.disk.is_full = False
        await control.cancel(job)
        world.crash(world.submitter, 5.0)
        await trio.sleep(10.0)
        await all_know(world, job, within_s=GONE_S + 30.0)
        return await world.submitter.node.control.job(job)

    PlayedWorld(play).run()


def test_a_job_of_which_too_few_electors_took_copies_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The electors die while the copies are on their way."""

    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        offers: list[PeerId] = []

        async def offer(self: Replicas, peer: PeerId, offer: ReplicaOffered) -> None:
            offers.append(peer)
            world.crash(world._nodes[world.name_of(peer)], GONE_S)
            raise NetworkError(f"{peer} is gone")

        monkeypatch.setattr(Replicas, "offer", offer)
        control = world.submitter.node.control
        with pytest.raises(
            JobFailed, match=r"of 3 electors took copies: .*; the job is cancelled; electors that are gone"
        ):
            await control.submit(request)
        (listed,) = await control.jobs()
        assert listed["state"] == "cancelled"
        assert listed["copied_bytes"] < listed["copies_bytes"]
        await all_know(world, listed["job_id"], within_s=GONE_S + 30.0)
        assert world.submitter.node.ports.blobs._shelf.holders == []  # type: ignore[attr-defined]
        return await control.job(listed["job_id"])

    PlayedWorld(play).run()


def test_electors_that_never_come_back_are_told_for_as_long_as_they_would_remember() -> None:
    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        control = world.submitter.node.control
        job = await control.submit(request)
        for sim in await world.electors(job):
            world.crash(sim, 0.0)
        await trio.sleep(5.0)
        await control.cancel(job)
        for later_s, reason in ((JOB_UNLED_MAX_S - 3600.0, "when they are back"), (7200.0, NEVER_HEARD)):
            world.submitter._clock._wall_offset_s += later_s
            await trio.sleep(20.0)
            shown = await control.job(job)
            assert shown["state"] == "cancelled"
            assert reason in shown["reason"]
        row = await world.submitter.node.ports.store.job(JobId(job))
        assert row is not None
        assert row.state in JOB_ENDED
        return shown

    PlayedWorld(play).run()


def test_nobody_but_its_owner_cancels_a_job() -> None:
    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        job = await world.submitter.node.control.submit(request)
        electors = await world.electors(job)
        await trio.sleep(2.0)
        with pytest.raises(UsageError, match=r"is not this node's: only .* can cancel it"):
            await electors[0].node.control.cancel(job)
        await world.submitter.node.control.cancel(job)
        await all_know(world, job, within_s=20.0)
        return await world.submitter.node.control.job(job)

    PlayedWorld(play).run()
