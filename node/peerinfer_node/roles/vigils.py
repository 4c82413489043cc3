"""This node as the owner of jobs of which a quorum is missing: when it goes on without those that are gone.

What is decided is in `peerinfer.vigil`, and what is done then in `rescuing`. Only jobs that were submitted attached are
watched: somebody waits for them here. A detached job is left to its electors, and to its owner's word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import trio

from peerinfer.errors import PeerinferError
from peerinfer.ids import JobId, PeerId
from peerinfer.membership_events import Member
from peerinfer.units import format_duration
from peerinfer.vigil import COMPANY_S, GOES_ON_AFTER_S, LOOKS_EVERY_S, Company, Vigil, objection
from peerinfer_node.log import Log
from peerinfer_node.ports import LocalClock
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.live_views import is_quorum_missing, left_to_its_owner
from peerinfer_node.roles.rescuing import Rescuing
from peerinfer_node.roles.returning import Returning


class Vigils:
    """Over the jobs of `live`; `members` is whom this node knows of its swarm."""

    def __init__(
        self,
        *,
        own: PeerId,
        live: Mapping[JobId, LiveJob],
        members: Callable[[], Iterable[Member]],
        elections: Elections,
        returning: Returning,
        rescuing: Rescuing,
        clock: LocalClock,
        log: Log,
    ) -> None:
        self._own = own
        self._live = live
        self._members = members
        self._elections = elections
        self._returning = returning
        self._rescuing = rescuing
        self._clock = clock
        self._log = log
        self._company = Company()
        self._vigils: dict[JobId, Vigil] = {}

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                for live in self._look():
                    # A rescue may take minutes. Whoever does not look meanwhile would seem to have slept.
                    self._vigils[live.job].begin_anew()
                    nursery.start_soon(self._go_on, live)
                await trio.sleep(LOOKS_EVERY_S)

    def _look(self) -> list[LiveJob]:
        """At all of them; returns those that nobody need be waited for any more."""
        now_s = self._clock.holder_s()
        watched = {job: live for job, live in self._live.items() if self._is_watched(live)}
        self._vigils = {job: self._vigils.get(job) or Vigil() for job in watched}
        for job, live in watched.items():
            self._vigils[job].look(now_s, is_missing=self._is_missing(live))
        went = [vigil.gone_s for vigil in self._vigils.values() if vigil.gone_s is not None]
        members = list(self._members())
        alive = [member.peer for member in members if member.state == "alive"]
        left = [member.peer for member in members if member.state == "left"]
        self._company.note(now_s, alive, left, min(went, default=now_s) - COMPANY_S)
        return [live for live in watched.values() if self._is_due(live, alive, now_s)]

    def _is_watched(self, live: LiveJob) -> bool:
        is_own = live.manifest.submitter == self._own and live.manifest.committee != (self._own,)
        return is_own and not (live.request.detach or live.is_over or live.is_unwanted)

    def _is_missing(self, live: LiveJob) -> bool:
        machine = self._elections.machine(live.job)
        return live.body is None and machine is not None and is_quorum_missing(machine, machine.snapshot())

    def _is_due(self, live: LiveJob, alive: list[PeerId], now_s: float) -> bool:
        vigil, machine = self._vigils[live.job], self._elections.machine(live.job)
        if vigil.gone_s is None or machine is None:
            live.going_on = ""
            return False
        there, known = self._company.share(alive, vigil.gone_s - COMPANY_S, machine.committee, self._own)
        against = objection(there, known, machine.seated.generation, may_be_led=live.request.replicate)
        live.going_on = (
            f"{against}; {left_to_its_owner(live.job)}" if against else _by_itself(live.job, vigil.left_s(now_s))
        )
        return not against and vigil.is_over(now_s)

    async def _go_on(self, live: LiveJob) -> None:
        if await self._returning.ask_others(live) is not None:
            return  # Somebody coordinates it, with electors that are out of reach from here.
        if not self._is_watched(live):
            return  # It has ended meanwhile.
        try:
            await self._rescuing.rescue(live, confirmed=True)
        except PeerinferError as error:
            self._log.info("job is not gone on with", job=live.job, reason=str(error))


def _by_itself(job: JobId, left_s: float) -> str:
    after, at_once = format_duration(GOES_ON_AFTER_S), f"peerinfer jobs rescue {job[:8]}"
    left = format_duration(round(left_s))
    return (
        f"this node goes on without them once they have been gone for {after}, {left} from now, or at once: {at_once}"
    )
