"""Journals of this node's own jobs that are over: what is fetched of their results must be what these name.

The newest are remembered. After a restart they are not, and where results are still to be fetched the journal is read from
a quorum again, as any candidate reads it: the job has ended, so nothing but that comes of it. Without a journal nothing is
fetched, since any elector could say what it likes.
"""

from __future__ import annotations

import trio

from peerinfer.ids import JobId
from peerinfer.journal import Chain
from peerinfer_node.ports import JobRow, Store
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.rescuing import named_generation

REMEMBERED_MAX = 64
READ_S = 20.0
"""So long a quorum is waited for."""


class PastJournals:
    def __init__(self, *, store: Store, elections: Elections) -> None:
        self._store = store
        self._elections = elections
        self._remembered: dict[JobId, Chain] = {}
        self._one_reads = trio.Lock()

    def remember(self, job: JobId, chain: Chain) -> None:
        while len(self._remembered) >= REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[job] = chain

    def known(self, job: JobId) -> Chain | None:
        """Without asking anybody: this node's own elector may have it too."""
        return self._remembered.get(job) or self._elections.elector.chain(job)

    async def read(self, row: JobRow) -> Chain | None:
        """From a quorum of its electors; None where too few of them answer."""
        async with self._one_reads:
            if (known := self.known(row.job)) is not None:
                return known
            is_read = trio.Event()

            def over(chain: Chain) -> None:
                self.remember(row.job, chain)
                is_read.set()

            self._elections.stand(
                row.job,
                row.manifest,
                campaign=True,
                on_won=lambda term: None,
                on_lost=lambda reason: None,
                on_committed=lambda batches: None,
                on_over=over,
            )
            try:
                if named := await named_generation(self._store, row.job):
                    self._elections.begin_generation(row.job, named)
                with trio.move_on_after(READ_S):
                    await is_read.wait()
            finally:
                self._elections.withdraw(row.job)
            return self.known(row.job)
