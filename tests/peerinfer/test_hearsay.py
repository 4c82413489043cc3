"""What one neighbour says of others, without end, against what a node keeps for the news of deaths."""

import pytest
from driven_membership import ADA, BOB, CID, CROWD, DAN, EVE, Driven

from peerinfer.doubts import ASK_OTHERS_EVERY_S
from peerinfer.ids import public_key_of
from peerinfer.member_messages import News
from peerinfer.membership_events import (
    DialFailed,
    Disconnected,
    Heard,
    Send,
)
from peerinfer.news import (
    HEARSAY_SHARE,
    KNOWN_BYTES,
    NEWS_BYTES_BURST,
    NEWS_BYTES_PER_S,
    NEWS_BYTES_URGENT,
    known,
    tellings_max,
)


@pytest.fixture
def node():
    return Driven()


def told_wrongly_without_end(node, teller):
    """A neighbour says of many that live what is out of date, until nobody answers it any more."""
    others = CROWD[30:46]
    for peer in others:
        node.advert(peer, 2)
    node.pass_time(10, answering=list(node.machine._table.neighbours))
    wrong = tuple(known(peer, 1, 1, "suspect") for peer in others)
    for news in 300 * [wrong] + 10 * [wrong[:1]]:
        node.post(Heard(teller, News(news)))
    assert len(node.take(News, to=teller)) > 200


def test_a_neighbour_that_is_wrong_without_end_does_not_keep_a_node_from_telling_of_deaths(node):
    gone = CROWD[:16]
    node.meet(ADA, BOB, *gone)
    told_wrongly_without_end(node, ADA)
    for peer in gone:
        node.post(Disconnected(peer), DialFailed(peer))
    node.pass_time(1, answering=[ADA, BOB])
    told = [each for message in node.take(News, to=BOB) for each in message.news]
    assert {each.key for each in told if each.state == "dead"} == {public_key_of(peer) for peer in gone}


def suspects_everybody(node, teller, others, seconds, state="suspect"):
    """Every five seconds a neighbour says of all others, as they are known, that they are suspected, each by another."""
    for _ in range(round(seconds / 5)):
        for start in range(0, len(others), 16):
            part = others[start : start + 16]
            node.post(Heard(teller, News(tuple(known(peer, 1, 1, state, peer) for peer in part))))
        node.pass_time(5, answering=list(node.machine._table.neighbours))


def pieces_told(node, to=None):
    return [each for message in node.take(News, to=to) for each in message.news]


@pytest.mark.parametrize("state", ["suspect", "dead"])
def test_a_neighbour_that_suspects_everybody_does_not_delay_what_was_seen_here(node, state):
    gone, others = CROWD[:16], CROWD[20:420]
    node.meet(ADA, BOB, *gone)
    for peer in others:
        node.advert(peer)
    suspects_everybody(node, ADA, others, 120, state)
    for peer in gone:
        node.post(Disconnected(peer), DialFailed(peer))
    node.take(Send)
    node.pass_time(1, answering=[ADA, BOB])
    told = pieces_told(node, to=BOB)
    assert {each.key for each in told if each.state == "dead"} >= {public_key_of(peer) for peer in gone}


def test_a_neighbour_that_suspects_everybody_does_not_delay_deaths_that_others_tell_of(node):
    gone, others = CROWD[:16], CROWD[20:420]
    node.meet(ADA, BOB, CID, DAN)
    for peer in [*gone, *others]:
        node.advert(peer)
    suspects_everybody(node, ADA, others, 120)
    node.take(Send)
    for teller in (BOB, CID):
        node.post(Heard(teller, News(tuple(known(peer, 1, 1, "dead", peer) for peer in gone))))
    node.pass_time(1, answering=[ADA, BOB, CID, DAN])
    dead = {each.key for each in pieces_told(node, to=DAN) if each.state == "dead"}
    assert dead == {public_key_of(peer) for peer in gone}


@pytest.mark.parametrize("state", ["suspect", "dead"])
def test_of_the_hearsay_of_one_neighbour_a_share_is_believed_and_passed_on(node, state):
    others = CROWD[20:420]
    node.meet(ADA, BOB)
    for peer in others:
        node.advert(peer)
    node.pass_time(60, answering=[ADA, BOB])  # That they are there has been told.
    node.take(Send)
    node.post(Heard(ADA, News(tuple(known(peer, 1, 1, state, peer) for peer in others))))
    of_share = HEARSAY_SHARE * NEWS_BYTES_BURST / (KNOWN_BYTES * tellings_max(len(others)))
    believed = round(of_share / (1 if state == "dead" else 2))
    assert sum(node.state(peer) == "suspect" for peer in others) == pytest.approx(believed, abs=1)
    suspects_everybody(node, ADA, others, 600, state)
    told = [each for each in pieces_told(node) if each.state in ("suspect", "dead")]
    at_most = HEARSAY_SHARE * (NEWS_BYTES_BURST + 600 * NEWS_BYTES_PER_S)
    assert 0.5 * at_most < KNOWN_BYTES * len(told) < 2 * at_most, "each twice: that it is suspected, that it is dead"
    node.meet(CID)
    node.post(Heard(CID, News((known(CROWD[0], 1, 1, "suspect"), known(others[-1], 1, 1, "suspect")))))
    assert node.state(others[-1]) == "suspect", "another one has a share of its own"


def test_questions_about_rumours_leave_what_is_kept_for_deaths(node):
    node.meet(ADA, BOB)
    told_wrongly_without_end(node, ADA)
    node.post(Heard(ADA, News(tuple(known(peer, 1, 2, "suspect", EVE) for peer in CROWD[30:46]))))
    node.pass_time(4 * ASK_OTHERS_EVERY_S, answering=[ADA, BOB])
    assert sum(node.state(peer) == "suspect" for peer in CROWD[30:46]) == 16
    assert node.machine._exchange._telling.take(0, node.now_s, keep=NEWS_BYTES_URGENT)
