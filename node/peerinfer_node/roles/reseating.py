"""Replaces electors that are gone, in the committees of the jobs that are coordinated here."""

from __future__ import annotations

from collections.abc import Callable

import trio

from peerinfer.ids import JobId, PeerId
from peerinfer_node.log import Log
from peerinfer_node.roles.elections import Elections

LOOK_EVERY_S = 5.0

Choose = Callable[[JobId, tuple[PeerId, ...]], "PeerId | None"]
"""Who should sit in a committee beside these; None if there is nobody."""


class Reseating:
    """One elector at a time: those who stay hold the journal, and are a quorum."""

    def __init__(self, *, elections: Elections, choose: Choose, log: Log) -> None:
        self._elections = elections
        self._choose = choose
        self._log = log

    async def run(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            for job, gone in self._elections.gone().items():
                machine = self._elections.machine(job)
                if machine is not None and not machine.chain.change:
                    self._replace(job, machine.committee, gone[0])

    def _replace(self, job: JobId, committee: tuple[PeerId, ...], gone: PeerId) -> None:
        chosen = self._choose(job, committee)
        if chosen is None:
            self._log.debug("nobody can take the place of an elector", job=job, peer=gone)
            return
        self._log.info("elector is replaced", job=job, gone=gone, chosen=chosen)
        after = tuple(chosen if elector == gone else elector for elector in committee)
        self._elections.change_committee(job, after)
