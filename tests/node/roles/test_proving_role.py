"""What a node does with a proof: it looks for itself, at what matters to it, and never twice at a slanderer's."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import trio.testing
from proof_setting import LIAR, ME, MODEL, NOW_S, RIGHT, TELLER, Lie, name_of
from role_world import NumpyExecutor

from peerinfer.accusations import AGAIN_AFTER_S, FAILURES_MAX, LOOK_SHARE, OPEN_MAX
from peerinfer.errors import DialFailed
from peerinfer.fault_proofs import KIND, LARGE_KIND, PROOF_LASTS_S
from peerinfer.ids import Cid, PeerId
from peerinfer.spreading import Spreading
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.roles.evidence import Evidence
from peerinfer_node.roles.proving import LOOK_EVERY_S, ProvingRole
from peerinfer_node.roles.statements import StatementsRole

OTHER = MemoryKeys(b"other")


class FixedClock:
    def __init__(self) -> None:
        self.wall = NOW_S

    def wall_s(self) -> float:
        return self.wall

    def now_s(self) -> float:
        return self.wall - NOW_S

    lease_s = elector_s = now_s


class Desk:
    """A node with the role, and blobs that others could give it."""

    def __init__(self, keys: MemoryKeys = ME, blobs: MemoryBlobStore | None = None) -> None:
        self.clock = FixedClock()
        self.blobs = blobs or MemoryBlobStore()
        self.executor = NumpyExecutor()
        self.executor.takes_s = 0.0
        self.there: dict[Cid, bytes] = {}
        self.fetched = 0
        self.on_fetch: Callable[[], None] = lambda: None
        self.objection = ""
        self.known = {LIAR.peer_id}
        self.trusted: dict[PeerId, float] = {}
        self.convicted: dict[PeerId, str] = {}
        self.statements = StatementsRole(
            machine=Spreading(random.Random(1)), clock=self.clock, log=Log(), send=lambda peer, message: None
        )
        self.role = ProvingRole(
            statements=self.statements,
            blobs=self.blobs,
            fetch_blob=self._fetch,
            executor=self.executor,
            keys=keys,
            clock=self.clock,
            log=Log(),
            may_run=lambda: self.objection,
            matters=lambda peer: peer in self.known,
            trust=lambda peer: self.trusted.get(peer, 0.0),
            caught=lambda peer: peer in self.convicted,
            convict=self.convicted.__setitem__,
        )

    async def _fetch(self, cid, providers, progress=None) -> None:
        self.fetched += 1
        self.on_fetch()
        if cid not in self.there:
            raise DialFailed("nobody has it")
        await self.blobs.put(self.there[cid])

    async def offer(self, lie: Lie, *, with_model: bool = True) -> None:
        held = MemoryBlobStore()
        self.there[await held.put(lie.packed())] = lie.packed()
        if with_model:
            self.there[await held.put(MODEL)] = MODEL

    async def look(self, after_s: float = LOOK_EVERY_S) -> None:
        self.clock.wall += after_s
        await self.role.look()

    def told(self, signed: bytes, kind: str = KIND) -> float:
        return self.role._take(signed, kind)


async def test_a_proof_that_holds_convicts_whoever_told_it() -> None:
    desk = Desk()
    await desk.offer(Lie())
    assert desk.told(Lie().proof()) == NOW_S + PROOF_LASTS_S
    await desk.look()
    assert list(desk.convicted) == [LIAR.peer_id]
    assert "computed again here" in desk.convicted[LIAR.peer_id]
    assert TELLER.peer_id[-8:] in desk.convicted[LIAR.peer_id]


async def test_slander_convicts_nobody_and_its_teller_is_not_heard_again() -> None:
    desk = Desk()
    await desk.offer(honest := Lie(RIGHT))
    assert desk.told(honest.proof())
    await desk.look()
    assert not desk.convicted
    await desk.offer(Lie())
    assert desk.told(Lie().proof()) == 0.0
    await desk.look()
    assert not desk.convicted
    assert desk.told(Lie().proof(keys=OTHER)), "the same from somebody else is looked at"
    await desk.look()
    assert desk.convicted


async def test_evidence_that_was_altered_discredits_its_bearer_alone() -> None:
    desk = Desk()
    lie = Lie()
    altered = lie.packed()[:-4] + b"\x00\x00\x80\x7f"
    signed = lie.proof(evidence=name_of(altered))
    desk.there[name_of(altered)] = altered
    desk.told(signed)
    await desk.look()
    assert not desk.convicted
    assert desk.told(lie.proof()) == 0.0


async def test_strangers_models_run_only_where_the_owner_lends_and_only_about_peers_that_matter() -> None:
    desk = Desk()
    await desk.offer(Lie())
    desk.told(Lie().proof())
    desk.objection = "it lends nothing now"
    await desk.look()
    desk.objection, desk.known = "", set()
    await desk.look()
    assert (desk.executor.runs, desk.fetched) == (0, 0)
    desk.known = {LIAR.peer_id}
    await desk.look()
    assert desk.convicted


async def test_evidence_that_cannot_be_had_is_asked_for_some_times_and_given_up() -> None:
    desk = Desk()
    desk.told(Lie().proof())
    for number in range(FAILURES_MAX + 1):
        for _ in range(2):
            await desk.look()
        await desk.look(AGAIN_AFTER_S * 4**number)
    assert desk.fetched == FAILURES_MAX
    assert not desk.convicted


async def test_the_word_of_the_trusted_is_looked_at_first() -> None:
    desk = Desk()
    desk.trusted[TELLER.peer_id] = 0.1
    await desk.offer(Lie())
    for number in range(20):
        desk.told(Lie(RIGHT).proof(keys=MemoryKeys(b"sybil %d" % number)))
    desk.told(Lie().proof())
    desk.told(Lie(RIGHT).proof(keys=OTHER))
    await desk.look()
    assert desk.convicted


async def test_a_flood_of_accusations_is_bounded_and_costs_one_look_at_a_time() -> None:
    desk = Desk()
    for number in range(OPEN_MAX + 50):
        worker = MemoryKeys(b"worker %d" % number)
        desk.known.add(worker.peer_id)
        desk.told(Lie(RIGHT).proof(Lie(RIGHT).receipt(worker), keys=OTHER))
    assert len(desk.role._accusations._open) == OPEN_MAX
    await desk.offer(Lie(RIGHT))
    await desk.look()
    assert desk.executor.runs == 3
    await desk.look()
    assert desk.executor.runs == 3, "what a slanderer said of others is not looked at"


async def test_accusations_against_this_node_itself_are_passed_on_and_nothing_else() -> None:
    desk = Desk(LIAR)
    await desk.offer(Lie())
    assert desk.told(Lie().proof())
    await desk.look()
    assert not desk.convicted


async def test_an_old_proof_is_worth_nothing_any_more() -> None:
    desk = Desk()
    desk.clock.wall += PROOF_LASTS_S + 1
    assert desk.told(Lie().proof()) == 0.0


@pytest.mark.parametrize("y", [RIGHT, RIGHT * np.float32(1.02)])
async def test_a_node_tells_only_what_would_convince_itself(y: np.ndarray) -> None:
    desk = Desk()
    await desk.blobs.put(MODEL)
    lie = Lie(y)
    model = next(iter(await desk.blobs.held()))
    await desk.role._make(Evidence(lie.receipt(), lie.task, lie.packed(), model, KIND))
    assert not desk.role._made


async def test_a_proof_of_ones_own_is_told_once_with_its_evidence_kept_and_said_again_each_day() -> None:
    desk = Desk()
    await desk.blobs.put(MODEL)
    model = next(iter(await desk.blobs.held()))
    for _ in range(2):
        await desk.role._make(Evidence(Lie().receipt(), Lie().task, Lie().packed(), model, KIND))
    (made,) = desk.role._made.values()
    assert await desk.blobs.has(Cid(made.said.proof.evidence))
    assert made.renewals == 0
    await desk.look(PROOF_LASTS_S)
    (made,) = desk.role._made.values()
    assert (made.said.proof.issued_at_s, made.renewals) == (desk.clock.wall, 1)


async def test_a_lie_about_inputs_that_came_as_a_blob_is_proven_too() -> None:
    desk, lie = Desk(), Lie.large()
    await desk.offer(lie)
    assert desk.told(lie.proof(), LARGE_KIND)
    await desk.look()
    assert list(desk.convicted) == [LIAR.peer_id]
    honest = Desk()
    await honest.offer(right := Lie.large(is_right=True))
    honest.told(right.proof(), LARGE_KIND)
    await honest.look()
    assert not honest.convicted


async def test_what_strangers_say_takes_a_twentieth_of_the_time_and_the_trusted_do_not_wait_for_it() -> None:
    desk, fetch_s = Desk(), 30.0
    for number in range(40):
        stranger, worker = MemoryKeys(b"sybil %d" % number), MemoryKeys(b"worker %d" % number)
        desk.known.add(worker.peer_id)
        desk.told(Lie(RIGHT).proof(Lie(RIGHT).receipt(worker), keys=stranger))
    await desk.offer(Lie(RIGHT))
    desk.on_fetch = lambda: setattr(desk.clock, "wall", desk.clock.wall + fetch_s)
    began_s = desk.clock.wall
    while desk.clock.wall < began_s + 6 * 3600:
        await desk.look()
    assert 0.8 * LOOK_SHARE < desk.fetched * fetch_s / (desk.clock.wall - began_s) < 1.1 * LOOK_SHARE
    desk.trusted[TELLER.peer_id] = 0.1
    await desk.offer(Lie())
    desk.told(Lie().proof())
    await desk.look()
    assert desk.convicted


async def test_a_proof_of_ones_own_is_told_after_a_restart_as_long_as_there_is_what_shows_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    await desk.blobs.put(MODEL)
    model = next(iter(await desk.blobs.held()))
    await desk.role._make(Evidence(Lie().receipt(), Lie().task, Lie().packed(), model, KIND))
    (row,) = desk.role.kept()
    for blobs, made in ((desk.blobs, 1), (MemoryBlobStore(), 0)):
        again = Desk(blobs=blobs)
        again.role.recall(*row)
        with trio.move_on_after(1):
            await again.role.run()
        assert len(again.role._made) == made


async def test_slanderers_are_remembered_over_a_restart_and_what_is_open_is_looked_at() -> None:
    desk = Desk()
    await desk.offer(Lie(RIGHT))
    desk.told(Lie(RIGHT).proof())
    await desk.look()
    again = Desk()
    for row in desk.role.kept():
        again.role.recall(*row)
    assert again.told(Lie().proof()) == 0.0
