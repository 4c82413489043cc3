"""Which jobs an owner's node watches over, and what it asks before it goes on without a quorum."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
from lease_setting import PEERS, Setting

from peerinfer.control import JobRequest
from peerinfer.errors import UsageError
from peerinfer.ids import JobId
from peerinfer.membership_events import Member
from peerinfer.units import format_duration
from peerinfer.vigil import GOES_ON_AFTER_S, LOOKS_EVERY_S, SLEPT_S
from peerinfer_node.log import Log
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.vigils import Vigils

JOB = Setting()
OWNER = JOB.manifest.submitter
ELECTORS = tuple(JOB.manifest.committee)


class Clock:
    holder_s = staticmethod(trio.current_time)


class World:
    """A job of which a quorum is missing, in a swarm that is there."""

    def __init__(self, *, own=OWNER, **request):
        self.live = LiveJob(JOB.job, JOB.manifest, JOB.signed, JobRequest("-", ("-",), **request), 0.0)
        self.jobs = {JOB.job: self.live}
        self.rescued: list[float] = []
        self.told = None
        self.alive = PEERS[3:7]
        self.refusal: UsageError | None = None
        picture = SimpleNamespace(waiting="1 of 3 electors answered", missing=ELECTORS[1:])
        seated = SimpleNamespace(quorum=2, generation=0)
        self.machine = SimpleNamespace(committee=ELECTORS, seated=seated, snapshot=lambda: picture)
        self.vigils = Vigils(
            own=own,
            live=self.jobs,
            members=lambda: [Member(peer, "alive") for peer in self.alive],
            elections=SimpleNamespace(machine=lambda job: self.machine),
            returning=self,
            rescuing=self,
            clock=Clock(),
            log=Log(),
        )

    async def ask_others(self, live):
        return self.told

    async def rescue(self, live, *, confirmed):
        assert confirmed
        self.rescued.append(trio.current_time())
        if self.refusal is not None:
            raise self.refusal

    async def watch(self, nursery, for_s):
        began_s = trio.current_time()
        nursery.start_soon(self.vigils.run)
        await trio.sleep_until(began_s + for_s)
        nursery.cancel_scope.cancel()
        return [at_s - began_s for at_s in self.rescued]


async def test_an_attached_job_is_gone_on_with_once_its_quorum_has_been_missing_for_long_enough(
    autojump_clock, nursery
):
    world = World()
    (after_s,) = await world.watch(nursery, GOES_ON_AFTER_S + 2 * LOOKS_EVERY_S)
    assert GOES_ON_AFTER_S - 0.1 <= after_s < GOES_ON_AFTER_S + 2 * LOOKS_EVERY_S
    assert "or at once: peerinfer jobs rescue" in world.live.going_on


async def test_it_is_told_how_long_it_is_until_then(autojump_clock, nursery):
    world = World()
    await world.watch(nursery, GOES_ON_AFTER_S - 60.0)
    left_s = [f" {format_duration(60 + late_s)} from now, or" for late_s in range(int(LOOKS_EVERY_S) + 1)]
    assert any(words in world.live.going_on for words in left_s), world.live.going_on


@pytest.mark.parametrize("case", ["detached", "another's", "cancelled", "over"])
async def test_jobs_that_nobody_waits_for_here_are_left_alone(autojump_clock, nursery, case):
    world = World(own=PEERS[5] if case == "another's" else OWNER, detach=case == "detached")
    world.live.is_unwanted, world.live.is_over = case == "cancelled", case == "over"
    assert await world.watch(nursery, 2 * GOES_ON_AFTER_S) == []
    assert not world.live.going_on


async def test_one_that_somebody_coordinates_out_of_reach_of_its_electors_is_left_alone(autojump_clock, nursery):
    world = World()
    world.told = {"state": "running"}
    assert await world.watch(nursery, 3 * GOES_ON_AFTER_S) == []


async def test_one_that_ends_while_others_are_asked_is_left_alone(autojump_clock, nursery):
    world = World()

    async def ask_others(live):
        live.is_over = True

    world.ask_others = ask_others
    assert await world.watch(nursery, 2 * GOES_ON_AFTER_S) == []


async def test_one_whose_electors_answer_after_all_is_watched_again_from_the_beginning(autojump_clock, nursery):
    world = World()
    world.refusal = UsageError("job needs no rescue: 2 of 3 electors answer, 2 are needed")
    first_s, second_s = await world.watch(nursery, 2 * GOES_ON_AFTER_S + 4 * LOOKS_EVERY_S)
    assert second_s - first_s > GOES_ON_AFTER_S - 0.1


async def test_a_job_left_to_a_person_stays_so_while_another_takes_long_to_be_gone_on_with(autojump_clock, nursery):
    """Eight nodes were there, and this one sees three; nobody else can coordinate the other job."""
    world = World()
    world.alive = [peer for peer in PEERS if peer != OWNER]
    other = LiveJob(JobId("e" * 64), JOB.manifest, JOB.signed, replace(world.live.request, replicate=False), 0.0)
    world.jobs[other.job] = other
    rescued = []

    async def rescue(live, *, confirmed):
        rescued.append(live.job)
        await trio.sleep(SLEPT_S + 10.0)

    world.rescue = rescue
    nursery.start_soon(world.vigils.run)
    await trio.sleep(LOOKS_EVERY_S / 2)
    world.alive = [PEERS[2], PEERS[3]]
    await trio.sleep(4 * GOES_ON_AFTER_S)
    nursery.cancel_scope.cancel()
    assert set(rescued) == {other.job}
    assert world.live.going_on.startswith("this node sees 3 of 8 ")


async def test_nobody_in_sight_means_that_a_person_decides(autojump_clock, nursery):
    world = World()
    world.alive = []
    assert await world.watch(nursery, 2 * GOES_ON_AFTER_S) == []
    assert world.live.going_on.startswith("this node sees 1 of ")
    assert "its owner can go on without them: peerinfer jobs rescue" in world.live.going_on
    # Unless nobody else was ever given the inputs.
    world.live.request = replace(world.live.request, replicate=False)
    async with trio.open_nursery() as again:
        assert await world.watch(again, GOES_ON_AFTER_S + 2 * LOOKS_EVERY_S)
