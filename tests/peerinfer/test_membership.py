"""The machine by itself: what it is told, what it asks for. How many of them behave is in tests/simulations."""

import pytest
from driven_membership import ADA, BOB, CID, CROWD, DAN, EVE, OWN, Driven, advert_of
from hypothesis import given, settings
from hypothesis import strategies as st

from peerinfer.dialling import RECONNECT_EVERY_S, REDIALS_MAX
from peerinfer.doubts import ASK_OTHERS_EVERY_S, VERDICT_WAIT_S
from peerinfer.exchange import ADVERTS_BYTES, GREETING_PEERS, STRANGERS_BURST, STRANGERS_PER_S
from peerinfer.ids import peer_id_of, public_key_of
from peerinfer.limits import CLOCK_SKEW_MAX_S, MEMBERS_MAX, PAGE_PEERS_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.member_messages import Adverts, AdvertsWanted, Digest, Known, News, Probe, ProbeAnswer
from peerinfer.member_table import STALE_AFTER_S
from peerinfer.membership import FORGET_AFTER_S
from peerinfer.membership_events import (
    AddressSeen,
    AdvertSeen,
    Connected,
    Dial,
    DialFailed,
    Disconnected,
    Drop,
    Heard,
    OwnAdvert,
    Refute,
    RttMeasured,
    Send,
)
from peerinfer.news import (
    KNOWN_BYTES,
    NEWS_BYTES_BURST,
    NEWS_BYTES_URGENT,
    known,
)
from peerinfer.probing import HELPERS
from peerinfer.reading import PAGE_WITHIN_S, READ_AGAIN_S
from peerinfer.releasing import LEAVES_WITHIN_S, STAYS_S
from peerinfer.spread_messages import Page, PageWanted, Released
from peerinfer.suspicion import SUSPICION_MAX_S, SUSPICION_MIN_S


@pytest.fixture
def node():
    return Driven()


# --- coming and going ----------------------------------------------------------------------------------------------


def test_a_new_neighbour_gets_the_own_advert_and_what_is_known(node):
    node.meet(ADA)
    node.take(Send)
    node.post(Connected(BOB, "relay"))
    effects = list(node.effects)
    (adverts,) = node.take(Adverts, to=BOB)
    assert b"own 1" in adverts.adverts
    assert f"{ADA} 1 1".encode() in adverts.adverts, "a newcomer does not depend on the one that it came in by"
    (digest,) = [
        effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Digest)
    ]
    assert digest.known == (known(ADA, 1, 1, "alive"),)
    assert (node.state(BOB), node.machine.member(BOB).path) == ("alive", "relay")


def test_an_address_nobody_has_answered_at_is_no_member(node):
    node.post(AddressSeen(ADA, ("/to/ada",)))
    assert node.take(Dial) == [Dial(ADA, ("/to/ada",))]
    assert node.machine.members() == []
    node.post(DialFailed(ADA))
    assert node.machine.members() == []


def test_failed_dials_are_repeated_ever_more_seldom(node):
    node.meet(BOB)
    node.post(AddressSeen(ADA, ("/to/ada",)))
    gaps, last_s = [], node.now_s
    for _ in range(REDIALS_MAX - 1):
        node.take(Send)
        node.post(DialFailed(ADA))
        while not any(isinstance(effect, Dial) for effect in node.effects):
            node.pass_time(0.1, answering=[BOB])
        gaps.append(node.now_s - last_s)
        last_s = node.now_s
    assert gaps[0] < 1.2
    assert gaps[-1] > 15
    node.take(Send)
    node.post(DialFailed(ADA))
    node.pass_time(120, answering=[BOB])
    assert node.take(Dial) == [], "there is somebody else, so it is left alone"


def test_a_node_alone_never_gives_up_dialling(node):
    node.post(AddressSeen(ADA, ("/to/ada",)))
    for _ in range(3 * REDIALS_MAX):
        assert node.take(Dial)
        node.post(DialFailed(ADA))
        node.pass_time(61)


def test_who_breaks_the_connection_is_dialled_and_dead_once_nobody_answers(node):
    node.meet(ADA)
    node.take(Dial)
    node.post(Disconnected(ADA))
    assert node.state(ADA) == "suspect"
    assert [dial.peer for dial in node.take(Dial)] == [ADA]
    node.post(DialFailed(ADA))
    assert node.state(ADA) == "dead"


def test_who_left_is_not_missed(node):
    node.meet(ADA)
    node.advert(ADA, 2, state="left")
    node.take(Dial)
    node.post(Disconnected(ADA))
    assert node.state(ADA) == "left"
    node.pass_time(FORGET_AFTER_S + 1)
    assert node.take(Dial) == []
    assert node.machine.members() == []


def test_a_restarted_peer_is_the_same_peer_again_at_once(node):
    node.meet(ADA)
    node.post(Disconnected(ADA), DialFailed(ADA))
    assert node.state(ADA) == "dead"
    node.advert(ADA, 1, incarnation=2)
    assert node.state(ADA) == "alive"
    assert len(node.machine.members()) == 1


def test_a_dead_peer_is_tried_again_as_long_as_it_is_remembered(node):
    node.meet(BOB, ADA)
    node.post(Disconnected(ADA), DialFailed(ADA))
    node.take(Dial)
    for _ in range(10):
        node.pass_time(2 * RECONNECT_EVERY_S, answering=[BOB])
        assert ADA in [dial.peer for dial in node.take(Dial)], "so two halves of a swarm find each other again"
        node.post(DialFailed(ADA))


def test_a_peer_of_which_nothing_new_is_heard_is_forgotten_unless_it_is_a_neighbour(node):
    node.meet(ADA)
    node.advert(BOB)
    node.pass_time(STALE_AFTER_S + 61, answering=[ADA])
    for _ in range(3):
        node.post(DialFailed(BOB))
        node.pass_time(61, answering=[ADA])
    assert [member.peer for member in node.machine.members()] == [ADA]


# --- adverts -------------------------------------------------------------------------------------------------------


def test_an_older_advert_never_comes_back(node):
    node.advert(ADA, 5, name="new")
    for sequence, incarnation in ((5, 1), (4, 1), (9, 0)):
        node.advert(ADA, sequence, incarnation=incarnation, name="old")
    assert node.machine.member(ADA).advert.name == "new"


def test_an_advert_from_the_future_and_one_as_large_as_a_book_are_ignored(node):
    node.advert(ADA, issued_at_s=node.now_s + CLOCK_SKEW_MAX_S + 1)
    node.post(AdvertSeen(ADA, advert_of(ADA), bytes(10_000), node.now_s))
    assert node.machine.members() == []


def test_what_is_new_to_a_node_is_asked_for_once_and_of_another_if_it_does_not_come(node):
    node.meet(ADA, BOB)
    node.take(Send)
    node.post(Heard(ADA, News((known(CID, 1, 3, "alive"), known(ADA, 1, 1, "alive")))))
    node.post(Heard(BOB, News((known(CID, 1, 3, "alive"),))))
    asked = node.take(AdvertsWanted)
    assert asked == [AdvertsWanted((known(CID, 1, 3, "alive").key,))]
    node.pass_time(3, answering=[ADA, BOB])
    assert node.take(AdvertsWanted) == asked
    node.advert(CID, 3)
    node.pass_time(10, answering=[ADA, BOB])
    assert node.take(AdvertsWanted) == []


def test_adverts_are_given_to_who_wants_them(node):
    node.meet(ADA, BOB)
    node.take(Send)
    keys = tuple(known(peer, 0, 0, "alive").key for peer in (OWN, BOB, EVE))
    node.post(Heard(ADA, AdvertsWanted(keys)))
    assert node.take(Adverts, to=ADA) == [Adverts((b"own 1", f"{BOB} 1 1".encode()))]


def test_a_digest_is_answered_with_what_is_known_better(node):
    node.meet(ADA, BOB)
    node.advert(CID, 4)
    node.pass_time(5, answering=[ADA, BOB])
    node.take(Send)
    node.post(Heard(ADA, Digest((known(CID, 1, 2, "alive"),), of=1)))
    (news,) = node.take(News, to=ADA)
    assert set(news.news) == {known(CID, 1, 4, "alive"), known(BOB, 1, 1, "alive")}
    node.post(Heard(ADA, Digest((known(CID, 1, 2, "alive"),), of=2)))
    assert node.take(News, to=ADA) == [News((known(CID, 1, 4, "alive"),))], "what is not shown may be known there"
    node.post(Heard(ADA, Digest((known(CID, 1, 4, "alive"), known(BOB, 1, 1, "alive")), of=2)))
    assert node.take(News, to=ADA) == []


# --- pages of a table ----------------------------------------------------------------------------------------------

MANY = sorted(number.to_bytes(32, "big") for number in range(1000, 1000 + 2 * PAGE_PEERS_MAX))


def names(keys):
    return tuple(Known(key, 1, 1, "alive") for key in keys)


def test_new_neighbours_show_each_other_a_few_names_however_many_they_know():
    node = Driven()
    for peer in CROWD:
        node.advert(peer)
    node.post(Connected(ADA, "direct"))
    (shown,) = node.take(Digest, to=ADA)
    assert (len(shown.known), shown.of) == (GREETING_PEERS, len(CROWD))


def test_who_is_shown_unknown_names_turns_the_pages_until_one_is_not_full(node):
    node.meet(ADA)
    node.take(Send)
    node.post(Heard(ADA, Digest(names(MANY[:GREETING_PEERS]), of=len(MANY))))
    assert node.take(PageWanted) == [PageWanted(b"")]
    first, second = MANY[:PAGE_PEERS_MAX], MANY[PAGE_PEERS_MAX:-1]
    node.post(Heard(ADA, Page(names(first))))
    assert node.take(PageWanted) == [PageWanted(first[-1])]
    node.post(Heard(ADA, Page(names(second))))
    (wanted,) = node.take(AdvertsWanted)
    assert list(wanted.keys) == second
    node.post(Heard(ADA, Page(())))
    assert node.take(PageWanted) == []


def test_who_knows_almost_all_that_it_is_shown_reads_nothing(node):
    node.meet(ADA)
    for peer in CROWD:
        node.advert(peer)
    node.take(Send)
    shown = [known(peer, 1, 1, "alive") for peer in CROWD[:15]]
    node.post(Heard(ADA, Digest((*shown, *names(MANY[:1])), of=500)))
    assert node.take(PageWanted) == []
    node.post(Heard(ADA, Digest((*shown[:14], *names(MANY[1:3])), of=500)))
    assert node.take(PageWanted) == [PageWanted(b"")]


def test_nothing_more_is_read_where_all_was_shown(node):
    node.meet(ADA)
    node.take(Send)
    node.post(Heard(ADA, Digest(names(MANY[:GREETING_PEERS]), of=GREETING_PEERS)))
    assert node.take(PageWanted) == []


def test_one_table_is_read_at_a_time_and_another_one_if_its_owner_falls_silent(node):
    node.meet(ADA, BOB, CID)
    node.take(Send)
    node.post(Heard(ADA, Digest(names(MANY[:16]), of=500)), Heard(BOB, Digest(names(MANY[:16]), of=500)))
    assert node.take(PageWanted, to=ADA) == [PageWanted(b"")]
    assert node.take(PageWanted, to=BOB) == []
    node.pass_time(PAGE_WITHIN_S + 0.1, answering=[ADA, BOB, CID])
    node.post(Heard(BOB, Digest(names(MANY[:16]), of=500)))
    assert node.take(PageWanted, to=BOB) == [PageWanted(b"")]
    node.post(Heard(ADA, Page(names(MANY[:PAGE_PEERS_MAX]))))
    assert node.take(PageWanted, to=ADA) == [], "it was given up"


def test_a_neighbour_with_names_without_end_is_read_for_a_bounded_time_and_not_again_at_once(node):
    node.meet(ADA)
    node.take(Send)
    node.post(Heard(ADA, Digest(names(MANY[:16]), of=2**31)))
    pages = 0
    while node.take(PageWanted):
        pages += 1
        keys = [(10**6 * pages + number).to_bytes(32, "big") for number in range(PAGE_PEERS_MAX)]
        node.post(Heard(ADA, Page(names(keys))))
    assert pages == MEMBERS_MAX // PAGE_PEERS_MAX + 1
    node.post(Heard(ADA, Digest(names(MANY[-16:]), of=2**31)))
    assert node.take(PageWanted) == []
    node.pass_time(READ_AGAIN_S, answering=[ADA])
    node.post(Heard(ADA, Digest(names(MANY[-32:-16]), of=2**31)))
    assert node.take(PageWanted) == [PageWanted(b"")]


def test_pages_that_go_in_a_circle_are_not_followed(node):
    node.meet(ADA)
    node.post(Heard(ADA, Digest(names(MANY[:16]), of=500)))
    node.post(Heard(ADA, Page(names(MANY[:PAGE_PEERS_MAX]))))
    node.take(Send)
    node.post(Heard(ADA, Page(names(MANY[:PAGE_PEERS_MAX]))))
    assert node.take(PageWanted) == []


def test_a_full_table_reads_nothing():
    node = Driven(members_max=8)
    node.meet(ADA)
    for peer in CROWD[:8]:
        node.advert(peer)
    node.post(Heard(ADA, Digest(names(MANY[:16]), of=500)))
    assert node.take(PageWanted) == []


def test_a_full_table_takes_in_strangers_slowly_and_does_not_tell_of_them():
    node = Driven(members_max=8)
    node.meet(ADA)
    for peer in CROWD[:7]:
        node.advert(peer)
    node.pass_time(30, answering=[ADA])
    node.take(Send)
    for second in range(100):
        node.pass_time(1, answering=[ADA])
        node.post(Heard(ADA, News(names(MANY[second : second + 16]))))
    sent = [effect.message for effect in node.effects if isinstance(effect, Send)]
    wanted = {key for message in sent if isinstance(message, AdvertsWanted) for key in message.keys}
    assert 10 < len(wanted) <= STRANGERS_BURST + 100 * STRANGERS_PER_S + 1
    stranger = peer_id_of(min(wanted))
    node.advert(stranger)
    assert node.state(stranger) == "alive"
    node.pass_time(5, answering=[ADA])
    assert node.take(News) == []


def test_a_newcomer_that_connects_is_news_also_where_the_table_is_full():
    node = Driven(members_max=8)
    node.meet(ADA)
    for peer in CROWD[:7]:
        node.advert(peer)
    node.pass_time(30, answering=[ADA])
    node.take(Send)
    node.meet(BOB)
    node.pass_time(1, answering=[ADA, BOB])
    told = [message.news for message in node.take(News)]
    assert told
    assert all(news == (known(BOB, 1, 1, "alive"),) for news in told)


def test_a_page_holds_what_comes_next_in_the_order_of_keys(node):
    node.meet(ADA)
    for key in MANY:
        node.advert(peer_id_of(key))
    node.take(Send)
    node.post(Heard(ADA, PageWanted(b"")))
    (first,) = node.take(Page, to=ADA)
    mine = sorted([*MANY, public_key_of(ADA)])
    assert [each.key for each in first.known] == mine[:PAGE_PEERS_MAX]
    node.post(Heard(ADA, PageWanted(mine[-2])))
    assert [each.key for (page,) in [node.take(Page, to=ADA)] for each in page.known] == mine[-1:]
    node.post(Heard(ADA, PageWanted(mine[-1])))
    assert node.take(Page, to=ADA) == [Page(())]


@pytest.mark.parametrize("after", [b"", b"\xff" * 32], ids=["full", "empty"])
def test_who_wants_pages_without_end_gets_no_more_than_the_budget_for_telling(node, after, monkeypatch):
    node.meet(*CROWD[:20])
    for key in MANY:
        node.advert(peer_id_of(key))
    node.take(Send)
    for peer in 20 * CROWD[:20]:
        node.post(Heard(peer, PageWanted(after)))
    assert 40 < len(node.take(Page)) <= (NEWS_BYTES_BURST - NEWS_BYTES_URGENT) / (KNOWN_BYTES * PAGE_PEERS_MAX)
    monkeypatch.setattr(node.machine._table, "page", lambda *_: pytest.fail("the whole table was looked through"))
    node.meet(CROWD[20])
    node.post(Heard(CROWD[20], PageWanted(after)))


def test_a_neighbour_turns_so_many_pages_as_a_table_has_and_the_next_ones_later(node):
    node.meet(ADA, BOB)
    for key in MANY:
        node.advert(peer_id_of(key))

    def turned(peer, wanted):
        node.take(Send)
        node.post(*(Heard(peer, PageWanted(b"")) for _ in range(wanted)))
        return len(node.take(Page, to=peer))

    pages = MEMBERS_MAX // PAGE_PEERS_MAX + 1
    assert turned(ADA, pages) == pages
    assert turned(ADA, 5) == 0
    assert turned(BOB, pages) == pages, "another one has its own share"
    node.pass_time(READ_AGAIN_S, answering=[ADA, BOB])
    assert turned(ADA, pages + 5) == pages
    node.post(Disconnected(ADA))
    assert node.machine._table.entries[ADA].pages is None


def test_adverts_go_in_messages_of_a_bounded_size(node):
    node.meet(ADA)
    for peer in CROWD[:40]:
        node.post(AdvertSeen(peer, advert_of(peer), peer.encode() + bytes(1000), node.now_s))
    node.take(Send)
    node.post(Heard(ADA, AdvertsWanted(tuple(public_key_of(peer) for peer in CROWD[:40]))))
    sent = node.take(Adverts, to=ADA)
    assert sum(len(message.adverts) for message in sent) == 40
    assert len(sent) > 1
    assert all(sum(map(len, message.adverts)) <= ADVERTS_BYTES for message in sent)


# --- signs of life -------------------------------------------------------------------------------------------------


def test_a_silent_neighbour_is_asked_itself_then_through_others_then_suspected_then_dead(node):
    node.meet(ADA, *CROWD[:5])
    node.post(*(RttMeasured(peer, 0.01) for peer in (ADA, *CROWD[:5])))
    node.take(Send)
    times = {}
    while node.state(ADA) != "dead":
        node.pass_time(0.05, answering=CROWD[:5])
        for effect in node.effects:
            if isinstance(effect, Send) and isinstance(effect.message, Probe):
                if effect.peer == ADA:
                    times.setdefault("asked", node.now_s)
                elif effect.message.peer == ADA:
                    times.setdefault("through others", node.now_s)
                    times["helpers"] = times.get("helpers", 0) + 1
        if node.state(ADA) == "suspect":
            times.setdefault("suspect", node.now_s)
        dropped = node.take(Drop)
        assert node.now_s < 130
    assert dropped == [Drop(ADA)]
    assert times["helpers"] == HELPERS
    assert 0.4 < times["through others"] - times["asked"] < 0.6
    assert 0.4 < times["suspect"] - times["through others"] < 0.6
    assert SUSPICION_MAX_S - 0.1 < node.now_s - times["suspect"] < SUSPICION_MAX_S + 0.2


def test_any_word_of_a_suspect_neighbour_clears_it(node):
    node.meet(ADA, BOB)
    while node.state(ADA) != "suspect":
        node.pass_time(0.1, answering=[BOB])
    node.post(Heard(ADA, Probe(7)))
    assert node.state(ADA) == "alive"


def test_a_probe_is_answered_and_made_for_others(node):
    node.meet(ADA, BOB)
    node.take(Send)
    node.post(Heard(ADA, Probe(7)))
    assert node.take(ProbeAnswer, to=ADA) == [ProbeAnswer(7)]
    node.post(Heard(ADA, Probe(8, BOB)))
    (probe,) = node.take(Probe, to=BOB)
    node.post(Heard(BOB, ProbeAnswer(probe.nonce)))
    assert node.take(ProbeAnswer, to=ADA) == [ProbeAnswer(8, BOB)]
    node.post(Heard(BOB, ProbeAnswer(probe.nonce)))
    assert node.take(ProbeAnswer) == [], "once"


def test_only_the_peer_asked_can_answer_for_itself(node):
    node.meet(ADA, BOB)
    while not (probes := node.take(Probe, to=ADA)):
        node.pass_time(0.2, answering=[BOB])
    node.post(Heard(BOB, ProbeAnswer(probes[0].nonce)))
    assert node.machine._prober.is_waiting_for(ADA)
    node.post(Heard(BOB, ProbeAnswer(probes[0].nonce, ADA)))
    assert not node.machine._prober.is_waiting_for(ADA)


def test_a_node_that_hears_nobody_doubts_itself_first(node):
    node.meet(ADA)
    assert node.machine.health.stretch == 1
    node.pass_time(10)
    assert node.machine.health.stretch > 1


# --- what others say -----------------------------------------------------------------------------------------------


def test_who_is_doubted_refutes_by_a_new_advert_but_not_for_every_word(node):
    node.meet(ADA, BOB)
    for _ in range(5):
        node.post(Heard(ADA, News((known(OWN, 1, 1, "suspect"),))), Heard(BOB, News((known(OWN, 1, 1, "dead"),))))
    assert node.take(Refute) == [Refute()]
    node.post(OwnAdvert(advert_of(OWN, 2), b"own 2"))
    assert node.take(Adverts, to=ADA) == [Adverts((b"own 2",))]
    node.pass_time(5, answering=[ADA, BOB])
    node.post(Heard(ADA, News((known(OWN, 1, 1, "dead"), known(OWN, 1, 99, "dead"), known(OWN, 1, 2, "alive")))))
    assert node.take(Refute) == [], "of its past it need not speak, and nobody knows its future"


def test_a_rumour_about_a_neighbour_is_only_a_reason_to_ask_it(node):
    node.meet(ADA, BOB)
    node.take(Send)
    node.post(Heard(BOB, News((known(ADA, 1, 1, "dead"),))))
    assert node.state(ADA) == "alive"
    (probe,) = node.take(Probe, to=ADA)
    assert probe.news == (known(ADA, 1, 1, "suspect", OWN),), "so that it can refute"


def test_a_neighbour_that_others_doubt_is_asked_again_and_again_instead_of_through_others(node):
    node.meet(ADA, BOB, *CROWD[:4])
    node.post(*(RttMeasured(peer, 0.01) for peer in (ADA, BOB, *CROWD[:4])))
    node.machine._doubts.probe_s = NEVER  # nobody's turn comes by itself
    node.pass_time(2, answering=[BOB, *CROWD[:4]])
    node.take(Send)
    node.post(Heard(BOB, News((known(ADA, 1, 1, "suspect"),))))
    told_s = node.now_s
    while node.state(ADA) == "alive":
        node.pass_time(0.05, answering=[BOB, *CROWD[:4]])
    assert 0.4 < node.now_s - told_s < 0.6, "one time-out, not two"
    asked = [effect for effect in node.effects if isinstance(effect, Send) and isinstance(effect.message, Probe)]
    assert len([effect for effect in asked if effect.peer == ADA]) >= 2
    assert not [effect for effect in asked if effect.message.peer == ADA]


def test_who_doubted_a_neighbour_before_is_a_witness_when_it_stays_silent(node):
    node.meet(ADA, BOB, *CROWD[:4])
    node.post(*(RttMeasured(peer, 0.01) for peer in (ADA, BOB, *CROWD[:4])))
    node.machine._doubts.probe_s = NEVER
    node.pass_time(2, answering=[BOB, *CROWD[:4]])
    for teller in (BOB, *CROWD[:2]):
        node.post(Heard(teller, News((known(ADA, 1, 1, "suspect"),))))
    while node.state(ADA) == "alive":
        node.pass_time(0.05)
        node.post(Heard(BOB, Probe(7)))
    suspected_s = node.now_s
    while node.state(ADA) != "dead":
        node.pass_time(0.05, answering=[BOB, *CROWD[:4]])
    assert SUSPICION_MIN_S - 0.1 < node.now_s - suspected_s < SUSPICION_MIN_S + 0.2


def test_one_teller_that_gives_many_names_leaves_room_for_other_witnesses(node):
    node.meet(ADA, BOB, *CROWD[:4])
    node.post(*(RttMeasured(peer, 0.01) for peer in (ADA, BOB, *CROWD[:4])))
    node.machine._doubts.probe_s = NEVER
    node.pass_time(2, answering=[BOB, *CROWD[:4]])
    node.post(Heard(BOB, News(tuple(known(ADA, 1, 1, "suspect", forged) for forged in CROWD[10:20]))))
    for teller in CROWD[:2]:
        node.post(Heard(teller, News((known(ADA, 1, 1, "suspect"),))))
    assert list(node.machine._table.entries[ADA].doubters.values()) == [BOB, *CROWD[:2]]


def test_witnesses_are_forgotten_when_the_neighbour_is_heard(node):
    node.meet(ADA, BOB, *CROWD[:4])
    node.pass_time(2, answering=[BOB, *CROWD[:4]])
    for teller in (BOB, *CROWD[:2]):
        node.post(Heard(teller, News((known(ADA, 1, 1, "suspect"),))))
    node.post(Heard(ADA, Probe(7)))
    assert not node.machine._table.entries[ADA].doubters


def test_a_doubt_that_is_out_of_date_is_a_reason_to_ask_a_silent_neighbour_and_is_set_right(node):
    """Neighbours hear of a peer's newest advert first: others may miss the peer before they know that there was one."""
    node.meet(ADA, BOB)
    node.advert(ADA, 2)
    node.pass_time(0.5)
    node.take(Send)
    node.post(Heard(BOB, News((known(ADA, 1, 1, "dead"),))))
    assert [effect.message for effect in node.effects if isinstance(effect, Send)] == [
        News((known(ADA, 1, 2, "alive"),))
    ], "it was heard just now"
    node.machine._doubts.probe_s = NEVER
    node.pass_time(2)
    node.take(Send)
    node.post(Heard(BOB, News((known(ADA, 1, 1, "suspect"),))))
    assert len(node.take(Probe, to=ADA)) == 1


def test_who_has_only_heard_rumours_asks_until_somebody_knows(node):
    node.meet(ADA, BOB)
    node.advert(CID)
    node.post(Heard(ADA, News((known(CID, 1, 1, "suspect", EVE),))))
    node.pass_time(1, answering=[ADA, BOB])
    node.take(Send)
    node.pass_time(3 * ASK_OTHERS_EVERY_S, answering=[ADA, BOB])
    asked = node.take(News)
    assert asked == 3 * [News((known(CID, 1, 1, "suspect", EVE),))]
    node.post(Heard(ADA, News((known(CID, 1, 1, "dead"),))))
    node.pass_time(SUSPICION_MAX_S + 0.1, answering=[ADA, BOB])
    assert node.state(CID) == "dead"


def test_who_takes_a_dead_one_for_living_is_set_right(node):
    node.meet(ADA, BOB)
    node.advert(CID)
    node.post(Heard(BOB, News((known(CID, 1, 1, "dead"),))), Heard(ADA, News((known(CID, 1, 1, "dead"),))))
    node.take(Send)
    for state in ("alive", "suspect"):
        node.post(Heard(ADA, News((known(CID, 1, 1, state),))))
        assert News((known(CID, 1, 1, "dead"),)) in node.take(News, to=ADA)
    node.pass_time(3, answering=[ADA, BOB])
    node.take(Send)
    node.post(Heard(ADA, News((known(CID, 1, 1, "dead"), known(BOB, 1, 1, "alive")))))
    assert node.take(News, to=ADA) == [], "they agree"


def test_one_liar_does_not_bury_anybody_before_its_time(node):
    node.meet(ADA, BOB)
    node.advert(CID)
    for origin in CROWD[:9]:
        node.post(Heard(BOB, News((known(CID, 1, 1, "suspect", origin), known(CID, 1, 1, "dead")))))
    assert node.state(CID) == "suspect"
    node.advert(CID, 2)
    assert node.state(CID) == "alive"
    node.pass_time(60, answering=[ADA, BOB])
    assert node.state(CID) == "alive"


def test_two_who_call_a_peer_dead_are_believed(node):
    node.meet(ADA, BOB)
    node.advert(CID)
    node.post(Heard(BOB, News((known(CID, 1, 1, "dead"),))), Heard(ADA, News((known(CID, 1, 1, "dead"),))))
    assert node.state(CID) == "dead"
    node.advert(CID, 2)
    assert node.state(CID) == "alive"


def test_a_suspicion_that_nobody_follows_up_is_forgotten(node):
    node.meet(ADA)
    node.advert(CID)
    node.post(Heard(ADA, News((known(CID, 1, 1, "suspect", EVE),))))
    assert node.state(CID) == "suspect"
    node.pass_time(VERDICT_WAIT_S + 1, answering=[ADA])
    assert node.state(CID) == "alive"


def test_the_own_rumour_that_comes_back_is_hearsay(node):
    node.meet(ADA)
    node.advert(CID)
    node.post(Heard(ADA, News((known(CID, 1, 1, "suspect", OWN),))))
    node.pass_time(VERDICT_WAIT_S + 1, answering=[ADA])
    assert node.state(CID) == "alive"


def test_a_death_in_a_future_that_nobody_has_seen_waits_for_the_advert(node):
    node.meet(ADA)
    node.advert(CID, 1)
    node.take(Send)
    node.post(Heard(ADA, News((known(CID, 1, 2**40, "dead"),))))
    assert node.state(CID) == "alive"
    assert node.take(AdvertsWanted) == [AdvertsWanted((known(CID, 0, 0, "alive").key,))]
    node.advert(CID, 2**40)
    assert node.state(CID) == "suspect"


def test_two_who_call_a_peer_dead_in_a_version_not_yet_known_are_believed_when_its_advert_comes(node):
    """A node that is no neighbour hears of deaths before it has the newest advert: all who told it would be forgotten."""
    node.meet(ADA, BOB)
    node.advert(CID, 1)
    for teller in (ADA, BOB, BOB):
        node.post(Heard(teller, News((known(CID, 1, 3, "dead"),))))
    assert node.state(CID) == "alive"
    node.advert(CID, 2)
    assert node.state(CID) == "alive", "nobody has doubted this version"
    node.advert(CID, 3)
    assert node.state(CID) == "dead"
    assert node.machine._exchange.wanted == {}


# --- bounds --------------------------------------------------------------------------------------------------------


def test_a_full_table_lets_go_of_the_dead_first_and_of_neighbours_never():
    node = Driven(members_max=10)
    node.meet(*CROWD[:4])
    node.advert(CROWD[4], state="left")
    for peer in CROWD[5:40]:
        node.advert(peer)
    members = {member.peer for member in node.machine.members()}
    assert len(members) == 10
    assert set(CROWD[:4]) <= members
    assert CROWD[4] not in members
    node = Driven(members_max=3)
    node.meet(*CROWD[:3])
    node.advert(ADA)
    node.post(Connected(BOB, "direct"), Disconnected(BOB), DialFailed(BOB), AddressSeen(CID, ("/to/cid",)))
    assert {member.peer for member in node.machine.members()} == set(CROWD[:3])


def test_gossip_floods_cost_a_bounded_answer(node):
    node.meet(ADA)
    node.take(Send)
    for start in range(0, 100_000, 16):
        news = tuple(known(peer_id_of((2**20 + start + n).to_bytes(32, "big")), 1, 1, "alive") for n in range(16))
        node.post(Heard(ADA, News(news)))
    wanted = sum(len(message.keys) for message in node.take(AdvertsWanted))
    assert wanted <= 512
    assert len(node.machine._exchange.wanted) <= 512


PEERS = st.sampled_from([OWN, ADA, BOB, CID, DAN, EVE])
KNOWN = st.builds(
    known, PEERS, st.integers(0, 2), st.integers(0, 3), st.sampled_from(["alive", "suspect", "dead", "left"]), PEERS
)
NEWS = st.lists(KNOWN, max_size=4).map(tuple)
EVENTS = st.one_of(
    st.builds(Connected, PEERS, st.sampled_from(["direct", "relay"])),
    st.builds(Disconnected, PEERS),
    st.builds(DialFailed, PEERS),
    st.builds(AddressSeen, PEERS, st.sampled_from([(), ("/to/it",)])),
    st.builds(RttMeasured, PEERS, st.floats(0, 10)),
    st.builds(
        lambda peer, incarnation, sequence, state: AdvertSeen(
            peer, advert_of(peer, sequence, incarnation=incarnation, state=state), b"x", 0.0
        ),
        PEERS, st.integers(0, 2), st.integers(0, 3), st.sampled_from(["running", "left"]),
    ),
    st.builds(Heard, PEERS, st.builds(Probe, st.integers(0, 9), st.one_of(st.just(""), PEERS), NEWS)),
    st.builds(Heard, PEERS, st.builds(ProbeAnswer, st.integers(0, 9), st.one_of(st.just(""), PEERS), NEWS)),
    st.builds(Heard, PEERS, st.one_of(st.builds(News, NEWS), st.builds(Digest, NEWS))),
    st.just(Tick()),
)  # fmt: skip


@given(st.lists(st.tuples(EVENTS, st.floats(0, 40)), max_size=40), st.integers(2, 6))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_the_table_stays_sound_and_time_moves_on(events, members_max):
    node = Driven(members_max=members_max)
    for event, wait_s in events:
        node.post(event)
        node.now_s += wait_s
        node.post(Tick())
        assert node.machine.deadline_s > node.now_s, "a deadline in the past would spin"
        node.take(Send)


# --- room for newcomers ----------------------------------------------------------------------------------------------


def test_beyond_half_a_table_of_neighbours_one_is_asked_to_leave_and_nobody_is_suspected():
    driven = Driven(members_max=8)
    driven.meet(ADA, BOB, CID, DAN)
    driven.now_s += STAYS_S
    driven.take(Send)
    driven.meet(EVE)
    (asked,) = [send for send in driven.take(Send) if send.message == Released()]
    assert asked.peer in (ADA, BOB, CID, DAN)
    driven.post(Disconnected(asked.peer))
    assert driven.machine.member(asked.peer).state == "alive"
    assert not driven.take(Dial)


def test_a_newcomer_and_one_at_work_are_not_asked_to_leave():
    driven = Driven(members_max=4, is_busy=lambda peer: peer == ADA)
    driven.meet(ADA, BOB, CID)
    assert not [send for send in driven.take(Send) if send.message == Released()]
    driven.pass_time(STAYS_S + 1, answering=(ADA, BOB, CID))
    (asked,) = [send for send in driven.take(Send) if send.message == Released()]
    assert asked.peer in (BOB, CID)


def test_who_was_asked_to_leave_and_stays_is_dropped():
    driven = Driven(members_max=2)
    driven.meet(ADA)
    driven.now_s += STAYS_S
    driven.meet(BOB)
    driven.pass_time(LEAVES_WITHIN_S + 1, answering=(ADA, BOB))
    assert driven.take(Drop)[0] == Drop(ADA)


def test_a_node_that_is_asked_to_leave_does_so_unless_it_works_there():
    driven = Driven()
    driven.meet(ADA)
    driven.post(Heard(ADA, Released()))
    assert driven.take(Drop) == [Drop(ADA)]
    driven.post(Disconnected(ADA))
    assert driven.machine.member(ADA).state == "alive"
    busy = Driven(is_busy=lambda peer: True)
    busy.meet(ADA)
    busy.post(Heard(ADA, Released()))
    assert not busy.take(Drop)


def test_a_connection_for_which_there_is_no_room_at_all_is_closed():
    driven = Driven(members_max=2)
    driven.meet(ADA, BOB)
    driven.post(Connected(CID, "direct"))
    assert driven.take(Drop) == [Drop(CID)]
