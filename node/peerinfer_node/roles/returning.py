"""Coming back to a job that others coordinate: who is asked how it goes on, and when one stands for it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf

import trio

from peerinfer.control import JOB_ENDED, Json
from peerinfer.errors import JobFailed, PeerinferError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.limits import REASON_CHARS_MAX
from peerinfer.messages import Manifest
from peerinfer.replica_messages import JobStateWanted
from peerinfer_node.log import Log
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.job_views import told_checks
from peerinfer_node.roles.keeping import GIVEN_UP
from peerinfer_node.roles.live_job import LiveJob, in_journal, tasks_of
from peerinfer_node.roles.replicas import AboutJob, Replicas

REJOIN_S = 5.0
"""A submitter that comes back tries so long to hear of its job from the committee."""

REJOIN_AGAIN_S = 0.5
FOLLOW_INTERVAL_S = 1.0
"""A submitter that is no elector asks so often how its job goes on. Shorter than a lease, so that it does not campaign."""

Stand = Callable[[LiveJob, bool], None]
"""Becomes a candidate; True: and campaigns at once."""


class Returning:
    """This node as one of a job's candidates that does not coordinate it now."""

    def __init__(
        self,
        *,
        own: PeerId,
        replicas: Replicas,
        elections: Elections,
        log: Log,
        stand: Stand,
        is_given_up: Callable[[JobId], Awaitable[bool]],
        give_up: Callable[[JobId, str], Awaitable[None]],
    ) -> None:
        self._own = own
        self._replicas = replicas
        self._elections = elections
        self._log = log
        self._stand = stand
        self._is_given_up = is_given_up
        self._give_up = give_up

    async def rejoin(self, live: LiveJob) -> None:
        """Asks how a job went on without this node before it stands for it again."""
        has_ended = False
        with trio.move_on_after(REJOIN_S):
            while True:
                state = await self.ask_others(live)
                if state is not None:
                    has_ended = state.get("state") in JOB_ENDED
                    break
                await trio.sleep(REJOIN_AGAIN_S)
        if has_ended and await self._is_given_up(live.job):
            await self._give_up(live.job, GIVEN_UP)
            return
        # One that says that it has ended is not believed: who campaigns reads it in the journals of a quorum.
        self._stand(live, has_ended)
        await self.follow(live)

    async def follow(self, live: LiveJob) -> None:
        """Keeps a submitter that is no elector from campaigning as long as somebody coordinates."""
        while (
            self._own not in self._elections.committee(live.job, live.manifest)
            and not live.is_over
            and live.body is None
        ):
            state = await self.ask_others(live)
            if state is not None and state.get("state") not in JOB_ENDED:
                self._elections.note_lease(live.job, str(state.get("coordinator", "")))
            await trio.sleep(FOLLOW_INTERVAL_S)

    async def ask_others(self, live: LiveJob) -> Json | None:
        """What the first says that claims to know how the job stands; None if nobody who does can be reached.

        All are asked at once: one that hangs must not hide one that knows. Whoever goes by the answer checks it.
        """
        found: list[Json] = []
        with trio.CancelScope() as scope:

            def heard(peer: PeerId, state: Json) -> None:
                found.append(state)
                scope.cancel()

            await self.tell(live, JobStateWanted(live.job), heard)
        return found[0] if found else None

    async def tell(
        self, live: LiveJob, request: AboutJob, heard: Callable[[PeerId, Json], None], again_s: float = inf
    ) -> None:
        """Asks all who may coordinate the job; `heard` is called with each answer. Returns when none is left.

        None of them keeps the others from being told, whatever it answers. While one is waited for that does not answer,
        the others are asked again every `again_s`.
        """
        waited_for = [peer for peer in self._elections.candidates(live.job, live.manifest) if peer != self._own]

        async def ask_on(peer: PeerId) -> None:
            await ask(peer)
            waited_for.remove(peer)
            while waited_for:
                await trio.sleep(again_s)
                await ask(peer)
            nursery.cancel_scope.cancel()

        async def ask(peer: PeerId) -> None:
            try:
                state = await self._replicas.state(peer, request)
            except PeerinferError as error:
                self._log.debug("candidate knows nothing", job=live.job, peer=peer, reason=str(error))
                return
            if state is not None:
                heard(peer, state)

        async with trio.open_nursery() as nursery:
            for peer in tuple(waited_for):
                nursery.start_soon(ask_on, peer)

    async def how_checked(self, live: LiveJob, known: Json) -> Json:
        """What who coordinated last knows of a job's checks; nothing where `known`, of this node, is of as many tasks."""
        coordinator = PeerId(known["coordinator"])
        if coordinator == self._own:
            return {}
        with suppress(PeerinferError):  # It is asked once: the end of the job does not wait for it for long.
            told = told_checks(await self._replicas.state(coordinator, JobStateWanted(live.job)) or {})
            if told.get("verification", {}).get("tasks", 0) > known["verification"].get("tasks", 0):
                return told
        return {}

    async def check_all_here(self, job: JobId, manifest: Manifest, chain: Chain, here: Sequence[RecordRow]) -> None:
        """Raises `JobFailed` if results that the journal names are not here, and electors say that they gave them up."""
        final, _ = in_journal(chain)
        missing = len(final.keys() - tasks_of(here))
        if not missing:
            return
        told: list[str] = []

        async def ask(elector: PeerId) -> None:
            with suppress(PeerinferError):
                state = await self._replicas.state(elector, JobStateWanted(job))
                if state is not None and state.get("results_gone"):
                    told.append(f"{elector}: {str(state['results_gone'])[:REASON_CHARS_MAX]}")

        async with trio.open_nursery() as nursery:
            for elector in self._elections.candidates(job, manifest):
                if elector != self._own:
                    nursery.start_soon(ask, elector)
        if told:
            words = "; ".join(sorted(told))
            raise JobFailed(f"{missing} of {len(final)} results are gone ({words}); run the job again with --resume")
