from peerinfer.ids import peer_id_of
from peerinfer.limits import NEWS_PER_MESSAGE_MAX
from peerinfer.news import NEWS_WAITING_MAX, TELLINGS_PER_DIGIT, Budget, NewsQueue, Rank, known

PEERS = [peer_id_of(number.to_bytes(32, "big")) for number in range(400)]


def test_every_piece_is_told_often_enough_and_then_rests():
    queue = NewsQueue()
    queue.add(known(PEERS[0], 1, 1, "alive"), Rank.ALIVE)
    told = 0
    while queue:
        assert len(queue.take(50)) == 1
        told += 1
    assert told == TELLINGS_PER_DIGIT * 2


def test_of_one_peer_only_the_newest_is_told():
    queue = NewsQueue()
    queue.add(known(PEERS[0], 1, 1, "suspect"), Rank.RUMOUR)
    queue.add(known(PEERS[0], 1, 2, "alive"), Rank.ALIVE)
    assert [each.state for each in queue.take(1)] == ["alive"]


def test_deaths_go_before_arrivals_and_what_was_told_least_goes_first():
    queue = NewsQueue()
    for peer in PEERS[:20]:
        queue.add(known(peer, 1, 1, "alive"), Rank.ALIVE)
    first = queue.take(1000)
    assert len(first) == NEWS_PER_MESSAGE_MAX
    queue.add(known(PEERS[30], 1, 1, "dead"), Rank.DEATH)
    second = queue.take(1000)
    assert second[0].state == "dead"
    assert {each.key for each in second} >= {known(peer, 1, 1, "alive").key for peer in PEERS[16:20]}


def test_what_was_seen_goes_before_deaths_and_these_before_rumours():
    queue = NewsQueue()
    queue.add(known(PEERS[0], 1, 1, "suspect"), Rank.RUMOUR)
    queue.add(known(PEERS[1], 1, 1, "dead"), Rank.DEATH)
    queue.add(known(PEERS[2], 1, 1, "suspect"), Rank.SEEN)
    assert [queue.count(rank) for rank in (Rank.SEEN, Rank.DEATH, Rank.RUMOUR, Rank.ALIVE)] == [1, 2, 3, 3]
    assert [each.key for each in queue.take(1)] == [known(PEERS[number], 1, 1, "alive").key for number in (2, 1, 0)]
    assert [each.state for each in queue.take(1, Rank.DEATH)] == ["suspect", "dead"]


def test_the_queue_is_bounded_and_loses_what_was_told_most():
    queue = NewsQueue()
    queue.add(known(PEERS[0], 1, 1, "dead"), Rank.DEATH)
    for peer in PEERS[1:]:
        queue.add(known(peer, 1, 1, "alive"), Rank.ALIVE)
        queue.take(1000)
    assert len(queue) <= NEWS_WAITING_MAX
    fresh = NewsQueue()
    for peer in PEERS:
        fresh.add(known(peer, 1, 1, "alive"), Rank.ALIVE)
    assert len(fresh) == NEWS_WAITING_MAX


def test_a_budget_fills_at_its_rate_up_to_its_burst_and_keeps_what_is_reserved():
    budget = Budget(10.0, 100.0)
    assert budget.take(100, 0.0)
    assert not budget.take(1, 0.0)
    assert budget.take(10, 1.0)
    assert not budget.take(101, 1000.0)
    assert not budget.take(60, 1000.0, keep=50)
    assert budget.take(50, 1000.0, keep=50)
    assert budget.take(50, 1000.0)
