"""Searches: what is asked for is found beyond the own table, by few messages, and nobody can make a node talk for ever."""

import random

import pytest

from peerinfer.classes import class_for, words_of
from peerinfer.ids import peer_id_of
from peerinfer.limits import FOUND_PER_MESSAGE_MAX, GIB
from peerinfer.machine import Tick
from peerinfer.membership_events import Member, Send
from peerinfer.messages import Advert, DeviceAdvert
from peerinfer.searching import (
    ANSWERED_BYTES_BURST,
    ANSWERED_BYTES_PER_S,
    ASKED,
    ASKS_BURST,
    OPEN_MAX,
    OPEN_S,
    PASSED_ON_MAX,
    PASSED_ON_TO,
    Answered,
    Asked,
    Begun,
    Gone,
    Learnt,
    Met,
    Searching,
)
from peerinfer.spread_messages import Found, Search
from peerinfer_sim.membership.searches import searches

ADA, BOB, *CROWD = (peer_id_of(number.to_bytes(32, "big")) for number in range(400))
CARD = DeviceAdvert("card", "gpu", "WebGpuExecutionProvider", 8 * GIB - GIB // 4, 1.0, 1.0)
PROCESSOR = DeviceAdvert("processor", "cpu", "CPUExecutionProvider", 3 * GIB, 1.0, 1.0)


def member(peer, *devices, state="alive", lends="running", models=()):
    advert = Advert(1, 1, 0.0, "", "", (), lends, (), devices, models, "full")
    return Member(peer, state, (), advert, f"advert of {peer}".encode())


class Driven:
    def __init__(self, *members, neighbours=(ADA, BOB)):
        self.members = list(members)
        self.machine = Searching(random.Random(1), lambda: self.members, lambda: None)
        self.now_s = 10.0
        self.post(*(Met(peer) for peer in neighbours))

    def post(self, *events):
        effects = []
        for event in events:
            effects += self.machine.handle(event, self.now_s)
            self.machine.check()
        return effects


def test_a_node_has_all_classes_up_to_its_own_and_only_while_it_lends() -> None:
    words = words_of(member(ADA, CARD, PROCESSOR, models=("bafk1",)).advert)
    assert words == {
        "gpu", "gpu-1GiB", "gpu-2GiB", "gpu-4GiB", "gpu-8GiB", "vulkan-1GiB", "vulkan-2GiB", "vulkan-4GiB",
        "vulkan-8GiB", "cpu", "cpu-1GiB", "cpu-2GiB", "model:bafk1",
    }  # fmt: skip
    assert not words_of(member(ADA, CARD, lends="paused").advert)


@pytest.mark.parametrize(
    ("kind", "size", "words"),
    [("gpu", 0, ("gpu",)), ("gpu", 6 * GIB, ("gpu-4GiB",)), ("gpu", 8 * GIB, ("gpu-8GiB",)), (None, 8 * GIB, ())],
)
def test_the_class_to_search_for_is_true_of_everybody_who_will_do(kind, size, words) -> None:
    assert class_for(kind, size) == words


def test_a_search_asks_the_neighbours_and_takes_their_answers_once() -> None:
    node = Driven(neighbours=CROWD[:40])
    sent = node.post(Begun(("gpu",)))
    assert len(sent) == ASKED
    nonce = sent[0].message.nonce
    assert node.post(Answered(ADA, Found(nonce, (b"1", b"2", b"1")))) == [Learnt(ADA, (b"1", b"2"))]
    assert node.post(Answered(BOB, Found(nonce, (b"2",)))) == []
    assert node.post(Answered(BOB, Found(nonce + 1, (b"3",)))) == []  # nobody asked
    node.now_s += OPEN_S
    node.post(Tick())
    assert node.post(Answered(BOB, Found(nonce, (b"4",)))) == []


def test_whoever_is_asked_looks_in_its_table_and_passes_the_question_on_once() -> None:
    node = Driven(
        member(CROWD[0], CARD), member(CROWD[1], PROCESSOR), member(CROWD[2], CARD, state="dead"), member(ADA, CARD),
        neighbours=[ADA, BOB, *CROWD[10:30]],
    )  # fmt: skip
    answer, *others = node.post(Asked(ADA, Search(7, ("vulkan-4GiB", "gpu"))))
    assert answer == Send(ADA, Found(7, (f"advert of {CROWD[0]}".encode(),)))
    assert len(others) == PASSED_ON_TO
    assert all(send.message.passed_on and send.peer != ADA for send in others)
    # What they say goes back under the asker's own number, without what it was told already.
    found = Found(others[0].message.nonce, (f"advert of {CROWD[0]}".encode(), b"another"))
    assert node.post(Answered(others[0].peer, found)) == [Send(ADA, Found(7, (b"another",)))]
    # A question that was passed on goes no further.
    (only,) = node.post(Asked(BOB, Search(8, ("gpu-8GiB",), passed_on=True)))
    assert only.peer == BOB


def test_an_answer_is_bounded_and_so_is_the_number_of_open_questions() -> None:
    node = Driven(*(member(peer, CARD) for peer in CROWD[:100]))
    (answer, *_) = node.post(Asked(ADA, Search(1, ("gpu",))))
    assert len(answer.message.adverts) == FOUND_PER_MESSAGE_MAX
    for _ in range(OPEN_MAX + 5):
        node.post(Begun(("gpu",)))
    crowd = Driven(neighbours=CROWD)
    for number, peer in enumerate(CROWD):
        crowd.post(Asked(peer, Search(number, ("gpu",))))
    assert len(crowd.machine.snapshot()) <= PASSED_ON_MAX


def test_a_neighbour_that_asks_without_end_is_answered_within_its_share() -> None:
    node = Driven(member(CROWD[0], CARD))
    answered = sum(bool(node.post(Asked(ADA, Search(number, ("gpu",))))) for number in range(1000))
    assert answered == ASKS_BURST
    assert node.post(Asked(BOB, Search(1, ("gpu",))))  # the others do not suffer
    assert not node.post(Asked(CROWD[5], Search(1, ("gpu",))))  # a stranger
    node.post(Gone(BOB))
    assert not node.post(Asked(BOB, Search(2, ("gpu",))))


def test_all_answers_together_keep_to_a_budget() -> None:
    big = [member(peer, CARD) for peer in CROWD[:8]]
    for each in big:
        object.__setattr__(each, "signed", each.signed * 100)
    node = Driven(*big, neighbours=CROWD)
    said = 0
    for second in range(100):
        node.now_s = 10.0 + second
        for peer in CROWD[:40]:
            for effect in node.post(Asked(peer, Search(second, ("gpu",), passed_on=True))):
                said += sum(map(len, effect.message.adverts))
    assert said <= ANSWERED_BYTES_BURST + 100 * ANSWERED_BYTES_PER_S


def test_an_empty_question_is_no_way_to_be_told_everything() -> None:
    assert Driven(member(CROWD[0], CARD)).post(Asked(ADA, Search(1, ()))) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_of_ten_thousand_are_found_at_once(seed) -> None:
    (first,) = searches(seed, 10_000, 3, times=1)
    assert first.found == 1.0
    assert first.messages < 150


def test_some_of_thirty_among_a_hundred_thousand_are_found_at_once_and_more_later() -> None:
    first, _, third = searches(1, 100_000, 30)
    assert first.found > 0.1
    assert third.found > first.found
    assert first.messages < 250
