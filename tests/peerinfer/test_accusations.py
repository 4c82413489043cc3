"""Which proof is looked at next, and what a flood of them may cost."""

from __future__ import annotations

from itertools import pairwise

from proof_setting import LIAR, ME, NOW_S, TELLER, Lie

from peerinfer.accusations import (
    FAILURES_MAX,
    LOOK_BYTES_PER_S,
    LOOK_SHARE,
    LOOKED_AT,
    OPEN_MAX,
    SETTLED_MAX,
    SLANDERERS_MAX,
    Accusations,
)
from peerinfer.fault_proofs import PROOF_LASTS_S, Accusation, check_proof
from peerinfer.ids import PeerId
from peerinfer_node.keys import MemoryKeys

OTHER = MemoryKeys(b"other")


class Table:
    def __init__(self) -> None:
        self.trusted: dict[PeerId, float] = {}
        self.machine = Accusations(
            ME.peer_id,
            matters=lambda peer: True,
            trust=lambda peer: self.trusted.get(peer, 0.0),
            caught=lambda peer: False,
        )

    def next(self, after_s: float = 0.0) -> PeerId | None:
        found = self.machine.next(after_s, NOW_S + after_s)
        self.machine.check()
        return found and found.issuer


def accusation(teller: MemoryKeys = TELLER, accused: MemoryKeys = LIAR) -> Accusation:
    return check_proof(Lie().proof(Lie().receipt(accused), keys=teller), NOW_S)


def test_who_is_trusted_more_takes_the_place_of_who_is_trusted_less() -> None:
    table = Table()
    table.trusted[OTHER.peer_id] = 0.1
    for teller in (TELLER, OTHER, TELLER):
        assert table.machine.take(accusation(teller), NOW_S) == NOW_S + PROOF_LASTS_S
    assert table.next() == OTHER.peer_id


def test_one_whose_evidence_cannot_be_had_does_not_stand_in_the_way_of_another() -> None:
    """Else a friend of the liar would say first what nobody can check."""
    table = Table()
    table.machine.take(accusation(), NOW_S)
    table.machine.take(accusation(OTHER), NOW_S)
    assert table.next() == TELLER.peer_id
    table.machine.missing(accusation(), 0.0)
    assert table.next() is None
    table.machine.take(accusation(), NOW_S)
    assert table.next() is None, "the same is not new"
    table.machine.take(accusation(OTHER), NOW_S)
    assert table.next() == OTHER.peer_id


def test_evidence_is_asked_for_less_and_less_often_and_not_for_ever() -> None:
    table, now_s, asked = Table(), 0.0, []
    table.machine.take(accusation(), NOW_S)
    while now_s < PROOF_LASTS_S:
        if table.next(now_s):
            asked.append(now_s)
            table.machine.missing(accusation(), now_s)
        now_s += 20.0
    assert len(asked) == FAILURES_MAX
    assert all(later > 3 * sooner for sooner, later in pairwise(asked[1:]))


def test_strangers_wait_after_a_look_for_as_long_as_it_cost_and_the_trusted_do_not() -> None:
    table = Table()
    table.machine.take(accusation(), NOW_S)
    table.machine.spent(30.0, 0, 0.0)
    assert table.next(30.0 / LOOK_SHARE - 1) is None
    assert table.next(30.0 / LOOK_SHARE) == TELLER.peer_id
    table.machine.spent(0.0, 256 << 20, 0.0)
    assert table.next((256 << 20) / LOOK_BYTES_PER_S - 1) is None
    table.trusted[TELLER.peer_id] = 0.001
    assert table.next() == TELLER.peer_id


def test_a_flood_washes_no_word_of_the_trusted_away() -> None:
    table = Table()
    table.trusted[TELLER.peer_id] = 0.1
    table.machine.take(accusation(), NOW_S)
    for number in range(OPEN_MAX + 20):
        table.machine.take(accusation(OTHER, MemoryKeys(b"worker %d" % number)), NOW_S)
    assert table.next() == TELLER.peer_id
    assert len(table.machine.kept(NOW_S)) == OPEN_MAX


def test_what_is_remembered_of_looks_is_bounded_and_ends_with_the_proof() -> None:
    table, one = Table(), accusation()
    for number in range(SETTLED_MAX + 10):
        issuer = PeerId(f"peer {number}")
        each = Accusation(issuer, one.accused, one.proof, one.receipt, b"%d" % number)
        table.machine.settle(each, is_slander=number < SLANDERERS_MAX + 10)
    table.machine.check()
    notes = [note for _, note in table.machine.kept(NOW_S)]
    assert len(notes) <= SETTLED_MAX + SLANDERERS_MAX
    assert notes.count(LOOKED_AT) > 0
    assert len(table.machine.kept(NOW_S + PROOF_LASTS_S)) == SLANDERERS_MAX
