"""Jobs that others coordinate, as a list shows them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from peerinfer.control import Json
from peerinfer.ids import JobId
from peerinfer_node.roles.elsewhere import AGAIN_FOR_EACH_S, AGAIN_S, ANSWER_TIMEOUT_S, FIRST_WAIT_S, KEPT_S, Elsewhere
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_sim.clock import SimClock

OWN: Json = {
    "job_id": "1",
    "state": "paused",
    "accepted": 0,
    "elapsed_s": 0.0,
    "blocked": "is being elected",
    "model": "m",
}


def live(number: int = 1) -> LiveJob:
    return cast(LiveJob, SimpleNamespace(job=JobId(f"{number:032}")))


class Coordinators:
    """What they say, after how long; and how often each job was asked about."""

    def __init__(self) -> None:
        self.answer: Json | None = {"state": "running", "accepted": 7, "elapsed_s": 3, "blocked": ""}
        self.after_s = 0.1
        self.asked: dict[str, int] = {}

    async def ask(self, wanted: LiveJob) -> Json | None:
        self.asked[wanted.job] = self.asked.get(wanted.job, 0) + 1
        await trio.sleep(self.after_s)
        return self.answer


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Coordinators, Elsewhere, trio.Nursery]]:
    coordinators = Coordinators()
    async with trio.open_nursery() as nursery:
        yield coordinators, Elsewhere(ask=coordinators.ask, clock=SimClock(0.0)), nursery
        nursery.cancel_scope.cancel()


async def test_a_job_is_as_far_as_its_coordinator_says(autojump_clock: MockClock) -> None:
    async with listening() as (_, elsewhere, nursery):
        await elsewhere.look(nursery, [live()])
        shown = elsewhere.view(live().job, OWN)
        assert shown == {**OWN, "state": "running", "accepted": 7, "elapsed_s": 3, "blocked": ""}


async def test_who_looks_all_the_time_asks_once_a_second_and_never_waits_again(autojump_clock: MockClock) -> None:
    async with listening() as (coordinators, elsewhere, nursery):
        await elsewhere.look(nursery, [live()])
        began_s = trio.current_time()
        for _ in range(100):
            before_s = trio.current_time()
            await elsewhere.look(nursery, [live()])
            assert trio.current_time() == before_s
            await trio.sleep(0.1)
        seconds = trio.current_time() - began_s
        assert 1 < coordinators.asked[live().job] <= 1 + seconds / AGAIN_S


async def test_many_jobs_share_ten_questions_a_second(autojump_clock: MockClock) -> None:
    many = [live(number) for number in range(50)]
    async with listening() as (coordinators, elsewhere, nursery):
        for _ in range(60):
            await elsewhere.look(nursery, many)
            await trio.sleep(0.5)
        assert max(coordinators.asked.values()) <= 1 + math.ceil(31 / (50 * AGAIN_FOR_EACH_S))


async def test_a_list_does_not_wait_for_a_coordinator_that_hangs(autojump_clock: MockClock) -> None:
    async with listening() as (coordinators, elsewhere, nursery):
        coordinators.after_s = math.inf
        await elsewhere.look(nursery, [live()])
        assert trio.current_time() < FIRST_WAIT_S + 1
        assert elsewhere.view(live().job, OWN) == OWN
        await trio.sleep(ANSWER_TIMEOUT_S + AGAIN_S)
        await elsewhere.look(nursery, [live()])
        await wait_all_tasks_blocked()
        assert coordinators.asked[live().job] == 2  # the first question is over


async def test_what_was_told_is_forgotten_when_nobody_answers_any_more(autojump_clock: MockClock) -> None:
    async with listening() as (_, elsewhere, nursery):
        await elsewhere.look(nursery, [live()])
        await trio.sleep(KEPT_S - 1)
        assert elsewhere.view(live().job, OWN)["accepted"] == 7
        await trio.sleep(2)
        assert elsewhere.view(live().job, OWN) == OWN


async def test_strange_answers_change_nothing_that_this_node_knows(autojump_clock: MockClock) -> None:
    strange: dict[str, Any] = {
        "job_id": "2",
        "state": "done",
        "accepted": "many",
        "elapsed_s": True,
        "model": 3,
        "blocked": None,
    }
    async with listening() as (coordinators, elsewhere, nursery):
        coordinators.answer = strange
        await elsewhere.look(nursery, [live()])
        assert elsewhere.view(live().job, OWN) == {
            **OWN,
            "state": "running",
            "blocked": "others say that it is done; that is being read in its journal",
        }


async def test_who_looks_at_one_job_waits_for_what_is_said_of_it_now(autojump_clock: MockClock) -> None:
    async with listening() as (coordinators, elsewhere, nursery):
        await elsewhere.hear(live())
        coordinators.answer = {**OWN, "state": "running", "accepted": 8}
        nursery.start_soon(elsewhere.hear, live())
        await wait_all_tasks_blocked()
        await elsewhere.hear(live())
        assert elsewhere.view(live().job, OWN)["accepted"] == 8
        assert coordinators.asked[live().job] == 2, "two who look at once ask once"


async def test_who_looks_and_leaves_takes_nothing_from_others(autojump_clock: MockClock) -> None:
    async with listening() as (coordinators, elsewhere, _):
        await elsewhere.hear(live())
        coordinators.after_s = math.inf
        with trio.move_on_after(1.0):
            await elsewhere.hear(live())
        assert elsewhere.view(live().job, OWN)["accepted"] == 7
        coordinators.after_s, coordinators.answer = 0.1, {**OWN, "accepted": 9}
        await elsewhere.hear(live())
        assert elsewhere.view(live().job, OWN)["accepted"] == 9
