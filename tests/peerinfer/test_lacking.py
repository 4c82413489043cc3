"""How often an elector is given more of a journal at its own word."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import SAME_EVERY_TIME

from peerinfer.lacking import STEPS_BACK_MAX, Lacking

BATCHES = 128
PER_MESSAGE = 16


def sent(words: Iterable[int]) -> list[int]:
    """Batches that went to an elector that says one after the other that it lacks these and all behind them."""
    lacking, found = Lacking(), []
    for first in words:
        if lacking.is_getting_on((first, 0)):
            found.append(min(PER_MESSAGE, BATCHES - first))
            lacking.give(first + found[-1])
    return found


def test_an_elector_that_takes_what_it_is_given_gets_all_from_where_the_journals_part() -> None:
    back = range(BATCHES - 1, BATCHES - 1 - STEPS_BACK_MAX - 1, -1)
    ahead = range(back[-1] + PER_MESSAGE, BATCHES, PER_MESSAGE)
    assert len(sent(back)) == 1 + STEPS_BACK_MAX
    assert len(sent([*back, *ahead])) == 1 + STEPS_BACK_MAX + len(ahead)
    assert sum(sent(range(0, BATCHES, PER_MESSAGE))) == BATCHES


def test_a_step_back_too_many_is_not_followed() -> None:
    words = range(BATCHES - 1, BATCHES - 1 - STEPS_BACK_MAX - 2, -1)
    assert len(sent(words)) == len(words) - 1


def test_who_goes_ahead_by_less_than_it_was_given_gets_no_more() -> None:
    assert sent([0, 1, 2, PER_MESSAGE - 1]) == [PER_MESSAGE]
    assert sent([0, PER_MESSAGE, PER_MESSAGE + 1, 2 * PER_MESSAGE]) == [PER_MESSAGE] * 3


def test_a_snapshot_is_taken_part_by_part_and_then_the_batches_behind_it() -> None:
    lacking = Lacking()
    assert all(lacking.is_getting_on((3, held)) for held in range(0, 1000, 100))
    assert not lacking.is_getting_on((3, 899))
    assert lacking.is_getting_on((50, 0))


@SAME_EVERY_TIME
@given(words=st.lists(st.integers(0, BATCHES - 1), max_size=80))
def test_whatever_an_elector_says_it_is_given_the_journal_once_and_a_few_messages_more(words: list[int]) -> None:
    there_and_back = [*range(BATCHES - 1, -1, -1), *range(BATCHES)]
    for said in (words, there_and_back):
        assert sum(sent(said)) <= BATCHES + (1 + STEPS_BACK_MAX) * PER_MESSAGE
