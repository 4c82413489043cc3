"""What is believed of a peer, in words."""

from peerinfer.ids import PeerId
from peerinfer.reputation import DAY_S, Reputation
from peerinfer.reputation_words import words_of

ANN = PeerId("ann")


def said(reputation: Reputation, now_s: float = 0.0) -> str:
    return "; ".join(words_of(reputation.evidence(ANN, now_s), reputation.standing(ANN, now_s), now_s))


def test_of_a_stranger_nothing_is_known() -> None:
    assert "none of its results was checked here yet" in said(Reputation())
    assert "was not asked for anything yet" in said(Reputation())


def test_a_newcomer_is_told_how_far_it_has_come() -> None:
    reputation = Reputation()
    for _ in range(5):
        reputation.passed(ANN, 0.0)
    assert "passed 5 checks; a newcomer for 15 more" in said(reputation)


def test_of_a_veteran_the_error_that_is_left_is_said() -> None:
    reputation = Reputation()
    for _ in range(100):
        reputation.passed(ANN, 0.0)
        reputation.answered(ANN, 0.0, in_time=True)
    assert "passed 100 checks; at most 1 unchecked result in 2,446" in said(reputation)
    assert "answered 100% of 100 frames in time" in said(reputation)


def test_how_and_when_it_was_caught_is_said_and_fades() -> None:
    reputation = Reputation()
    reputation.caught(ANN, 0.0, "task 3: 1 where 2 is right")
    assert "gave a wrong result 2h ago (task 3: 1 where 2 is right), so it gets no work" in said(reputation, 7200.0)
    assert "gave a wrong result long ago" in said(reputation, 130 * DAY_S)


def test_lateness_says_nothing_of_honesty() -> None:
    reputation = Reputation()
    for _ in range(50):
        reputation.vanished(ANN, 0.0)
    standing = reputation.standing(ANN, 0.0)
    assert standing.reliability < 0.05
    assert standing.integrity == Reputation().standing(ANN, 0.0).integrity
    assert not standing.is_barred
