"""Somebody waits for a job whose electors are mostly gone: its owner's node goes on by itself, where it may.

Whole nodes under virtual time: an owner that lends nothing, and six daemons.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from played_world import PlayedWorld

from peerinfer import vigil
from peerinfer.control import JOB_ENDED, JobRequest, Json
from peerinfer.errors import JobFailed, UsageError
from peerinfer_node.roles import vigils

ITEMS = 150
GOES_ON_AFTER_S = 60.0
"""Shorter than it is: simulated hours of six idle daemons take their time."""

Told = Callable[[Json], bool]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vigil, vigils):
        monkeypatch.setattr(module, "GOES_ON_AFTER_S", GOES_ON_AFTER_S)


async def submitted(world: PlayedWorld, request: JobRequest) -> str:
    """An attached job, some of which is final."""
    job = await world.submitter.node.control.submit(request)
    await waited(world, job, lambda shown: 5 <= shown["final"] < ITEMS)
    return job


async def waited(world: PlayedWorld, job: str, is_so: Told, *, within_s: float = 60.0) -> Json:
    with trio.fail_after(within_s):
        while not is_so(shown := await world.submitter.node.control.job(job)):  # noqa: ASYNC110  (a node is asked)
            await trio.sleep(0.5)
    return shown


def cut_off(world: PlayedWorld, *, is_cut: bool = True) -> None:
    """The owner's own network is gone, or is back."""
    internet, own = world._internet, world.submitter.peer_id
    for sim in world.alive:
        if sim is not world.submitter:
            for ends in ((own, sim.peer_id), (sim.peer_id, own)):
                (internet.cut if is_cut else internet.heal)(*ends)


async def has_every_result(world: PlayedWorld, job: str) -> bool:
    found = 0
    async for block in world.submitter.node.control.results(job):
        found += block.items
    return found == ITEMS


def play(scene: Callable[[PlayedWorld, JobRequest], Awaitable[Json]], **changed: bool) -> None:
    async def attached(world: PlayedWorld, request: JobRequest) -> Json:
        return await scene(world, replace(request, detach=False, **changed))

    PlayedWorld(attached, items=ITEMS).run()


def test_two_of_three_electors_that_die_at_once_are_gone_on_without_after_a_while() -> None:
    async def scene(world: PlayedWorld, request: JobRequest) -> Json:
        job = await submitted(world, request)
        gone = (await world.electors(job))[:2]
        for sim in gone:
            world.crash(sim, 0.0)
        began_s = trio.current_time()
        paused = await waited(world, job, lambda shown: "goes on without them" in shown["blocked"])
        told = r"once they have been gone for 1m, (1m|[1-5]?\d(\.0)?s) from now, or at once: peerinfer jobs rescue"
        assert re.search(told, paused["blocked"])
        assert set(paused["missing"]) >= {sim.peer_id for sim in gone}
        await trio.sleep_until(began_s + GOES_ON_AFTER_S - 1.0)
        assert (await world.submitter.node.control.job(job))["generation"] == 0
        shown = await waited(world, job, lambda shown: shown["state"] in JOB_ENDED, within_s=120.0)
        assert (shown["state"], shown["generation"], shown["final"]) == ("done", 1, ITEMS)
        first, *_, last = shown["handovers"]
        assert (first["generation"], first["why"], last["generation"]) == (0, "submitted", 1)
        assert last["why"].startswith("its owner's node went on without these electors: ")
        assert all(sim.peer_id in last["why"] for sim in gone)
        assert not {sim.peer_id for sim in gone} & set(shown["committee"])
        assert await has_every_result(world, job)
        return shown

    play(scene)


def test_an_owner_that_has_lost_its_own_network_leaves_the_job_to_those_who_go_on_with_it() -> None:
    async def scene(world: PlayedWorld, request: JobRequest) -> Json:
        job = await submitted(world, request)
        await waited(world, job, lambda shown: shown["survives"])
        cut_off(world)
        paused = await waited(world, job, lambda shown: "this node sees 1 of 7 nodes" in shown["blocked"])
        assert "if they are gone for good, its owner can go on without them: peerinfer jobs rescue" in paused["blocked"]
        await trio.sleep(2 * GOES_ON_AFTER_S)
        assert (await world.submitter.node.control.job(job))["generation"] == 0
        cut_off(world, is_cut=False)
        shown = await waited(world, job, lambda shown: shown["state"] in JOB_ENDED)
        assert (shown["state"], shown["generation"], shown["final"]) == ("done", 0, ITEMS)
        assert await has_every_result(world, job)
        return shown

    play(scene)


def test_a_job_that_no_committee_accepted_in_time_is_not_gone_on_with_afterwards() -> None:
    async def scene(world: PlayedWorld, request: JobRequest) -> Json:
        jobs = world.submitter.node.jobs
        cut_off(world)
        async with trio.open_nursery() as nursery:

            async def fail() -> None:
                with pytest.raises(JobFailed, match=r"the job was not accepted: .* electors answered"):
                    await world.submitter.node.control.submit(request)

            nursery.start_soon(fail)
            while not jobs._live:  # noqa: ASYNC110
                await trio.sleep(0.5)
            (live,) = jobs._live.values()
        with pytest.raises(UsageError, match="has ended meanwhile"):
            await jobs.rescuing.rescue(live, confirmed=True)
        assert world.submitter.node.elections.machine(live.job) is None
        return await world.submitter.node.control.job(live.job)

    play(scene, replicate=False)


def test_a_job_that_nobody_else_could_go_on_with_is_gone_on_with_by_an_owner_that_is_alone() -> None:
    async def scene(world: PlayedWorld, request: JobRequest) -> Json:
        job = await submitted(world, request)
        cut_off(world)
        await waited(world, job, lambda shown: "goes on without them" in shown["blocked"])
        shown = await waited(world, job, lambda shown: shown["generation"] == 1, within_s=2 * GOES_ON_AFTER_S)
        assert shown["committee"] == [world.submitter.peer_id]
        cut_off(world, is_cut=False)
        shown = await waited(world, job, lambda shown: shown["state"] in JOB_ENDED)
        assert (shown["state"], shown["final"]) == ("done", ITEMS)
        assert await has_every_result(world, job)
        return shown

    play(scene, replicate=False)
