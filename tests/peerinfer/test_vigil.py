"""When an owner's node goes on by itself with a job of which a quorum is missing, and when it leaves that to a person."""

from __future__ import annotations

import pytest

from peerinfer.limits import GENERATIONS_MAX
from peerinfer.vigil import (
    COMPANY_MAX,
    COMPANY_S,
    GENERATIONS_ALONE_MAX,
    GOES_ON_AFTER_S,
    LOOKS_EVERY_S,
    SLEPT_S,
    Company,
    Vigil,
    objection,
)

ELECTORS = ("ada", "bob", "cem")


def watched(vigil, *, from_s, to_s, is_missing=True, every_s=LOOKS_EVERY_S):
    now_s = from_s
    while now_s <= to_s:
        vigil.look(now_s, is_missing=is_missing)
        now_s += every_s
    return vigil.is_over(to_s)


def test_it_is_over_when_a_quorum_has_been_missing_for_long_enough_and_not_a_moment_sooner():
    vigil = Vigil()
    watched(vigil, from_s=0.0, to_s=100.0, is_missing=False)
    watched(vigil, from_s=105.0, to_s=400.0)
    assert not vigil.is_over(105.0 + GOES_ON_AFTER_S - 0.001)
    assert vigil.is_over(105.0 + GOES_ON_AFTER_S)
    assert vigil.left_s(105.0 + GOES_ON_AFTER_S) == vigil.left_s(106.0 + GOES_ON_AFTER_S) == 0.0
    assert vigil.left_s(106.0) == GOES_ON_AFTER_S - 1.0
    vigil.look(405.0, is_missing=False)
    assert not vigil.is_over(500.0), "it is back"


def test_a_quorum_that_comes_and_goes_is_waited_for_anew():
    vigil, now_s = Vigil(), 0.0
    for _ in range(10):
        assert not watched(vigil, from_s=now_s, to_s=now_s + GOES_ON_AFTER_S - 1)
        now_s += GOES_ON_AFTER_S
        vigil.look(now_s, is_missing=False)
        now_s += 1.0


@pytest.mark.parametrize(("asleep_s", "is_over"), [(SLEPT_S, True), (SLEPT_S + 0.001, False)])
def test_a_machine_that_slept_has_yet_to_see_who_is_there(asleep_s, is_over):
    vigil = Vigil()
    watched(vigil, from_s=0.0, to_s=GOES_ON_AFTER_S - SLEPT_S)
    woken_s = GOES_ON_AFTER_S - SLEPT_S + asleep_s
    vigil.look(woken_s, is_missing=True)
    assert vigil.is_over(woken_s) is is_over


@pytest.mark.parametrize("case", ["asleep", "over in vain", "back for a moment"])
def test_those_who_were_there_when_the_quorum_went_count_however_often_it_is_waited_for_anew(case):
    """Four of ten are not the larger part of them."""
    vigil, company, now_s = Vigil(), Company(), 0.0
    everybody = [f"node {n}" for n in range(9)]

    def look(alive, *, is_missing):
        vigil.look(now_s, is_missing=is_missing)
        company.note(now_s, alive, [], (vigil.gone_s if vigil.gone_s is not None else now_s) - COMPANY_S)

    look(everybody, is_missing=False)
    for _ in range(3):
        for _ in range(int(GOES_ON_AFTER_S / LOOKS_EVERY_S) + 1):
            now_s += LOOKS_EVERY_S
            look(everybody[:3], is_missing=True)
        assert vigil.is_over(now_s)
        assert company.share(everybody[:3], vigil.gone_s - COMPANY_S, (), "me") == (4, 10)
        if case == "over in vain":
            vigil.begin_anew()
        elif case == "asleep":
            now_s += SLEPT_S
        else:
            look(everybody[:3], is_missing=False)
            assert not vigil.is_over(now_s)
    look(everybody[:3], is_missing=True)
    for _ in range(int(COMPANY_S / LOOKS_EVERY_S) + 1):
        assert vigil.gone_s is not None
        now_s += LOOKS_EVERY_S
        look(everybody, is_missing=False)
    assert vigil.gone_s is None, "it is back"


def test_a_vigil_that_was_over_in_vain_begins_anew():
    vigil = Vigil()
    assert watched(vigil, from_s=0.0, to_s=GOES_ON_AFTER_S)
    vigil.begin_anew()
    assert not watched(vigil, from_s=GOES_ON_AFTER_S + 5.0, to_s=2 * GOES_ON_AFTER_S)


@pytest.mark.parametrize(
    ("there", "known", "may_be_led", "goes_on"),
    [
        (3, 5, True, True),
        (2, 4, True, False),  # Of two halves both would.
        (2, 3, True, True),
        (1, 3, True, False),  # A laptop without its network sees this as well.
        (1, 1, True, True),
        (1, 3, False, True),  # Nobody else has the inputs: there is nothing to be seen from here.
    ],
)
def test_it_goes_on_where_it_sees_most_of_those_that_were_there_or_nobody_else_could(there, known, may_be_led, goes_on):
    against = objection(there, known, 0, may_be_led=may_be_led)
    assert (not against) is goes_on
    assert goes_on or f"{there} of {known}" in against


def test_a_job_that_loses_its_quorum_again_and_again_is_left_to_a_person():
    assert not objection(5, 5, GENERATIONS_ALONE_MAX - 1, may_be_led=True)
    assert "lost its quorum 9 times" in objection(5, 5, GENERATIONS_ALONE_MAX, may_be_led=False)
    assert GENERATIONS_ALONE_MAX < GENERATIONS_MAX / 2, "most are the owner's own to begin"


def test_those_count_who_were_there_shortly_before_and_the_electors_and_no_one_who_said_goodbye():
    company = Company()
    company.note(0.0, ["old"], [], 0.0)
    company.note(100.0, ["ada", "bob", "eve", "guest"], [], 0.0)
    lost_s = 100.0 + COMPANY_S
    company.note(lost_s, ["ada", "eve"], ["guest"], lost_s - COMPANY_S)
    assert company.share(["ada", "eve"], lost_s - COMPANY_S, ELECTORS, "me") == (3, 5)
    assert company.share(["ada", "eve"], lost_s - COMPANY_S + 0.001, (), "me") == (3, 3)
    assert company.share([], lost_s - COMPANY_S, ELECTORS, "ada") == (1, 4), "a node that elects counts once"


def test_after_a_restart_the_electors_alone_are_known_to_have_been_there():
    assert Company().share([], -COMPANY_S, ELECTORS, "me") == (1, 4)


def test_names_that_come_and_go_do_not_pile_up():
    company = Company()
    company.note(0.0, [f"first {n}" for n in range(COMPANY_MAX)], [], 0.0)
    assert company.share([], 0.0, (), "me")[1] == COMPANY_MAX + 1
    company.note(1.0, ["late"], [], 0.0)
    assert company.share(["late"], 0.0, (), "me") == (2, COMPANY_MAX + 1), "those seen last are kept"
