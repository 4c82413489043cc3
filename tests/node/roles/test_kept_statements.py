"""What others said of peers, across restarts, and against hands that edit it."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from proof_setting import LIAR, ME, TELLER, Lie

from peerinfer.accusations import SLANDER
from peerinfer.envelope import seal
from peerinfer.errors import StateUnusable
from peerinfer.evidence_messages import Attestation, Attested
from peerinfer.ids import public_key_of
from peerinfer.reputation import Reputation
from peerinfer.spreading import Spreading
from peerinfer.vouching import Vouching
from peerinfer_node.clock import SystemClock
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import Store
from peerinfer_node.roles.attesting import AttestingRole
from peerinfer_node.roles.kept_statements import ATTESTATIONS_KEPT_MAX, KeptStatements
from peerinfer_node.roles.proving import ProvingRole
from peerinfer_node.roles.statements import StatementsRole
from peerinfer_node.store import SqliteStore

NEWCOMER, STRANGER = MemoryKeys(b"newcomer"), MemoryKeys(b"stranger")
VETERANS = [MemoryKeys(b"veteran %d" % number) for number in range(5)]
CLOCK = SystemClock()
WALL_S = CLOCK.wall_s()


class Desk:
    """A node to which five veterans have proven themselves, and whose word counts therefore."""

    def __init__(self, store: Store, keys: MemoryKeys = ME) -> None:
        reputation = Reputation()
        for veteran in VETERANS:
            reputation.worked(veteran.peer_id, WALL_S, 1e9)
            for _ in range(120):
                reputation.passed(veteran.peer_id, WALL_S)
        self.vouching = Vouching(reputation, keys.peer_id)
        self.statements = StatementsRole(
            machine=Spreading(random.Random(1)), clock=CLOCK, log=Log(), send=lambda peer, message: None
        )
        AttestingRole(vouching=self.vouching, statements=self.statements, keys=keys, clock=CLOCK, log=Log())
        self.proving = ProvingRole(
            statements=self.statements,
            blobs=MemoryBlobStore(),
            fetch_blob=None,  # type: ignore[arg-type]
            executor=None,  # type: ignore[arg-type]
            keys=keys,
            clock=CLOCK,
            log=Log(),
            may_run=lambda: "it looks at nothing here",
            matters=lambda peer: True,
            trust=lambda peer: 0.0,
            caught=lambda peer: False,
            convict=lambda peer, detail: None,
        )
        self.role = KeptStatements(
            vouching=self.vouching,
            proving=self.proving,
            statements=self.statements,
            store=store,
            keys=keys,
            clock=CLOCK,
            log=Log(),
        )

    def hear(self, author: MemoryKeys, about: MemoryKeys = NEWCOMER) -> None:
        said = Attestation(WALL_S, WALL_S + 3600, (Attested(public_key_of(about.peer_id), 1e9, 15),))
        self.statements.take_again("attestation", seal(said, author.peer_id, author.sign))

    @property
    def spared(self) -> float:
        """Checks of the newcomer that the others' word is worth."""
        return self.vouching.opinion(NEWCOMER.peer_id, WALL_S).audits

    def accused(self) -> list[str]:
        return [each.accused for each, _ in self.proving._accusations.kept(WALL_S)]


def a_proof() -> bytes:
    return Lie().proof(issued_at_s=WALL_S, until_s=WALL_S + 3600)


async def test_whose_word_counts_and_what_they_said_survives_a_restart(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        desk = Desk(store)
        for veteran in VETERANS:
            desk.hear(veteran)
        desk.hear(STRANGER)
        desk.hear(STRANGER, about=ME)
        desk.statements.take_again("fault", a_proof())
        assert desk.spared > 1
        await desk.role.save()
    with SqliteStore.open(tmp_path / "state.db") as store:
        again = Desk(store)
        await again.role.restore()
        assert again.spared == pytest.approx(desk.spared)
        assert again.accused() == [LIAR.peer_id]


async def test_who_confirms_ones_own_work_is_kept_whatever_its_word_is_worth(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        desk = Desk(store)
        desk.hear(STRANGER, about=ME)
        await desk.role.save()
        again = Desk(store)
        await again.role.restore()
        assert [author for author, _, _ in again.vouching.confirmations(WALL_S)] == [STRANGER.peer_id]


async def test_the_word_of_strangers_takes_no_room_on_the_disk() -> None:
    store = MemoryStore()
    desk = Desk(store)
    for number in range(50):
        desk.hear(MemoryKeys(b"sybil %d" % number))
    await desk.role.save()
    assert await store.statements() == []
    assert ATTESTATIONS_KEPT_MAX * 1500 < 1 << 20


async def test_rows_that_were_edited_or_carried_over_are_as_if_never_heard(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        desk = Desk(store)
        for veteran in VETERANS:
            desk.hear(veteran)
        desk.statements.take_again("fault", a_proof())
        await desk.role.save()
        rows = await store.statements()
        assert len(rows) == len(VETERANS) + 1
        await store.save_statements([replace(row, note=SLANDER) for row in rows], [])
        again = Desk(store)
        await again.role.restore()
        assert (again.spared, again.accused()) == (0, [])
        again.statements.take_again("fault", a_proof())
        assert again.accused() == [LIAR.peer_id], "nobody was made a slanderer by hand"
        await store.save_statements(rows, [])
        other = Desk(store, TELLER)
        await other.role.restore()
        assert (other.spared, other.accused()) == (0, [])
        await other.role.save()
        assert await store.statements() == [], "they are swept out"


async def test_a_table_full_of_nonsense_is_borne(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db"):
        pass
    with sqlite3.connect(tmp_path / "state.db") as connection:
        for number, value in enumerate((7, "text", b"\xff" * 5000, 1.5, 10**15)):
            connection.execute("INSERT INTO statements VALUES (?, ?, ?, ?)", (value, "fault", number, 10**15))
            connection.execute("INSERT OR REPLACE INTO reputation VALUES (?, ?, ?, ?)", (number, "{}", 10**15, "x"))
    with SqliteStore.open(tmp_path / "state.db") as store:
        desk = Desk(store)
        await desk.role.restore()
        assert (desk.spared, desk.accused()) == (0, [])
        assert all(row.mac == b"" for row in await store.reputation()), "no number becomes so many zeros"


async def test_a_full_disk_is_no_reason_to_stop_and_the_next_save_tries_again() -> None:
    class FullStore(MemoryStore):
        is_full = True

        async def save_statements(self, rows, gone):  # type: ignore[no-untyped-def]
            if self.is_full:
                raise StateUnusable("the disk is full")
            await super().save_statements(rows, gone)

    store = FullStore()
    desk = Desk(store)
    desk.hear(VETERANS[0])
    await desk.role.save()
    store.is_full = False
    await desk.role.save()
    assert len(await store.statements()) == 1
    written = await store.statements()
    await desk.role.save()
    assert await store.statements() == written
