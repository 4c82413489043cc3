"""Commit, audit, backtrack, finalise: the policies as sentences, and a swarm of liars against them."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import pytest

from peerinfer.ids import PeerId
from peerinfer.reputation import NEWCOMER_AUDITS, epsilon
from peerinfer.verification import Verification
from peerinfer.verification_checks import (
    AUDITS_OUT_MAX,
    AUDITS_OUT_MIN,
    AUDITS_QUEUE_S,
    COPIES_FOR_EACH_PARTNER,
)
from peerinfer.verification_events import (
    AuditDone,
    Caught,
    Concluded,
    CopyArrived,
    CopyImpossible,
    Effect,
    Event,
    Finalise,
    Passed,
    PeerCaught,
    PeerKnown,
    PeerLeft,
    Policy,
    ResultsArrived,
    Unverified,
    Void,
    WantAudit,
    WantCopy,
)

ANN, BOB, CLEO, DAN = (PeerId(name) for name in ("ann", "bob", "cleo", "dan"))
OWN = PeerId("own")


@dataclass(frozen=True)
class ResultArrived:
    """A first answer, or one more, whichever it is."""

    task: int
    peer: PeerId
    agrees_with: tuple[PeerId, ...] = ()

    def event(self, machine: Verification) -> Event:
        if machine._book.find(self.task) is None:
            return ResultsArrived(self.peer, (self.task,))
        return CopyArrived(self.task, self.peer, self.agrees_with)


def caught_in(said: list[Effect]) -> list[tuple[PeerId, int]]:
    return [(effect.peer, effect.task) for effect in said if isinstance(effect, Caught)]


def final(key: int, peer: PeerId, error: float, ground: str, first: PeerId | None = None) -> Finalise:
    return Finalise(peer, (key,), error, ground, first or peer)  # type: ignore[arg-type]


class Fixed(random.Random):
    """Dice that always, or never, ask for a check."""

    def __init__(self, value: float) -> None:
        super().__init__(1)
        self.value = value

    def random(self) -> float:
        return self.value


ALWAYS, NEVER = 0.0, 0.999999


class Scene:
    """A machine, and what it said."""

    def __init__(self, policy: Policy, dice: float = NEVER) -> None:
        self.machine = Verification(policy, Fixed(dice))
        self.said: list[Effect] = []

    def peer(self, name: PeerId, audits: float = 100.0, *groups: str, is_own: bool = False) -> None:
        self.tell(PeerKnown(name, groups, audits, is_own=is_own))

    def tell(self, *events: Event | ResultArrived) -> list[Effect]:
        said: list[Effect] = []
        for event in events:
            told = event.event(self.machine) if isinstance(event, ResultArrived) else event
            said += self.machine.handle(told, 0.0)
            self.machine.check()
        self.said += said
        return said

    def finals(self) -> dict[int, PeerId]:
        return {key: effect.peer for effect in self.said if isinstance(effect, Finalise) for key in effect.tasks}


def small_window(**more: object) -> Policy:
    """A window of ten."""
    return Policy(audit_share=0.5, error_max=0.013, **more)  # type: ignore[arg-type]


# --- the policy ----------------------------------------------------------------------------------------------------


def test_the_window_follows_from_the_error_that_is_allowed() -> None:
    policy = Policy(audit_share=0.10, error_max=1e-4, saboteurs=0.10)
    assert policy.window == 6500
    assert policy.audit_share * policy.window >= 650 * (1 - 1e-9)
    assert policy.window_error <= 1e-4
    assert small_window().window == 10


@pytest.mark.parametrize(
    "wrong", [{"audit_share": 0.0}, {"error_max": 0.0}, {"saboteurs": 1.0}, {"copies": 0}, {"copies": 99}]
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"shares lie between|a quorum has"):
        Policy(**wrong)  # type: ignore[arg-type]


def test_none_believes_everybody() -> None:
    scene = Scene(Policy("none"))
    assert scene.tell(ResultArrived(0, ANN)) == [final(0, ANN, 1.0, "unchecked")]


@pytest.mark.parametrize("kind", ["none", "spot", "quorum", "adaptive"])
def test_the_own_device_is_believed(kind: str) -> None:
    scene = Scene(Policy(kind))  # type: ignore[arg-type]
    scene.peer(OWN, is_own=True)
    assert scene.tell(ResultArrived(0, OWN)) == [final(0, OWN, 0.0, "own")]


# --- newcomers and trusted peers -----------------------------------------------------------------------------------


def test_a_newcomer_is_doubled_with_a_trusted_peer_of_another_house() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0, "subnet-1", "operator-1")
    scene.peer(BOB, 100.0, "subnet-2")
    assert scene.tell(ResultArrived(0, ANN)) == [WantCopy(0, (ANN,), ("subnet-1", "operator-1"), trusted=True)]
    assert scene.tell(ResultArrived(0, BOB, agrees_with=(ANN,))) == [Passed(ANN)]
    assert not scene.finals(), "two that agree are provisional like everybody's work"


def test_a_newcomer_without_a_partner_is_audited_here() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    scene.peer(BOB, 5.0)
    assert scene.tell(ResultArrived(0, ANN)) == [WantAudit(0, (ANN,))]
    said = scene.tell(AuditDone(0, (ANN,)))
    assert said == [Passed(ANN), final(0, ANN, 0.0, "audit")]


def test_a_newcomer_becomes_trusted_after_its_probation_and_not_before() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    for number in range(NEWCOMER_AUDITS):
        assert WantAudit(number, (ANN,)) in scene.tell(ResultArrived(number, ANN))
        scene.tell(AuditDone(number, (ANN,)))
    assert scene.tell(ResultArrived(99, ANN)) == []


def test_a_vouched_newcomer_has_a_shorter_probation() -> None:
    scene = Scene(Policy())
    scene.tell(PeerKnown(ANN, audits=10.0, probation=10))
    assert scene.tell(ResultArrived(0, ANN)) == []


def test_a_trusted_peer_is_audited_when_the_dice_say_so() -> None:
    for dice, expected in ((ALWAYS, [WantAudit(0, (ANN,))]), (NEVER, [])):
        scene = Scene(Policy(), dice)
        scene.peer(ANN)
        assert scene.tell(ResultArrived(0, ANN)) == expected


def test_the_share_of_audits_is_what_the_policy_says() -> None:
    machine = Verification(Policy(audit_share=0.1), random.Random(3))
    machine.handle(PeerKnown(ANN, audits=50.0), 0.0)
    audits = 0
    for number in range(5000):
        if WantAudit(number, (ANN,)) in machine.handle(ResultArrived(number, ANN).event(machine), 0.0):
            audits += 1
            machine.handle(AuditDone(number, (ANN,)), 0.0)
    assert audits == pytest.approx(500, abs=60)


def test_spot_checks_newcomers_first_and_less_and_less() -> None:
    machine = Verification(Policy("spot", audit_share=0.05), random.Random(3))
    machine.handle(PeerKnown(ANN), 0.0)
    checked = []
    for number in range(1500):
        said = machine.handle(ResultArrived(number, ANN).event(machine), 0.0)
        checked.append(WantAudit(number, (ANN,)) in said)
        if checked[-1]:
            machine.handle(AuditDone(number, (ANN,)), 0.0)
    assert checked[0], "the very first result is always checked"
    assert sum(checked[:100]) > 2 * sum(checked[-1000:]) / 10
    assert sum(checked[-1000:]) == pytest.approx(50, abs=25)
    machine.check()


# --- a busy device -------------------------------------------------------------------------------------------------


def asked(effects: list[Effect]) -> list[int]:
    return [effect.task for effect in effects if isinstance(effect, WantAudit)]


def audited_at(machine: Verification, task: int, now_s: float) -> list[Effect]:
    said = machine.handle(AuditDone(task, (ANN,)), now_s)
    machine.check()
    return said


def test_a_device_is_asked_for_as_many_audits_as_it_does_in_the_stated_time_and_for_no_more() -> None:
    machine = Verification(Policy(audit_share=1.0), Fixed(ALWAYS))
    machine.handle(PeerKnown(ANN, audits=100.0), 0.0)
    out = asked(machine.handle(ResultsArrived(ANN, range(100)), 0.0))
    assert out == list(range(AUDITS_OUT_MIN)), "its pace is unknown"
    audit_s, now_s = AUDITS_QUEUE_S / 20, 0.0
    for number in range(40):
        now_s += audit_s
        out += asked(audited_at(machine, out[number], now_s))
        assert len(out) - (number + 1) <= 20
    assert len(out) - 40 in (19, 20), "by its pace, and rounding"
    while machine.provisional:
        now_s += audit_s
        number += 1
        out += asked(audited_at(machine, out[number], now_s))
    assert sorted(out) == list(range(100)), "what waited is audited later, each once"


def test_an_instant_device_has_a_limit_too() -> None:
    machine = Verification(Policy(audit_share=1.0), Fixed(ALWAYS))
    machine.handle(PeerKnown(ANN, audits=100.0), 0.0)
    out = asked(machine.handle(ResultsArrived(ANN, range(AUDITS_OUT_MAX + 10)), 0.0))
    out += asked(audited_at(machine, out[0], 0.0))
    assert len(out) - 1 == AUDITS_OUT_MAX


def test_while_the_device_is_busy_a_trusted_partner_checks_and_only_so_much() -> None:
    scene = Scene(Policy(audit_share=1.0), ALWAYS)
    scene.peer(ANN)
    scene.peer(BOB)
    said = scene.tell(ResultsArrived(ANN, range(100)))
    assert len(asked(said)) == AUDITS_OUT_MIN
    copies = [effect for effect in said if isinstance(effect, WantCopy)]
    assert len(copies) == 2 * COPIES_FOR_EACH_PARTNER
    assert all(copy.trusted and copy.exclude == (ANN,) for copy in copies)


def test_what_waits_for_the_device_goes_to_the_first_newcomer_that_becomes_trusted() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    scene.peer(BOB, NEWCOMER_AUDITS - 1.0)
    scene.tell(ResultsArrived(ANN, range(50)), ResultsArrived(BOB, [90]))
    said = scene.machine.handle(AuditDone(0, (ANN,)), 10.0)
    assert asked(said) == [90], "whoever is nearest to being trusted comes first"
    said = scene.machine.handle(AuditDone(90, (BOB,)), 20.0)
    scene.machine.check()
    copies = [effect for effect in said if isinstance(effect, WantCopy)]
    assert len(copies) == COPIES_FOR_EACH_PARTNER
    assert all(copy.trusted and copy.exclude == (ANN,) for copy in copies)


def test_what_waits_for_a_busy_device_is_not_final_before_its_check() -> None:
    scene = Scene(small_window())
    scene.peer(ANN, 0.0)
    out = asked(scene.tell(ResultsArrived(ANN, range(15)), Concluded()))
    assert len(out) == AUDITS_OUT_MIN
    assert not scene.finals()
    while out:
        out += asked(scene.tell(AuditDone(out.pop(0), (ANN,))))
    assert sorted(scene.finals()) == list(range(15))


def test_a_cheat_is_caught_by_what_it_gave_while_nobody_had_time() -> None:
    """Under `spot` nothing is drawn of a trusted peer then; its window stays open for the next check."""
    machine = Verification(Policy("spot", audit_share=1.0), random.Random(4))
    machine.handle(PeerKnown(ANN, audits=20.0), 0.0)
    for number in range(AUDITS_OUT_MIN):
        machine.handle(ResultsArrived(PeerId(f"peer-{number}"), [number]), 0.0)
    assert machine.handle(ResultsArrived(ANN, range(100, 1100)), 0.0) == [], "the device is busy, and nothing is final"
    machine.handle(AuditDone(0, (PeerId("peer-0"),)), 0.0)
    said = machine.handle(ResultsArrived(ANN, [5000]), 0.0)
    machine.check()
    assert [100 <= task < 1100 for task in asked(said)] == [True]
    said = machine.handle(AuditDone(asked(said)[0], ()), 0.0)
    assert sum(len(effect.tasks) for effect in said if isinstance(effect, Void)) == 1001


def test_the_checks_of_a_newcomer_wait_for_a_busy_device_and_none_is_left_out() -> None:
    machine = Verification(Policy("spot", audit_share=0.05), random.Random(4))
    for number in range(AUDITS_OUT_MIN):
        machine.handle(ResultsArrived(PeerId(f"peer-{number}"), [number]), 0.0)
    machine.handle(ResultsArrived(ANN, range(100, 104)), 0.0)
    asked_of_ann: list[int] = []
    for number in range(AUDITS_OUT_MIN):
        asked_of_ann += asked(machine.handle(AuditDone(number, (PeerId(f"peer-{number}"),)), 0.0))
    assert 100 in asked_of_ann, "the first for certain"
    assert set(asked_of_ann) <= set(range(100, 104))


def test_a_dispute_does_not_wait_for_a_busy_device() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    scene.tell(ResultsArrived(ANN, range(50)))
    scene.peer(BOB)
    scene.tell(ResultArrived(99, BOB))
    assert asked(scene.tell(ResultArrived(99, CLEO))) == [99]


# --- backtracking --------------------------------------------------------------------------------------------------


def test_a_full_window_without_a_fault_is_final() -> None:
    scene = Scene(small_window())
    scene.peer(ANN)
    for number in range(9):
        assert scene.tell(ResultArrived(number, ANN)) == []
    said = scene.tell(ResultArrived(9, ANN))
    assert said == [Finalise(ANN, tuple(range(10)), pytest.approx(0.013), "window", ANN)]


def test_a_window_waits_for_its_checks() -> None:
    scene = Scene(small_window(), ALWAYS)
    scene.peer(ANN)
    scene.tell(ResultArrived(0, ANN))
    scene.machine._rng.value = NEVER  # type: ignore[attr-defined]
    for number in range(1, 15):
        assert scene.tell(ResultArrived(number, ANN)) == []
    said = scene.tell(AuditDone(0, (ANN,)))
    assert [type(effect) for effect in said] == [Passed, Finalise, Finalise]
    assert len(scene.finals()) == 10, "the next window has begun with the other five"


def test_a_failed_audit_voids_all_that_is_not_final() -> None:
    scene = Scene(small_window())
    scene.peer(ANN)
    for key in range(12):
        scene.tell(ResultArrived(key, ANN))
    scene.machine._rng.value = ALWAYS  # type: ignore[attr-defined]
    scene.tell(ResultArrived(50, ANN))
    said = scene.tell(AuditDone(50, ()))
    assert said[0] == Void(ANN, (50,), "a check found it wrong")
    assert caught_in(said) == [(ANN, 50)]
    assert isinstance(said[2], Void)
    assert said[2].tasks == (10, 11)
    assert scene.machine.caught(ANN) == "task 50: a check found another result"
    assert scene.tell(ResultArrived(60, ANN)) == [], "nothing more is accepted of it"


def test_what_a_peer_that_was_caught_in_another_job_gave_is_void_here_too() -> None:
    scene = Scene(small_window())
    scene.peer(ANN)
    scene.tell(ResultsArrived(ANN, range(3)))
    said = scene.tell(PeerCaught(ANN, "lied elsewhere"))
    assert said == [Void(ANN, (0, 1, 2), "another result of the same peer was found wrong")]
    assert scene.tell(ResultsArrived(ANN, (9,)), PeerCaught(ANN, "again")) == []


def test_what_a_trusted_partner_gave_too_outlives_the_cheat() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    scene.peer(BOB)
    scene.tell(ResultArrived(0, ANN), ResultArrived(0, BOB, (ANN,)))
    scene.tell(ResultArrived(1, ANN), ResultArrived(1, BOB))
    said = scene.tell(AuditDone(1, (BOB,)))
    assert (ANN, 1) in caught_in(said)
    assert not any(isinstance(effect, Void) for effect in said)
    assert 1 in scene.finals()


def test_a_pair_of_cheats_falls_together() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    scene.peer(BOB)
    for number in range(5):
        scene.tell(ResultArrived(number, BOB))
    scene.tell(ResultArrived(9, ANN))
    scene.machine._rng.value = ALWAYS  # type: ignore[attr-defined]
    assert WantAudit(9, (ANN, BOB)) in scene.tell(ResultArrived(9, BOB, (ANN,)))
    said = scene.tell(AuditDone(9, ()))
    assert {effect.peer for effect in said if isinstance(effect, Caught)} == {ANN, BOB}
    voided = {key for effect in said if isinstance(effect, Void) for key in effect.tasks}
    assert voided == {9, *range(5)}


def test_a_check_that_tells_nothing_is_drawn_again() -> None:
    scene = Scene(Policy(audit_share=0.5))
    scene.peer(ANN)
    scene.tell(ResultArrived(0, ANN))
    scene.machine._rng.value = ALWAYS  # type: ignore[attr-defined]
    scene.tell(ResultArrived(1, ANN))
    assert scene.tell(AuditDone(1, None)) == [WantAudit(0, (ANN,))]


def test_an_answer_that_nobody_asked_for_is_no_event() -> None:
    scene = Scene(Policy())
    scene.peer(ANN)
    assert scene.tell(AuditDone(7, ()), CopyImpossible(7), PeerLeft(DAN)) == []
    scene.tell(ResultArrived(0, ANN))
    assert scene.tell(ResultArrived(0, ANN), AuditDone(0, ())) == []


def test_a_lying_checker_is_caught_by_the_own_device() -> None:
    """The worker is honest; the partner that disagrees is not."""
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    scene.peer(BOB)
    scene.tell(ResultArrived(0, ANN))
    assert scene.tell(ResultArrived(0, BOB)) == [WantAudit(0, (ANN, BOB))]
    said = scene.tell(AuditDone(0, (ANN,)))
    assert (BOB, 0) in caught_in(said)
    assert scene.finals() == {0: ANN}


def test_without_an_own_device_two_more_trusted_peers_decide() -> None:
    scene = Scene(Policy(own_device=False))
    scene.peer(ANN, 0.0)
    for name in (BOB, CLEO, DAN):
        scene.peer(name)
    scene.tell(ResultArrived(0, ANN))
    assert scene.tell(ResultArrived(0, BOB)) == [WantCopy(0, (ANN, BOB), (), trusted=True)]
    scene.tell(ResultArrived(0, CLEO, (ANN,)))
    said = scene.tell(ResultArrived(0, DAN, (ANN, CLEO)))
    assert (BOB, 0) in caught_in(said)
    assert scene.finals() == {0: ANN}


def test_a_result_of_the_own_device_settles_a_dispute() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 0.0)
    scene.peer(BOB)
    scene.peer(OWN, is_own=True)
    scene.tell(ResultArrived(0, ANN))
    said = scene.tell(ResultArrived(0, OWN))
    assert (ANN, 0) in caught_in(said)
    assert scene.finals() == {0: OWN}
    assert not any(isinstance(effect, Void) for effect in said)


# --- quorum --------------------------------------------------------------------------------------------------------


def test_a_quorum_needs_as_many_distinct_peers_that_agree() -> None:
    scene = Scene(Policy("quorum", copies=3, own_device=False))
    for name, subnet in ((ANN, "a"), (BOB, "b"), (CLEO, "a"), (DAN, "d")):
        scene.peer(name, 0.0, subnet)
    wanted = scene.tell(ResultArrived(0, ANN))
    assert wanted == [WantCopy(0, (ANN,), ("a",), trusted=False)] * 2
    assert scene.tell(ResultArrived(0, BOB, (ANN,))) == []
    said = scene.tell(ResultArrived(0, CLEO, (ANN, BOB)))
    assert said == [WantCopy(0, (ANN, BOB, CLEO), ("a", "b"), trusted=False)], "a neighbour does not count"
    said = scene.tell(ResultArrived(0, DAN, (ANN,)))
    assert [type(effect) for effect in said] == [Finalise]


def test_a_quorum_of_strangers_proves_nobody_a_liar() -> None:
    scene = Scene(Policy("quorum", copies=2, own_device=False))
    scene.tell(ResultArrived(0, ANN), ResultArrived(0, BOB))
    said = scene.tell(ResultArrived(0, CLEO, (BOB,)))
    assert scene.finals() == {0: BOB}
    assert not any(isinstance(effect, Caught) for effect in said)


def test_answers_without_end_are_void() -> None:
    scene = Scene(Policy("quorum", copies=2, own_device=False))
    said: list[Effect] = []
    for number in range(9):
        said = scene.tell(ResultArrived(0, PeerId(f"peer-{number}")))
    assert said == [Unverified(PeerId("peer-0"), (0,), "9 answers, and no 2 distinct peers agree")]


def test_a_quorum_that_cannot_be_had_is_void() -> None:
    scene = Scene(Policy("quorum", copies=2, own_device=False))
    scene.tell(ResultArrived(0, ANN))
    assert scene.tell(CopyImpossible(0)) == [Unverified(ANN, (0,), "1 answers, and no 2 distinct peers agree")]


# --- the end of a job ----------------------------------------------------------------------------------------------


def test_at_the_end_the_level_reached_is_stated() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 20.0)
    scene.tell(ResultArrived(0, ANN), ResultArrived(1, ANN))
    said = scene.tell(Concluded())
    assert said == [Finalise(ANN, (0, 1), epsilon(20.0), "credibility", ANN)]


def test_the_end_waits_for_the_checks() -> None:
    scene = Scene(Policy(), ALWAYS)
    scene.peer(ANN)
    scene.tell(ResultArrived(0, ANN), ResultArrived(1, ANN))
    assert scene.tell(Concluded()) == []
    scene.tell(AuditDone(0, (ANN,)))
    scene.tell(AuditDone(1, ()))
    assert list(scene.finals()) == [0]


def test_who_insists_gets_further_copies_until_the_error_is_small() -> None:
    scene = Scene(Policy(insist=True, error_max=1e-4))
    scene.peer(ANN, 20.0)
    scene.peer(BOB, 20.0)
    scene.tell(ResultArrived(0, ANN))
    assert scene.tell(Concluded()) == [WantCopy(0, (ANN,), (), trusted=True)]
    said = scene.tell(ResultArrived(0, BOB, (ANN,)))
    final = next(effect for effect in said if isinstance(effect, Finalise))
    assert final.error == pytest.approx(epsilon(21.0) * epsilon(20.0))
    assert final.error < 1e-4


def test_what_was_void_is_concluded_anew() -> None:
    scene = Scene(Policy())
    scene.peer(ANN, 50.0)
    scene.peer(BOB, 0.0)
    scene.tell(ResultArrived(0, ANN), ResultArrived(1, BOB), Concluded())
    scene.tell(ResultArrived(1, ANN))
    scene.tell(AuditDone(1, (BOB,)))
    assert (ANN, 1) in caught_in(scene.said)
    assert list(scene.finals()) == [1]
    scene.tell(ResultArrived(0, BOB), Concluded())
    scene.tell(AuditDone(0, (BOB,)))
    assert set(scene.finals()) == {0, 1}


def test_a_peer_that_left_is_forgotten_once_its_results_are_settled() -> None:
    scene = Scene(Policy())
    scene.peer(ANN)
    scene.tell(ResultArrived(0, ANN), PeerLeft(ANN))
    assert ANN in scene.machine._book.peers
    scene.tell(Concluded())
    assert ANN not in scene.machine._book.peers


# --- a swarm of liars ----------------------------------------------------------------------------------------------


def play(policy: Policy, seed: int, liars: float, tasks: int = 300) -> tuple[float, dict[int, bool]]:
    """Honest peers and colluding liars, answers in any order, peers that come and go, checks that fail to tell.

    Returns executions per task, and for each final task whether it is right. Asserts that every task becomes final.
    """
    rng = random.Random(seed)
    machine = Verification(policy, random.Random(seed + 1))
    lying = {PeerId(f"peer-{number}"): rng.random() < liars for number in range(24)}
    for number, name in enumerate(lying):
        audits = 30.0 if number % 2 and not lying[name] else 0.0
        machine.handle(PeerKnown(name, (f"subnet-{number // 2}",), audits), 0.0)
    answers: dict[int, dict[PeerId, bool]] = {}
    final: dict[int, bool] = {}
    open_tasks = deque(range(tasks))
    events: list[Event] = []
    wanted: deque[WantCopy] = deque()
    executions = 0

    def perform(effects: list[Effect]) -> None:
        nonlocal executions
        for effect in effects:
            match effect:
                case WantCopy():
                    wanted.append(effect)
                case WantAudit(key, _):
                    executions += 1
                    right = tuple(peer for peer, is_right in answers[key].items() if is_right)
                    events.append(AuditDone(key, None if rng.random() < 0.02 else right))
                case Void(_, keys, _) | Unverified(_, keys, _):
                    for key in keys:
                        assert key not in final, "what is final was voided"
                        answers[key] = {}
                        open_tasks.append(key)
                case Finalise(peer, keys, _, _, _):
                    for key in keys:
                        assert key not in final, "it became final twice"
                        final[key] = answers[key].get(peer, False)

    def answer(key: int, peer: PeerId) -> None:
        nonlocal executions
        if peer in answers.setdefault(key, {}) or key in final:
            return
        executions += 1
        is_right = not (lying[peer] and rng.random() < 0.5)
        agrees = tuple(other for other, said in answers[key].items() if said == is_right)
        answers[key][peer] = is_right
        perform(machine.handle(ResultArrived(key, peer, agrees).event(machine), 0.0))

    for _ in range(60 * tasks):
        machine.check()
        here = [peer for peer in lying if machine.caught(peer) is None]
        if open_tasks and rng.random() < 0.5:
            answer(open_tasks.popleft(), rng.choice(here))
        elif wanted:
            copy = wanted.popleft()
            if copy.task in machine._book.tasks:
                fit = [
                    peer
                    for number, peer in enumerate(lying)
                    if peer in here
                    and peer not in copy.exclude
                    and f"subnet-{number // 2}" not in copy.exclude_groups
                    and (not copy.trusted or machine._book.peers[peer].is_trusted)
                ]
                if fit:
                    answer(copy.task, rng.choice(fit))
                else:
                    perform(machine.handle(CopyImpossible(copy.task), 0.0))
        elif events:
            perform(machine.handle(events.pop(rng.randrange(len(events))), 0.0))
        elif not open_tasks:
            if len(final) == tasks:
                break
            perform(machine.handle(Concluded(), 0.0))
    assert len(final) == tasks, f"{tasks - len(final)} tasks never became final: {machine.snapshot()}"
    return executions / tasks, final


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("insist", [False, True])
@pytest.mark.parametrize("kind", ["spot", "adaptive", "quorum"])
def test_every_task_becomes_final_whatever_liars_do(kind: str, insist: bool, seed: int) -> None:
    policy = Policy(kind, audit_share=0.3, error_max=0.005, insist=insist)  # type: ignore[arg-type]
    executions, final = play(policy, seed, liars=0.3)
    assert executions < 6
    assert sum(final.values()) >= 0.97 * len(final)


@pytest.mark.parametrize("seed", range(6))
def test_every_task_becomes_final_without_an_own_device_too(seed: int) -> None:
    _, final = play(Policy(audit_share=0.3, error_max=0.01, own_device=False), seed, liars=0.1)
    assert sum(final.values()) >= 0.95 * len(final)


@pytest.mark.parametrize("kind", ["spot", "adaptive", "quorum"])
def test_among_the_honest_everything_is_right_and_nobody_is_caught(kind: str) -> None:
    _, final = play(Policy(kind, audit_share=0.2), 1, liars=0.0)  # type: ignore[arg-type]
    assert all(final.values())
