"""What others said of peers, over restarts: in state.db, as they signed it, with a code that only this node's key makes.

Kept are attestations of those whose word counts here, proofs that are to be looked at or that were, who told of one that
did not hold, and this node's own proofs. The rest is heard again from neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable

from peerinfer.errors import DecodeError
from peerinfer.fault_proofs import KIND as FAULT
from peerinfer.fault_proofs import LARGE_KIND
from peerinfer.vouching import Vouching
from peerinfer_node.log import Log
from peerinfer_node.peer_rows import StatementRow
from peerinfer_node.ports import Keys, LocalClock, Store
from peerinfer_node.roles.attesting import KIND as ATTESTATION
from peerinfer_node.roles.proving import ProvingRole
from peerinfer_node.roles.statements import StatementsRole
from peerinfer_node.saving import OwnMark, save_every, was_saved

SAVED_EVERY_S = 600.0
"""What a node that is killed has heard since then it hears again."""

ATTESTATIONS_KEPT_MAX = 256
"""Of 1.5 kB each. A minute's news of a thousand signers would be 200 MB of writes in a day."""


class KeptStatements:
    """What the file has lost or somebody has edited is as if it had never been heard."""

    def __init__(
        self,
        *,
        vouching: Vouching,
        proving: ProvingRole,
        statements: StatementsRole,
        store: Store,
        keys: Keys,
        clock: LocalClock,
        log: Log,
    ) -> None:
        self._vouching = vouching
        self._proving = proving
        self._statements = statements
        self._store = store
        self._clock = clock
        self._log = log
        self._mark = OwnMark(keys)
        self._saved: dict[bytes, StatementRow] = {}

    async def restore(self) -> None:
        refused = 0
        for row in await self._store.statements():
            self._saved[row.signed] = row
            try:
                if not self._mark.is_on(_marked(row.kind, row.signed, row.note), row.mac):
                    raise DecodeError("a row that this node did not write")
                if row.kind in (FAULT, LARGE_KIND):
                    self._proving.recall(row.kind, row.signed, row.note)
                self._statements.take_again(row.kind, row.signed)
            except DecodeError:
                refused += 1
        if refused:
            self._log.warning(
                "what others said is not believed: these rows were not written by this node", rows=refused
            )

    async def run(self) -> None:
        await save_every(SAVED_EVERY_S, self.save)

    async def save(self) -> None:
        rows = {row.signed: row for row in self._rows()}
        fresh = [row for signed, row in rows.items() if self._saved.get(signed) != row]
        gone = [signed for signed in self._saved if signed not in rows]
        if (fresh or gone) and await was_saved(
            "what others said", lambda: self._store.save_statements(fresh, gone), self._log
        ):
            self._saved = rows

    def _rows(self) -> Iterable[StatementRow]:
        said = self._vouching.words(self._clock.wall_s())[:ATTESTATIONS_KEPT_MAX]
        for kind, signed, note in [*((ATTESTATION, signed, "") for signed in said), *self._proving.kept()]:
            yield StatementRow(kind, signed, note, self._mark.of(_marked(kind, signed, note)))


def _marked(kind: str, signed: bytes, note: str) -> bytes:
    return b"\0".join((kind.encode(), note.encode(), signed))
