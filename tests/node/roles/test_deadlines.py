"""A deadline runs on after a takeover where it was, whatever the clocks of those who coordinate say."""

import pytest
from lease_setting import Setting, term

from peerinfer.journal import Chain
from peerinfer_node.roles.live_job import spent_s

YEAR_S = 365 * 86400.0
SETTING = Setting()


def journal(*terms):
    """For each term: who holds it, by how much its clock is wrong, and when it wrote, in seconds of true time."""
    chain = Chain()
    for round_, (number, wrong_s, times) in enumerate(terms, 1):
        for place, at_s in enumerate(times):
            event = "" if place else "takeover" if len(chain) else "accepted"
            tasks = [] if event else [len(chain)]
            chain.take(SETTING.batch(chain, term(round_, number), tasks, event=event, at_s=at_s + wrong_s))
    return chain


def test_before_the_first_term_nothing_is_spent():
    assert spent_s(Chain()) == 0.0


@pytest.mark.parametrize("wrong_s", [0.0, 3600.0, -3600.0, YEAR_S, -YEAR_S])
def test_what_is_spent_is_the_time_of_each_term_by_its_own_clock(wrong_s):
    chain = journal((0, wrong_s, (1e9, 1e9 + 10, 1e9 + 30)), (1, 0.0, (1e9 + 34, 1e9 + 40)), (2, -wrong_s, (1e9 + 44,)))
    assert spent_s(chain) == pytest.approx(30 + 6)


def test_a_clock_that_is_set_back_within_a_term_gives_no_time_back():
    assert spent_s(journal((0, 0.0, (1e9, 1e9 + 10)), (1, 0.0, (1e9 + 20, 1e9 - 500)))) == pytest.approx(10)
