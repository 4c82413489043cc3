"""Changes of a job's priority: from its owner to whoever coordinates, into the journal, and from there into force."""

from __future__ import annotations

from collections.abc import Callable

import trio

from peerinfer.assignment import PriorityChanged
from peerinfer.control import PRIORITIES, Json
from peerinfer.envelope import Sign
from peerinfer.errors import UsageError
from peerinfer.fairness import Priority
from peerinfer.ids import PeerId
from peerinfer.job_priority import JobPriority, Tally, check_room, detail_of, in_batch, newest, opened, stated, told
from peerinfer.journal import Chain
from peerinfer.journal_rules import PRIORITY
from peerinfer.replica_messages import JobPriorityWanted
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.returning import Returning

CHANGE_TIMEOUT_S = 15.0
"""An owner waits so long until a coordinator has it in writing; an election takes some seconds."""

CHANGE_AGAIN_S = 0.2
"""Whoever answered before the coordinator had written it down is asked once more, while a person waits."""

COMMIT_TIMEOUT_S = 2.0
"""A coordinator waits so long for a quorum before it answers; the owner asks again."""


class Priorities:
    """The priorities of jobs that are not over."""

    def __init__(
        self,
        *,
        own: PeerId,
        sign: Sign,
        wall_s: Callable[[], float],
        elections: Elections,
        coordinator: CoordinatorRole,
        returning: Returning,
    ) -> None:
        self._own = own
        self._sign = sign
        self._wall_s = wall_s
        self._elections = elections
        self._coordinator = coordinator
        self._returning = returning

    async def change(self, live: LiveJob, word: str) -> None:
        """Returns when whoever coordinates goes by it. Raises `UsageError` if that cannot be had."""
        if word not in PRIORITIES:
            raise UsageError(f"priority: choose {', '.join(PRIORITIES)}")
        if live.manifest.submitter != self._own:
            raise UsageError(f"job {live.job} is not this node's own; only its owner changes its priority")
        signed = stated(live.job, word, self._wall_s(), live.priority, self._own, self._sign)
        statement = opened(signed, live.job, self._own)
        with trio.move_on_after(CHANGE_TIMEOUT_S):
            while not live.is_over:
                if live.body is not None:
                    await self.change_for(live, signed)
                else:
                    heard = await self._tell(live, JobPriorityWanted(live.job, signed), statement)
                    if heard.is_ended:
                        break
                    if heard.is_written:
                        self._apply(live, statement)
                if live.priority is not None and live.priority.sequence >= statement.sequence:
                    return
                await trio.sleep(CHANGE_AGAIN_S)
            raise UsageError(f"job {live.job} has ended already")
        raise UsageError(
            f"nobody coordinates job {live.job} now, so nobody can change its priority; "
            "try again when `peerinfer jobs show` says that it runs"
        )

    async def _tell(self, live: LiveJob, request: JobPriorityWanted, statement: JobPriority) -> Tally:
        """Whoever coordinates writes it down; what counts is what a quorum of the electors have in their journals."""
        seated = self._elections.seated(live.job, live.manifest)
        tally = Tally(seated.electors, seated.quorum, statement.sequence)
        if self._own in seated.electors:
            tally.count(self._own, told(self._elections.elector.chain(live.job), live.job, self._own))
        with trio.CancelScope() as scope:

            def heard(peer: PeerId, state: Json) -> None:
                tally.count(peer, state)
                if tally.is_written or tally.is_ended:
                    scope.cancel()

            await self._returning.tell(live, request, heard, CHANGE_AGAIN_S)
        return tally

    async def change_for(self, live: LiveJob, signed: bytes) -> None:
        """As the coordinator: writes the owner's statement down and waits a while until a quorum has it.

        Raises `ProtocolError` for what is not the owner's, and beyond the limit of changes.
        """
        statement = opened(signed, live.job, PeerId(live.manifest.submitter))
        machine = self._elections.machine(live.job)
        if live.body is None or machine is None or self._is_known(live, statement):
            return
        written = newest(machine.chain, live.job, PeerId(live.manifest.submitter))
        if written is None or written.sequence < statement.sequence:
            check_room(machine.chain)
            self._elections.write(live.job, (), event=PRIORITY, detail=detail_of(signed), now=True)
        with trio.move_on_after(COMMIT_TIMEOUT_S):
            while live.body is not None and not self._is_known(live, statement):
                await live.wait_change(live.changes)

    def committed(self, live: LiveJob, detail: str) -> None:
        """A quorum has a batch that says this."""
        statement = in_batch(detail, live.job, PeerId(live.manifest.submitter))
        if statement is not None:
            self._apply(live, statement)

    def _is_known(self, live: LiveJob, statement: JobPriority) -> bool:
        return live.priority is not None and live.priority.sequence >= statement.sequence

    def _apply(self, live: LiveJob, statement: JobPriority) -> None:
        if self._is_known(live, statement):
            return
        live.prioritise(statement)
        if live.body is not None:
            priority = Priority(statement.priority)
            live.body.prioritise(priority)
            self._coordinator.reintroduce(live.job)
            self._coordinator.post(PriorityChanged(live.job, priority))
        live.note_change()


def take_up(live: LiveJob, chain: Chain) -> None:
    """Whoever begins to coordinate goes by what the journal says."""
    statement = newest(chain, live.job, PeerId(live.manifest.submitter))
    if statement is not None:
        live.priority = None  # its request was read anew
        live.prioritise(statement)
