"""Jobs that another node leads, as their owner shows and fetches them: whole nodes under virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from played_world import PlayedWorld

from peerinfer.control import JOB_ENDED, JobRequest, Json
from peerinfer.errors import JobFailed, NetworkError, UsageError
from peerinfer.ids import JobId, PeerId
from peerinfer.messages import Manifest
from peerinfer_node.roles.recorder import IsTrue
from peerinfer_node.roles.replicas import Replicas
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


async def seen_where_it_is_led(world: PlayedWorld, job: str) -> None:
    """By whoever looks at the coordinator's machine; an elector that stands by shows it to who knows its id."""
    shown = await world.submitter.node.control.job(job)
    assert shown["own"] is True
    for sim in await world.electors(job):
        listed, seen = await sim.node.control.jobs(), await sim.node.control.job(job[:8])
        assert [each["job_id"] for each in listed] == ([job] if sim.peer_id == shown["coordinator"] else [])
        assert (seen["job_id"], seen["own"], seen["submitter"]) == (job, False, world.submitter.peer_id)
        assert (seen["coordinator"], seen["term"]) == (shown["coordinator"], shown["term"])
        assert seen["handovers"][0]["why"] == "submitted"
        assert seen["handovers"][-1]["at"] > seen["created"]
        assert seen["model"] not in ("", "-")
        with pytest.raises(UsageError, match=f"not this node's own.* by {world.submitter.peer_id}"):
            async for _ in sim.node.control.results(job):
                pass


async def its_checks_are_those_of_who_led_it(world: PlayedWorld, shown: Json) -> None:
    """A job that has ended, whose first term's checks nobody knows any more."""
    level = shown["verification"]
    assert level["policy"] == "spot"
    assert level["audits"] == shown["audited"] > 0
    assert min(level["tasks"], level["unknown"]) > 0
    assert level["tasks"] == sum(level["grounds"].values()) == shown["final"] - level["unknown"]
    (leader,) = [sim for sim in await world.electors(shown["job_id"]) if sim.peer_id == shown["coordinator"]]
    assert (await leader.node.control.job(shown["job_id"]))["verification"] == level
    provenance = await world.submitter.node.control.provenance(shown["job_id"])
    assert provenance["verification"]["tasks_checked"] == shown["audited"]
    assert provenance["verification"]["reached"] == level


async def watched_to_its_end(world: PlayedWorld, job: str) -> Json:
    """Its owner is no elector of it any more afterwards."""
    pictures = [picture async for picture in world.submitter.node.control.watch(job)]
    assert pictures[-1]["state"] == "done"
    await trio.sleep(5.0)
    world.submitter.node.elections.own_elector.give_up(JobId(job))
    await trio.sleep(1.0)
    return pictures[-1]


def test_a_job_is_over_for_its_owner_when_its_results_can_be_fetched() -> None:
    """The first that says that it is over is whoever leads it; this node reads it in the journal a moment later."""

    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        job = await led_by_another(world, request)
        control = world.submitter.node.control
        await seen_where_it_is_led(world, job)
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
        (leader,) = [sim for sim in await world.electors(job) if sim.peer_id == shown["coordinator"]]
        led = await leader.node.control.job(job)
        # The leader was there from its copy on, which came before the owner died.
        assert shown["elapsed_s"] == pytest.approx(led["elapsed_s"], abs=2.5), "since it was submitted"
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


def test_what_is_fetched_after_a_restart_is_checked_against_the_journal_of_a_quorum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job is over, none of its results are at home yet, and the submitter remembers no journal."""
    honest = Replicas.fetch
    asked: list[PeerId] = []

    async def unreachable(self: Replicas, *_: Any, **__: Any) -> int:
        raise NetworkError("out of reach")

    async def watched(
        self: Replicas, peer: PeerId, job: JobId, manifest: Manifest, tasks: Sequence[int], is_true: IsTrue
    ) -> int:
        assert not is_true(0, b"another result's digest")
        asked.append(peer)
        return await honest(self, peer, job, manifest, tasks, is_true)

    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        monkeypatch.setattr(Replicas, "fetch", unreachable)
        job = await led_by_another(world, request)
        shown = await watched_to_its_end(world, job)
        world.crash(world.submitter, BACK_S)
        await trio.sleep(BACK_S + 2.0)
        electors = await world.electors(job)
        assert electors, "the submitter has no journal of its own"
        assert JobId(job) not in world.submitter.node.elections.elector.jobs
        monkeypatch.setattr(Replicas, "fetch", watched)
        fetched = 0
        async for block in world.submitter.node.control.results(job):
            fetched += block.items
        assert fetched == shown["items"]
        assert asked
        return await world.submitter.node.control.job(job)

    PlayedWorld(play, items=ITEMS).run()


def test_results_that_cannot_be_checked_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(self: Replicas, *_: Any, **__: Any) -> int:
        raise NetworkError("out of reach")

    async def play(world: PlayedWorld, request: JobRequest) -> Json:
        monkeypatch.setattr(Replicas, "fetch", unreachable)
        job = await led_by_another(world, replace(request, verify="spot"))
        shown = await watched_to_its_end(world, job)
        await its_checks_are_those_of_who_led_it(world, shown)
        for sim in await world.electors(job):
            world.crash(sim, 60.0)
        world.crash(world.submitter, BACK_S)
        await trio.sleep(BACK_S + 2.0)
        with pytest.raises(JobFailed, match="too few of the job's electors answer to check them; try again later"):
            async for _ in world.submitter.node.control.results(job):
                pass
        return shown

    PlayedWorld(play, items=ITEMS).run()
