"""What is kept of jobs that are over: whole nodes under virtual time, whose wall clocks then jump by a week."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from peerinfer.control import JOB_ENDED, JobRequest, Json
from peerinfer.errors import JobFailed
from peerinfer.ids import JobId, PeerId
from peerinfer.lease_messages import LeaseRefused, SeatOffered
from peerinfer.limits import JOB_UNLED_MAX_S, RESULTS_KEPT_S
from peerinfer_node.roles import kept_results
from peerinfer_node.roles.keeping import FETCHED
from peerinfer_node.roles.kept_results import NO_ROOM
from peerinfer_sim import scenario
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.linear_model import Array
from peerinfer_sim.sim_node import SimNode
from peerinfer_sim.whole import WholeWorld

ITEMS = 60
HOUR_S = 3600.0

Look = Callable[["KeptWorld", JobId], Awaitable[None]]


class KeptWorld(WholeWorld):
    """A calm world that is looked at when its job is over, before it stops."""

    def __init__(self, look: Look, *, submitter_dies: bool = False, items: int = ITEMS) -> None:
        calm = replace(scenario.load("failover").smaller(nodes=6, items=items), faults=())
        super().__init__(calm, 1, EventLog())
        self._look = look
        self._submitter_dies = submitter_dies

    @property
    def nodes(self) -> list[SimNode]:
        return list(self._nodes.values())

    @property
    def submitter(self) -> SimNode:
        return self._submitter

    def electors(self, job: JobId, *, but: Sequence[SimNode] = ()) -> list[SimNode]:
        return [sim for sim in self.nodes if job in sim.node.elections.elector.jobs and sim not in but]

    async def pass_time(self, seconds: float) -> None:
        """For the wall clocks; then every node that lives looks around."""
        for sim in self.nodes:
            sim._clock._wall_offset_s += seconds
        for sim in self.nodes:
            if sim.is_up:
                await sim.node.jobs._keeping.look()
        await trio.sleep(1.0)

    async def _run_job(self, folder: Path, nursery: trio.Nursery) -> Json:
        if not self._submitter_dies:
            return await super()._run_job(folder, nursery)
        request = JobRequest(
            str(folder / "model.onnx"), (str(folder / "inputs.npz"),), batch=1, verify="none", detach=True
        )
        job = JobId(await self.submitter.node.control.submit(request))
        self._job = job
        del self._alive[self.submitter.name]
        self.watch.forget(self.submitter.name)
        self.submitter.crash(0.0, 0.0)
        self._harm_done.set()
        with trio.fail_after(120.0):
            while True:
                shown = [
                    await sim.node.control.job(job)
                    for sim in self.electors(job)
                    if sim is not self.submitter and await sim.node.ports.store.job(job) is not None
                ]
                if shown and all(each["state"] in JOB_ENDED for each in shown):
                    return shown[0]
                await trio.sleep(0.5)

    async def submitter_again(self) -> SimNode:
        """Built from its disk after its death; to be run."""
        submitter = self.submitter
        submitter._again_at_s = trio.current_time()
        submitter._scope = trio.CancelScope()
        submitter._store = await submitter._store.after_crash(0.0)
        submitter._seats = submitter._seats.after_crash()
        submitter.node = submitter._build()
        return submitter

    async def _compare(self, shown: Json, expected: Array) -> int:
        return 0 if self._submitter_dies else await super()._compare(shown, expected)

    async def _stop(self) -> None:
        assert self._job is not None
        await self._look(self, self._job)
        await super()._stop()


def pins_of(sim: SimNode) -> list[str]:
    return sim.node.ports.blobs._shelf.holders  # type: ignore[attr-defined,no-any-return]


async def blobs_of(sim: SimNode) -> int:
    return len(await sim.node.ports.blobs.held())


async def wait_ended(sim: SimNode, job: JobId) -> None:
    with trio.fail_after(60.0):
        while (row := await sim._store.job(job)) is None or row.state not in JOB_ENDED:  # noqa: ASYNC110
            await trio.sleep(0.5)


async def results_of(sim: SimNode, job: JobId) -> int:
    return sum(len(row.tasks) for row in await sim.node.ports.store.records_of(job))


def test_when_a_job_is_over_its_inputs_are_gone_everywhere_and_its_results_are_at_home_alone() -> None:
    async def look(world: KeptWorld, job: JobId) -> None:
        electors = world.electors(job, but=[world.submitter])
        assert len(electors) >= 2
        for sim in world.nodes:
            assert pins_of(sim) == []
            assert await blobs_of(sim) <= 1, f"{sim.name} holds more than the model"
        assert await results_of(world.submitter, job) == ITEMS
        for sim in electors:
            assert await results_of(sim, job) == 0
            row = await sim.node.ports.store.job(job)
            assert row is not None
            assert row.state == "done"
            assert sim.node.elections.elector.is_over(job), "the journal is kept for whoever has not heard of the end"

    KeptWorld(look).run()


def test_the_results_of_a_submitter_that_does_not_come_back_are_kept_for_a_week() -> None:
    async def look(world: KeptWorld, job: JobId) -> None:
        electors = world.electors(job, but=[world.submitter])
        await world.pass_time(RESULTS_KEPT_S - HOUR_S)
        complete = [sim for sim in electors if await results_of(sim, job) == ITEMS]
        assert complete, "nobody has all results any more"
        assert all(pins_of(sim) == [] for sim in electors)
        await world.pass_time(2 * HOUR_S)
        for sim in electors:
            assert await results_of(sim, job) == 0
            assert job not in sim.node.elections.elector.jobs
            if await sim.node.ports.store.job(job) is not None:  # It had a copy.
                assert (await sim.node.control.job(job))["results_gone"] == "given up"

    KeptWorld(look, submitter_dies=True).run()


def test_a_seat_that_was_given_up_is_never_taken_again_not_even_after_a_restart() -> None:
    async def look(world: KeptWorld, job: JobId) -> None:
        elector = world.electors(job, but=[world.submitter])[0]
        signed = elector.node.elections.elector.manifest(job)
        assert signed is not None
        await world.pass_time(RESULTS_KEPT_S + HOUR_S)
        candidate = PeerId(next(sim for sim in world.electors(job) or world.nodes if sim is not elector).peer_id)
        offer = SeatOffered(signed)
        for _ in range(2):
            answer = await elector.node.elections.own_elector.answer(candidate, offer)
            assert isinstance(answer, LeaseRefused)
            assert "gave up the job" in answer.reason
            elector.crash(0.5, 0.0)
            await trio.sleep(3.0)
        assert job in elector.node.elections.own_elector._given_up

    KeptWorld(look, submitter_dies=True).run()


def test_a_submitter_that_comes_back_too_late_is_told_so_and_does_not_run_the_job_again() -> None:
    async def look(world: KeptWorld, job: JobId) -> None:
        await world.pass_time(RESULTS_KEPT_S + HOUR_S)
        submitter = await world.submitter_again()
        async with submitter.node.run():
            await wait_ended(submitter, job)
            shown = await submitter.node.control.job(job)
        assert shown["state"] == "failed"
        assert shown["reason"] == "its electors gave it up long ago, and its results"
        assert not any(sim.node.elections.elector.chain(job) for sim in world.nodes if sim is not submitter)

    KeptWorld(look, submitter_dies=True).run()


def test_dates_in_a_journal_make_no_elector_give_up_its_seat_early_or_keep_it_for_ever() -> None:
    """Whoever coordinates writes them, and may lie."""

    async def look(world: KeptWorld, job: JobId) -> None:
        alone, *others = world.electors(job, but=[world.submitter])
        for sim in others:
            sim.crash(0.0, 0.0)
        elector, keeping = alone.node.elections.elector, alone.node.jobs._keeping
        seat = elector._seats[job]
        seat.over = False
        await alone.node.ports.store.set_job_state(job, "standby", ended_at_s=None, summary="{}")
        chain = seat.chain
        for at_s in (0.0, -1e300, 1.0):
            chain._links[-1] = replace(chain._links[-1], at_s=at_s)
            # Somebody holds the lease when it is looked at, and has gone when it is looked at again.
            seat.deadline_s = alone._clock.elector_s() + 10.0
            await world.pass_time(JOB_UNLED_MAX_S)
            seat.deadline_s = 0.0
            await keeping.look()
            assert job in elector.jobs
        chain._links[-1] = replace(chain._links[-1], at_s=1e300)
        await world.pass_time(JOB_UNLED_MAX_S + HOUR_S)
        assert job not in elector.jobs

    KeptWorld(look, submitter_dies=True).run()


def test_a_job_that_nobody_coordinates_for_a_month_is_given_up_by_its_electors() -> None:
    async def look(world: KeptWorld, job: JobId) -> None:
        alone, *others = world.electors(job, but=[world.submitter])
        for sim in others:
            sim.crash(0.0, 0.0)
        # As if it had not heard of the end, and its quorum were gone for good.
        elector, store = alone.node.elections.elector, alone.node.ports.store
        elector._seats[job].over = False
        await store.set_job_state(job, "standby", ended_at_s=None, summary="{}")
        await trio.sleep(10.0)
        await world.pass_time(JOB_UNLED_MAX_S - HOUR_S)
        assert job in elector.jobs
        await world.pass_time(2 * HOUR_S)
        assert job not in elector.jobs
        assert await results_of(alone, job) == 0

    KeptWorld(look, submitter_dies=True).run()


def test_a_submitter_whose_results_had_to_make_room_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look(world: KeptWorld, job: JobId) -> None:
        monkeypatch.setattr(kept_results, "RESULTS_FOR_OTHERS_BYTES_MAX", 0)
        await world.pass_time(HOUR_S)
        for sim in world.electors(job, but=[world.submitter]):
            assert await results_of(sim, job) == 0
            if await sim.node.ports.store.job(job) is not None:
                assert (await sim.node.control.job(job))["results_gone"] == NO_ROOM
        submitter = await world.submitter_again()
        async with submitter.node.run():
            await wait_ended(submitter, job)
            with pytest.raises(
                JobFailed, match=rf"results are gone \(.*{NO_ROOM}.*\); run the job again with --resume"
            ):
                async for _ in submitter.node.control.results(job):
                    pass

    KeptWorld(look, submitter_dies=True).run()


def test_results_of_which_it_is_noted_already_that_they_are_gone_go_all_the_same() -> None:
    """Some came after the note, or were not removed when it was made."""

    async def look(world: KeptWorld, job: JobId) -> None:
        complete = [sim for sim in world.electors(job, but=[world.submitter]) if await results_of(sim, job) == ITEMS]
        assert complete
        for sim in complete:
            store, keeping = sim.node.ports.store, sim.node.jobs._keeping
            row = await store.job(job)
            assert row is not None
            noted = json.dumps({**json.loads(row.summary), "results_gone": FETCHED})
            await store.set_job_state(job, row.state, ended_at_s=row.ended_at_s, summary=noted)
            await keeping.note_fetched(job)
            assert await store.results_bytes(job) == 0
            assert (await sim.node.control.job(job))["results_gone"] == FETCHED

    KeptWorld(look, submitter_dies=True).run()


def test_where_no_elector_has_room_for_results_the_job_waits_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Json] = []

    class FullWorld(KeptWorld):
        async def _run_job(self, folder: Path, nursery: trio.Nursery) -> Json:
            monkeypatch.setattr(kept_results, "RESULTS_FOR_OTHERS_BYTES_MAX", 10)
            nursery.start_soon(self._give_room)
            return await super()._run_job(folder, nursery)

        async def _give_room(self) -> None:
            while not shown or not shown[0]["warnings"]:
                await trio.sleep(1.0)
                shown[:] = await self.submitter.node.control.jobs()
            monkeypatch.setattr(kept_results, "RESULTS_FOR_OTHERS_BYTES_MAX", 1 << 30)

    async def look(world: KeptWorld, job: JobId) -> None:
        (view,) = shown
        assert view["state"] == "running"
        assert view["final"] == 0
        assert view["warnings"], view
        assert all("takes no copies of results: results kept for others: " in warning for warning in view["warnings"])

    FullWorld(look).run()
