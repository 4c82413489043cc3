import pytest

from peerinfer.ids import peer_id_of
from peerinfer.suspicion import (
    CONFIRMATIONS_MAX,
    HEALTH_MAX,
    SUSPICION_MAX_S,
    SUSPICION_MIN_S,
    Health,
    Suspicion,
    suspicion_timeout_s,
)

OWN, *OTHERS = (peer_id_of(bytes([number]) * 32) for number in range(9))


def test_alone_the_timeout_is_short_and_with_others_it_starts_long_and_shrinks_with_their_word():
    assert suspicion_timeout_s(0, 0) == SUSPICION_MIN_S
    assert suspicion_timeout_s(0, 5) == SUSPICION_MAX_S
    assert suspicion_timeout_s(3, 5) == pytest.approx(SUSPICION_MIN_S)
    assert suspicion_timeout_s(9, 5) == pytest.approx(SUSPICION_MIN_S)
    shrinking = [suspicion_timeout_s(count, 5) for count in range(4)]
    assert shrinking == sorted(shrinking, reverse=True)
    # The first confirmation says most: half of the way at log2 / log4.
    assert suspicion_timeout_s(1, 5) == pytest.approx((SUSPICION_MAX_S + SUSPICION_MIN_S) / 2)


def test_one_rumour_told_by_many_counts_once_and_many_told_by_one_count_once():
    suspicion = Suspicion(0.0, OWN, 5, 1.0)
    for teller in OTHERS[:4]:
        suspicion.confirm(OTHERS[5], teller)
    assert len(suspicion.by) == 1
    for origin in OTHERS[:4]:
        suspicion.confirm(origin, OTHERS[0])
    assert len(suspicion.by) == 1
    suspicion.confirm(OWN, OTHERS[1])
    assert len(suspicion.by) == 1, "who began it does not confirm it"
    for number in range(1, 5):
        suspicion.confirm(OTHERS[number], OTHERS[number])
    assert len(suspicion.by) == CONFIRMATIONS_MAX


def test_a_node_that_is_not_well_gives_others_more_time():
    health = Health()
    assert health.stretch == 1
    health.better()
    assert health.stretch == 1
    for _ in range(20):
        health.worse()
    assert health.stretch == HEALTH_MAX
    assert Suspicion(10.0, OWN, 0, health.stretch).deadline_s == 10 + SUSPICION_MIN_S * HEALTH_MAX
    health.better()
    assert health.stretch == HEALTH_MAX - 1
