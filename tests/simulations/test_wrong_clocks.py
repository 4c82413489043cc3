"""A submitter whose wall clock is wrong: its detached job is taken and ends as any other, or it is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from peerinfer.errors import PeerinferError
from peerinfer_sim import scenario
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.whole import WholeWorld

HOUR_S, YEAR_S = 3600.0, 365 * 86400.0
ITEMS = 40


class SkewedWorld(WholeWorld):
    """A calm world of daemons, of which the submitter's clock is wrong."""

    def __init__(
        self, wrong_s: float, *, items: int = ITEMS, deadline_s: float | None = None, crashes: bool = False
    ) -> None:
        found = scenario.load("failover").smaller(nodes=6, items=items)
        crash = replace(found.faults[0], count=1, between_s=(2.0, 2.5), lasts_s=0.0)
        super().__init__(replace(found, faults=(crash,) if crashes else ()), 1, EventLog())
        self._wrong_s = wrong_s

    def _start_nodes(self, nursery: trio.Nursery) -> None:
        super()._start_nodes(nursery)
        self._submitter._clock._wall_offset_s += self._wrong_s


@pytest.mark.parametrize("wrong_s", [HOUR_S, -600.0, 0.0], ids=["an hour ahead", "ten minutes behind", "right"])
def test_a_clock_that_is_a_little_wrong_does_no_harm(wrong_s: float) -> None:
    outcome = SkewedWorld(wrong_s).run()
    assert (outcome.tasks, outcome.final, outcome.failed) == (ITEMS, ITEMS, 0)


@pytest.mark.parametrize(
    ("wrong_s", "said"),
    [
        (-HOUR_S, "every peer is .* ahead of it: set the clock"),
        (-YEAR_S, "every peer is 36[45]d.* ahead of it: set the clock"),
        (YEAR_S, "the job is dated 36[45]d.* in the future, by this elector's clock; is the submitter's clock right?"),
    ],
    ids=["an hour behind", "a year behind", "a year ahead"],
)
def test_a_clock_that_is_too_wrong_is_named_in_one_line_and_nothing_is_left_behind(wrong_s: float, said: str) -> None:
    world = SkewedWorld(wrong_s)
    with pytest.raises(PeerinferError, match=said) as raised:
        world.run()
    assert "\n" not in str(raised.value)
