"""What a node says of the peers that worked for it, and takes from its neighbours."""

from __future__ import annotations

import random

import pytest
import trio

from peerinfer.envelope import seal, unseal
from peerinfer.errors import DecodeError
from peerinfer.evidence_messages import Attestation, Attested
from peerinfer.ids import public_key_of
from peerinfer.reputation import Reputation
from peerinfer.spread_messages import Statements, StatementsHeld
from peerinfer.spreading import Spreading, digest_of
from peerinfer.vouching import Vouching
from peerinfer_node.clock import SystemClock
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.roles.attesting import CHANGED_EVERY_S, KIND, AttestingRole
from peerinfer_node.roles.statements import StatementsRole

ME, ANN, BOB = MemoryKeys(b"me"), MemoryKeys(b"ann"), MemoryKeys(b"bob")


class Desk:
    def __init__(self, keys: MemoryKeys) -> None:
        self.clock = SystemClock()
        self.reputation = Reputation()
        self.vouching = Vouching(self.reputation, keys.peer_id)
        self.sent: list[object] = []
        self.statements = StatementsRole(
            machine=Spreading(random.Random(1)),
            clock=self.clock,
            log=Log(),
            send=lambda peer, message: self.sent.append(message),
        )
        self.role = AttestingRole(
            vouching=self.vouching, statements=self.statements, keys=keys, clock=self.clock, log=Log()
        )


async def test_what_one_node_says_another_takes_and_passes_on(autojump_clock: trio.testing.MockClock) -> None:
    ann, me = Desk(ANN), Desk(ME)
    async with trio.open_nursery() as nursery:
        for desk in (ann, me):
            nursery.start_soon(desk.statements.run)
        ann.reputation.worked(ME.peer_id, ann.clock.wall_s(), 5e9)
        assert ann.role.say()
        await trio.sleep(1)
        (held,) = ann.statements.machine.snapshot()
        me.statements.met(ANN.peer_id)
        await trio.sleep(1)
        await me.statements.hear(ANN.peer_id, StatementsHeld((digest_of(KIND, held.signed),)))
        await trio.sleep(1)
        await me.statements.hear(ANN.peer_id, Statements((held,)))
        await trio.sleep(1)
        assert me.vouching.confirmations(me.clock.wall_s()) == [(ANN.peer_id, 5e9, held.signed)]
        assert me.statements.machine.snapshot() == (held,)
        nursery.cancel_scope.cancel()


async def test_nothing_is_said_where_nothing_is_known_or_new(autojump_clock: trio.testing.MockClock) -> None:
    ann = Desk(ANN)
    assert not ann.role.say()
    ann.reputation.worked(BOB.peer_id, ann.clock.wall_s(), 5e9)
    assert ann.role.say()
    assert not ann.role.say()
    ann.reputation.worked(BOB.peer_id, ann.clock.wall_s(), 5e9)
    assert not ann.role.say(), f"it is said again after {CHANGED_EVERY_S} s"


@pytest.mark.parametrize("damage", ["a bit turned", "another's name", "another kind of statement", "no statement"])
def test_what_is_forged_is_refused(damage: str) -> None:
    me = Desk(ME)
    now_s = me.clock.wall_s()
    said = Attestation(now_s, now_s + 60, (Attested(public_key_of(BOB.peer_id), 5e9, 3),))
    signed = {
        "a bit turned": (good := seal(said, ANN.peer_id, ANN.sign))[:-1] + bytes([good[-1] ^ 1]),
        "another's name": seal(said, BOB.peer_id, ANN.sign),
        "another kind of statement": seal(Statements(()), ANN.peer_id, ANN.sign),
        "no statement": b"\x00",
    }[damage]
    with pytest.raises(DecodeError):
        me.role._take(signed)
    assert unseal(Attestation, good)[0] == ANN.peer_id
    assert not me.vouching.opinion(BOB.peer_id, now_s).vouchers
