"""Jobs that another node leads, as their owner shows and fetches them: whole nodes under virtual time."""

from __future__ import annotations

import pytest
import trio
from played_world import PlayedWorld

from peerinfer.control import JOB_ENDED, JobRequest, Json
from peerinfer.ids import JobId
from peerinfer_node.roles.shown_jobs import ShownJobs

ITEMS = 150
BACK_S = 8.0
LOOK_EVERY_S = 0.02


async def led_by_another(world: PlayedWorld, request: JobRequest) -> str:
    """A job whose owner has died and is back, and does not lead it any more."""
    job = await world.submitter.node.control.submit(request)
    await trio.sleep(2.0)
    world.crash(world.submitter, BACK_S)
    await trio.sleep(BACK_S + 2.0)
    return job


def test_a_job_is_over_for_its_owner_when_its_results_can_be_fetched() -> None:
    """The first that says that it is over is whoever leads it; this node reads it in the journal a moment later."""

    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        job = await led_by_another(world, request)
        control = world.submitter.node.control
        told: list[str] = []
        with trio.fail_after(300.0):
            while (shown := await control.job(job))["open"] + shown["assigned"]:  # noqa: ASYNC110  (a node is asked, not told)
                await trio.sleep(0.5)
        with trio.fail_after(300.0):
            while (shown := await control.job(job))["state"] not in JOB_ENDED:
                (listed,) = await control.jobs()
                told.append(shown["blocked"])
                assert (shown["state"], listed["state"]) == ("running", "running")
                await trio.sleep(LOOK_EVERY_S)
        fetched = 0
        async for block in control.results(job):
            fetched += block.items
        assert fetched == shown["items"]
        assert any("others say that it is done" in each for each in told), "the moment in which only others knew"
        return shown

    PlayedWorld(play, items=ITEMS).run()


def test_nobodys_word_alone_ends_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """An elector that lies."""
    honest = ShownJobs.state_for

    async def lie(self: ShownJobs, job: JobId) -> Json | None:
        told = await honest(self, job)
        return {**(told or {}), "state": "done", "job_id": "0" * 32, "accepted": 7}

    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        job = await led_by_another(world, request)
        control = world.submitter.node.control
        with monkeypatch.context() as lying:
            lying.setattr(ShownJobs, "state_for", lie)
            for _ in range(2):
                shown = await control.job(job)
                assert (shown["job_id"], shown["state"]) == (job, "running")
                assert shown["blocked"].startswith("others say that it is done")
                await trio.sleep(1.0)
        await control.cancel(job)
        shown = await control.job(job)
        assert shown["state"] == "cancelled"
        return shown

    PlayedWorld(play, items=ITEMS).run()
