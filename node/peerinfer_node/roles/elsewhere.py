"""Jobs that others coordinate: what their coordinators say of them, asked only while somebody looks.

A list must not wait for peers that may be gone. So each job is asked about in the background, at most once a second, and
shown as it was told last; a list waits for a first answer alone, and not for long. Who looks at one job waits for what is
said of it now. Both show the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from peerinfer.control import JOB_ENDED, Json
from peerinfer.ids import JobId
from peerinfer_node.ports import LocalClock
from peerinfer_node.roles.job_views import told_checks
from peerinfer_node.roles.live_job import LiveJob

AGAIN_S = 1.0
AGAIN_FOR_EACH_S = 0.1
"""With more than ten such jobs each is asked about more seldom, so that all of them take ten questions a second."""

KEPT_S = 10.0
"""For so long the last answer is shown. Then nobody seems to coordinate, and this node's own view is told."""

FIRST_WAIT_S = 1.0
"""A list waits so long where it knows nothing yet."""

ANSWER_TIMEOUT_S = 5.0

_MOVING = (
    *("accepted", "final", "failed", "failed_tasks", "retried", "hedged"),
    *("peers", "blocked", "open", "assigned", "priority", "coordinator", "term", "handovers", "elapsed_s", "survives"),
)
"""What a coordinator knows better. The rest is in the manifest, which this node has itself."""


@dataclass(frozen=True, slots=True)
class _Heard:
    at_s: float
    told: Json | None
    """None where nobody who knows could be asked."""


class Elsewhere:
    def __init__(self, *, ask: Callable[[LiveJob], Awaitable[Json | None]], clock: LocalClock) -> None:
        self._ask = ask
        self._clock = clock
        self._heard: dict[JobId, _Heard] = {}
        self._asking: dict[JobId, trio.Event] = {}

    async def look(self, nursery: trio.Nursery, lives: Sequence[LiveJob]) -> None:
        """Asks about `lives`, of which this node coordinates none; returns without most of the answers."""
        wanted = {live.job: live for live in lives}
        now_s, again_s = self._clock.now_s(), max(AGAIN_S, AGAIN_FOR_EACH_S * len(wanted))
        unknown: list[trio.Event] = []
        for job, live in wanted.items():
            heard = self._heard.get(job)
            if job not in self._asking and (heard is None or now_s - heard.at_s >= again_s):
                nursery.start_soon(self._listen, live, self._begin(job))
            if job in self._asking and (heard is None or now_s - heard.at_s > KEPT_S):
                unknown.append(self._asking[job])
        with trio.move_on_after(FIRST_WAIT_S):
            for answered in unknown:
                await answered.wait()

    async def hear(self, live: LiveJob) -> None:
        """Asks about one job, and returns when there is an answer, or none to be had."""
        if live.job in self._asking:
            await self._asking[live.job].wait()
        else:
            await self._listen(live, self._begin(live.job))

    def view(self, job: JobId, own: Json) -> Json:
        """`own`, what this node knows of a job that it does not coordinate, with what its coordinator said since.

        Only what has the form that this node would give it is taken over. That a job has ended is not believed: this node
        reads it in the journals of a quorum, and says so until it has.
        """
        heard = self._heard.get(job)
        if heard is None or heard.told is None or self._clock.now_s() - heard.at_s > KEPT_S:
            return own
        told = heard.told
        moved = {name: told[name] for name in _MOVING if name in told and _alike(told[name], own.get(name))}
        moved |= told_checks(told)
        if told.get("state") in JOB_ENDED:
            moved["blocked"] = f"others say that it is {told['state']}; that is being read in its journal"
        return {**own, "state": "running", "blocked": "", **moved}

    def _begin(self, job: JobId) -> trio.Event:
        self._heard = {job: heard for job, heard in self._heard.items() if self._clock.now_s() - heard.at_s <= KEPT_S}
        answered = self._asking[job] = trio.Event()
        return answered

    async def _listen(self, live: LiveJob, answered: trio.Event) -> None:
        told: Json | None = None
        try:
            with trio.move_on_after(ANSWER_TIMEOUT_S):
                told = await self._ask(live)
            self._heard[live.job] = _Heard(self._clock.now_s(), told)
        finally:  # Whoever looks may leave before there is an answer.
            del self._asking[live.job]
            answered.set()


def _alike(value: object, own: object) -> bool:
    if isinstance(own, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(own)
