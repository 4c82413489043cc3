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
from peerinfer_node.peer_rows import ReputationRow
from peerinfer_node.ports import Keys, LocalClock, Store
from peerinfer_node.saving import OwnMark, save_every, was_saved

SAVED_EVERY_S = 5.0
_NEWCOMERS = "newcomers"


class ReputationRole:
    """Keeps what the coordinator has seen of its peers across restarts."""

    def __init__(self, *, machine: Coordination, store: Store, keys: Keys, clock: LocalClock, log: Log) -> None:
        self._machine = machine
        self._store = store
        self._clock = clock
        self._log = log
        self._mark = OwnMark(keys)
        self._saved = "[]"

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
        self._saved = await self._restore_newcomers()

    async def run(self) -> None:
        await save_every(SAVED_EVERY_S, self.save)

    async def _restore_newcomers(self) -> str:
        """Names that were let in today where somebody was caught. Returns what stands in the file."""
        text = await self._store.setting(_NEWCOMERS) or ""
        mark, _, newcomers = text.partition(" ")
        if not text:
            return "[]"
        try:
            if not self._mark.is_on(newcomers.encode(), bytes.fromhex(mark)):
                raise ValueError(mark)
            rows = [(str(subnet), PeerId(name), float(at_s)) for subnet, name, at_s in json.loads(newcomers)]
        except (ValueError, TypeError):
            self._log.warning("newcomers of today are forgotten: this was not written by this node")
            return ""
        self._machine.whitewashing.restore(rows, self._clock.wall_s())
        return newcomers

    async def save(self) -> None:
        await self._save_newcomers()
        rows, gone = self._machine.reputation.changes()
        if not rows and not gone:
            return
        sealed = [self._seal(peer, row) for peer, row in rows]
        if not await was_saved("evidence", lambda: self._store.save_reputation(sealed, gone), self._log):
            self._machine.reputation.change_again([*(peer for peer, _ in rows), *gone])

    async def _save_newcomers(self) -> None:
        newcomers = json.dumps(self._machine.whitewashing.newcomers(self._clock.wall_s()))
        text = f"{self._mark.of(newcomers.encode()).hex()} {newcomers}"
        if newcomers != self._saved and await was_saved(
            "who came today", lambda: self._store.set_setting(_NEWCOMERS, text), self._log
        ):
            self._saved = newcomers

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
