"""Statements on their way: everybody has them in the end, once, within bounds, and nothing that nobody asked for."""

import random

import pytest

from peerinfer import spreading
from peerinfer.ids import peer_id_of
from peerinfer.limits import STATEMENT_BYTES_MAX, STATEMENTS_PER_MESSAGE_MAX
from peerinfer.machine import Tick
from peerinfer.membership_events import Send
from peerinfer.spread_messages import Statement, Statements, StatementsHeld, StatementsWanted
from peerinfer.spreading import Gone, Met, Spreading, Taken, Told, digest_of

ADA, BOB, CID, *CROWD = (peer_id_of(number.to_bytes(32, "big")) for number in range(60))


def statement(number, size=200):
    return Statement("proof", number.to_bytes(size, "big"))


def digest(of):
    return digest_of(of.kind, of.signed)


def taken(number, *, signer=ADA, keep_s=3600.0, by=None, size=200, of_signer_max=10_000):
    return Taken(statement(number, size), signer, keep_s, of_signer_max, by)


class Driven:
    def __init__(self):
        self.machine = Spreading(random.Random(1))
        self.now_s = 10.0

    def post(self, *events):
        effects = []
        for event in events:
            effects += self.machine.handle(event, self.now_s)
            self.machine.check()
        return effects

    def wait(self, seconds):
        end_s, effects = self.now_s + seconds, []
        while self.machine.deadline_s <= end_s:
            self.now_s = max(self.machine.deadline_s, self.now_s)
            effects += self.post(Tick())
        self.now_s = end_s
        return effects

    def held(self):
        return {int.from_bytes(each.signed, "big") for each in self.machine.snapshot()}


def test_a_statement_is_told_to_all_neighbours_but_the_one_it_came_from() -> None:
    node = Driven()
    node.post(Met(ADA), Met(BOB), Met(CID))
    assert node.post(taken(1, by=BOB)) == []
    assert node.wait(1) == [Send(peer, StatementsHeld((digest(statement(1)),))) for peer in (ADA, CID)]


def test_what_is_new_is_asked_for_once_and_given_on_request() -> None:
    node = Driven()
    node.post(Met(ADA), Met(BOB))
    name = digest(statement(1))
    assert node.post(Told(ADA, StatementsHeld((name, name)))) == [Send(ADA, StatementsWanted((name,)))]
    assert node.machine.expects(name)
    assert node.post(Told(BOB, StatementsHeld((name,)))) == []
    node.post(taken(1, by=ADA))
    assert not node.machine.expects(name)
    assert node.post(Told(CID, StatementsWanted((name, b"?" * 16)))) == [Send(CID, Statements((statement(1),)))]


def test_who_does_not_deliver_is_given_up_for_somebody_else_who_has_it() -> None:
    node = Driven()
    node.post(Met(ADA), Met(BOB))
    name = digest(statement(1))
    node.post(Told(ADA, StatementsHeld((name,))), Told(BOB, StatementsHeld((name,))))
    assert node.wait(spreading.WANTED_AGAIN_S) == [Send(BOB, StatementsWanted((name,)))]
    node.wait(10)
    assert not node.machine.expects(name)  # and may be asked for again when somebody tells it
    assert node.post(Told(ADA, StatementsHeld((name,)))) == [Send(ADA, StatementsWanted((name,)))]


def test_what_was_refused_is_neither_passed_on_nor_asked_for_again_for_a_while() -> None:
    node = Driven()
    node.post(Met(ADA), taken(1, keep_s=0.0, by=ADA))
    assert not node.held()
    assert node.post(Told(ADA, StatementsHeld((digest(statement(1)),)))) == []
    node.wait(spreading.REFUSED_FOR_S + 1)
    assert node.post(Told(ADA, StatementsHeld((digest(statement(1)),)))) != []


def test_a_statement_ends_when_it_says_and_is_not_taken_back_from_a_slower_clock() -> None:
    node = Driven()
    node.post(Met(ADA), taken(1, keep_s=60.0))
    node.wait(61)
    assert not node.held()
    assert node.post(Told(ADA, StatementsHeld((digest(statement(1)),)))) == []


def test_a_newcomer_is_told_what_is_held() -> None:
    node = Driven()
    node.post(taken(1), taken(2))
    (told,) = node.post(Met(ADA))
    assert set(told.message.digests) == {digest(statement(1)), digest(statement(2))}


def test_a_signers_newest_statement_replaces_its_own() -> None:
    node = Driven()
    node.post(taken(1, of_signer_max=2), taken(2, of_signer_max=2), taken(3, of_signer_max=2), taken(4, signer=BOB))
    assert node.held() == {2, 3, 4}


def test_a_flood_of_statements_stays_within_the_bounds() -> None:
    node = Driven()
    for number in range(3000):
        node.post(taken(number))
    assert len(node.held()) == spreading.HELD_PER_KIND_MAX
    assert 2999 in node.held()
    for number in range(10_000, 10_700):
        node.post(taken(number, size=STATEMENT_BYTES_MAX))
    assert sum(len(each.signed) for each in node.machine.snapshot()) <= spreading.HELD_BYTES_MAX
    node.post(taken(99, size=STATEMENT_BYTES_MAX + 1))
    assert 99 not in node.held()
    for number in range(20_000, 20_000 + spreading.SEEN_MAX + 10):
        node.post(taken(number, keep_s=0.0))


def test_a_neighbour_that_names_without_end_is_asked_within_its_budget() -> None:
    node = Driven()
    node.post(Met(ADA), Met(BOB))
    asked = 0
    for start in range(0, 100_000, 250):
        names = tuple(number.to_bytes(16, "big") for number in range(start, start + 250))
        asked += sum(len(send.message.digests) for send in node.post(Told(ADA, StatementsHeld(names))))
    assert asked == spreading.WANTED_PER_PEER_MAX
    # Another is asked all the same.
    assert node.post(Told(BOB, StatementsHeld((b"x" * 16,)))) == [Send(BOB, StatementsWanted((b"x" * 16,)))]
    # In an hour of it, one who never delivers is asked for no more than its share.
    for _ in range(3600):
        node.wait(1)
        names = tuple(node.machine._rng.randbytes(16) for _ in range(250))
        asked += sum(len(send.message.digests) for send in node.post(Told(ADA, StatementsHeld(names))))
    share = spreading.ASKED_OF_ONE_BYTES_BURST + 3600 * spreading.ASKED_OF_ONE_BYTES_PER_S
    assert asked <= share / spreading.STATEMENT_BYTES_USUAL + 1


def test_a_stranger_is_not_asked_and_large_answers_are_cut_into_messages() -> None:
    node = Driven()
    assert node.post(Told(ADA, StatementsHeld((b"x" * 16,)))) == []
    node.post(*(taken(number) for number in range(40)))
    names = tuple(digest(statement(number)) for number in range(40))
    sent = node.post(Told(ADA, StatementsWanted(names)))
    assert [len(send.message.statements) for send in sent] == [
        STATEMENTS_PER_MESSAGE_MAX,
        STATEMENTS_PER_MESSAGE_MAX,
        8,
    ]


def swarm(size, degree, seed):
    rng = random.Random(seed)
    nodes = {peer_id_of(number.to_bytes(32, "big")): Spreading(random.Random(number)) for number in range(size)}
    peers = list(nodes)
    links = {peer: set() for peer in peers}
    for peer in peers:
        for other in rng.sample([each for each in peers if each != peer], degree // 2):
            links[peer].add(other)
            links[other].add(peer)
    return nodes, links, rng


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_everybody_has_it_in_the_end_and_everybody_once(loss) -> None:
    nodes, links, rng = swarm(200, 16, 5)
    now_s, fetched, sent_bytes = 0.0, 0, 0
    queue = []
    for peer, others in links.items():
        for other in sorted(others):
            nodes[peer].handle(Met(other), now_s)
    nodes[next(iter(nodes))].handle(taken(1), now_s)
    for _ in range(4000):
        now_s += 0.05
        for peer, node in nodes.items():
            if node.deadline_s <= now_s:
                queue += [(peer, send) for send in node.handle(Tick(), now_s)]
        arriving, queue = queue, []
        for by, send in arriving:
            sent_bytes += 90 + 16
            if rng.random() < loss:
                continue
            node = nodes[send.peer]
            if not isinstance(send.message, Statements):
                queue += [(send.peer, effect) for effect in node.handle(Told(by, send.message), now_s)]
                continue
            (each,) = send.message.statements
            if node.expects(digest(each)):
                fetched += 1
                queue += [(send.peer, effect) for effect in node.handle(Taken(each, ADA, 9e4, 1, by), now_s)]
        if all(node.snapshot() for node in nodes.values()) and not loss:
            break
    assert all(node.snapshot() for node in nodes.values())
    assert fetched == 199
    if not loss:
        assert now_s < 3.0, f"it took {now_s:.2f} s"
        assert sent_bytes / 200 < 4000, f"{sent_bytes / 200:.0f} bytes for each node"


def test_a_peer_that_went_is_not_asked() -> None:
    node = Driven()
    node.post(Met(ADA), Met(BOB))
    name = digest(statement(1))
    node.post(Told(ADA, StatementsHeld((name,))), Told(BOB, StatementsHeld((name,))), Gone(BOB))
    assert node.wait(10) == []
