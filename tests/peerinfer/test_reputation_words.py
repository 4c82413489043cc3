"""What is believed of a peer, in words."""

from peerinfer.ids import PeerId
from peerinfer.reputation import DAY_S, Reputation
from peerinfer.reputation_words import own_words, words_of
from peerinfer.vouching import Opinion, Voucher

ANN = PeerId("ann")


def said(reputation: Reputation, now_s: float = 0.0) -> str:
    return "; ".join(words_of(reputation.evidence(ANN, now_s), reputation.standing(ANN, now_s), now_s))


def test_of_a_stranger_nothing_is_known() -> None:
    assert said(Reputation()) == (
        "a stranger: it has done nothing for this node yet, so much of its first work is computed twice"
    )


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


BOB, CAT = PeerId("bob"), PeerId("cat")


def hearsay(*vouchers: Voucher, audits: float = 0.0, probation: int = 20, passed: int = 0) -> str:
    reputation = Reputation()
    for _ in range(passed):
        reputation.passed(ANN, 0.0)
    opinion = Opinion(0.0, vouchers, audits, probation)
    return "; ".join(words_of(reputation.evidence(ANN, 0.0), reputation.standing(ANN, 0.0), 0.0, opinion))


def test_whose_word_counts_for_a_newcomer_is_said_and_how_much() -> None:
    trusted, stranger = Voucher(BOB, 0.3, 40.0, 1e9), Voucher(CAT, 0.0, 40.0, 1e9)
    assert "1 peer vouches for it, whom this node has no reason to trust yet" in hearsay(stranger)
    assert "2 peers vouch for it, none of whom this node has a reason to trust yet" in hearsay(stranger, stranger)
    said = hearsay(trusted, stranger, audits=6.0, probation=17)
    assert "2 peers vouch for it; 1 of them are trusted here" not in said
    assert "2 peers vouch for it, 1 of which this node trusts: that is worth 6 checks" in said
    assert "it is a newcomer for 3 checks less" in said
    assert "too little to spare it a check" in hearsay(trusted, audits=0.5)


def test_a_newcomer_that_is_vouched_for_needs_fewer_checks() -> None:
    said = hearsay(Voucher(BOB, 1.0, 40.0, 1e9), audits=20.0, probation=10, passed=12)
    assert "with what others say of it, that is enough" in said
    assert "a newcomer for 4 more" in hearsay(audits=20.0, probation=10, passed=6)


def test_of_a_veteran_nobody_elses_word_is_needed() -> None:
    assert "vouch" not in hearsay(Voucher(BOB, 1.0, 40.0, 1e9), audits=20.0, probation=10, passed=30)


def test_what_a_peer_gave_is_said_with_its_energy_as_its_own_word() -> None:
    reputation = Reputation()
    reputation.worked(ANN, 0.0, 2.5e12)
    reputation.took(ANN, 0.0, 7200.0)
    assert "gave 2.5 TFLOP of work that counts for 2 Wh, as it says" in said(reputation)


def test_of_this_node_itself_is_said_what_it_gave_and_who_confirms_it() -> None:
    gave = {
        "tasks": 3,
        "items": 3,
        "compute_s": 5.0,
        "energy_j": 0.0,
        "flops": 3e9,
        "confirmed_flops": 2e9,
        "confirmed_by": 2,
    }
    assert own_words(gave)[1] == "confirmed: 2 GFLOP of it, by checks of 2 other nodes"
    assert "nobody has confirmed any of it today" in own_words({**gave, "confirmed_by": 0})[1]
