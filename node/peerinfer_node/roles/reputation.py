"""Reputation on its way to state.db and back. A row that somebody else has written is refused.

Each row carries a code that only this node's key can make, so that evidence cannot be edited by hand, nor be carried
from another node's file into this one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict

import trio

from peerinfer.coordination import Coordination
from peerinfer.errors import StateUnusable
from peerinfer.ids import PeerId
from peerinfer.reputation import Evidence
from peerinfer_node.log import Log
from peerinfer_node.ports import Keys, LocalClock, ReputationRow, Store

SAVED_EVERY_S = 5.0
_PURPOSE = b"peerinfer: codes of the rows of reputation"


class ReputationRole:
    """Keeps what the coordinator has seen of its peers across restarts."""

    def __init__(self, *, machine: Coordination, store: Store, keys: Keys, clock: LocalClock, log: Log) -> None:
        self._machine = machine
        self._store = store
        self._clock = clock
        self._log = log
        # Ed25519 signs the same bytes in the same way every time, so this is the same secret after a restart.
        self._secret = hashlib.sha256(keys.sign(_PURPOSE)).digest()

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
        while True:
            await trio.sleep(SAVED_EVERY_S)
            await self.save()

    async def save(self) -> None:
        rows, gone = self._machine.reputation.changes()
        if rows or gone:
            try:
                await self._store.save_reputation([self._seal(peer, row) for peer, row in rows], gone)
            except StateUnusable as error:
                self._machine.reputation.change_again([*(peer for peer, _ in rows), *gone])
                self._log.warning("evidence could not be written down", reason=str(error))

    def _seal(self, peer: PeerId, row: Evidence) -> ReputationRow:
        evidence = json.dumps(asdict(row), sort_keys=True)
        return ReputationRow(peer, evidence, self._code(peer, evidence), row.at_s)

    def _code(self, peer: PeerId, evidence: str) -> bytes:
        return hmac.digest(self._secret, f"{peer} {evidence}".encode(), "sha256")[:16]

    def _open(self, row: ReputationRow) -> Evidence | None:
        if not hmac.compare_digest(self._code(row.peer, row.evidence), row.mac):
            return None
        try:
            return Evidence(**json.loads(row.evidence))
        except (ValueError, TypeError):  # written by a version with other fields
            return None
