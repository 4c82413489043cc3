"""Reputation on its way to state.db and back. A row that somebody else has written is refused.

Each row carries a code that only this node's key can make, so that evidence cannot be edited by hand, nor be carried
from another node's file into this one.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from peerinfer.coordination import Coordination
from peerinfer.ids import PeerId
from peerinfer.reputation import Evidence
from peerinfer_node.log import Log
from peerinfer_node.ports import Keys, LocalClock, ReputationRow, Store
from peerinfer_node.saving import OwnMark, save_every, was_saved

SAVED_EVERY_S = 5.0


class ReputationRole:
    """Keeps what the coordinator has seen of its peers across restarts."""

    def __init__(self, *, machine: Coordination, store: Store, keys: Keys, clock: LocalClock, log: Log) -> None:
        self._machine = machine
        self._store = store
        self._clock = clock
        self._log = log
        self._mark = OwnMark(keys)

    async def restore(self) -> None:
        rows: list[tuple[PeerId, Evidence]] = []
        refused = 0
        for row in await self._store.reputation():
            found = self._open(row)
            if found is None:
                refused += 1
            else:
                rows.append((row.peer, found))
        refused += self._machine.reputation.restore(rows, self._clock.wall_s())
        if refused:
            self._log.warning("evidence refused: these rows were not written by this node", rows=refused)
        self._machine.recall(self._clock.now_s())

    async def run(self) -> None:
        await save_every(SAVED_EVERY_S, self.save)

    async def save(self) -> None:
        rows, gone = self._machine.reputation.changes()
        if not rows and not gone:
            return
        sealed = [self._seal(peer, row) for peer, row in rows]
        if not await was_saved("evidence", lambda: self._store.save_reputation(sealed, gone), self._log):
            self._machine.reputation.change_again([*(peer for peer, _ in rows), *gone])

    def _seal(self, peer: PeerId, row: Evidence) -> ReputationRow:
        evidence = json.dumps(asdict(row), sort_keys=True)
        return ReputationRow(peer, evidence, self._mark.of(f"{peer} {evidence}".encode()), row.at_s)

    def _open(self, row: ReputationRow) -> Evidence | None:
        if not self._mark.is_on(f"{row.peer} {row.evidence}".encode(), row.mac):
            return None
        try:
            values = json.loads(row.evidence)
            return Evidence(**values | {"networks": tuple(values.get("networks", ()))})
        except (ValueError, TypeError, AttributeError):  # written by a version with other fields
            return None
