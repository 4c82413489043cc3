"""A job that is detached from a command's own node, in the moment in which that node opens: whole nodes, virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peerinfer.errors import TooFewElectors
from peerinfer_node.roles import submitting
from peerinfer_sim import scenario
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.whole import WholeWorld


def hasty_world() -> WholeWorld:
    """Whoever submits is no daemon, and has heard of nobody yet."""
    calm = replace(scenario.load("failover").smaller(nodes=5, items=40), faults=())
    me, *others = calm.groups
    hasty = replace(calm, groups=(replace(me, daemon=False), *others), job=replace(calm.job, submit_at_s=0.01))
    return WholeWorld(hasty, 1, EventLog())


def test_a_node_that_has_just_opened_waits_until_it_knows_enough_daemons_to_detach_a_job() -> None:
    outcome = hasty_world().run()
    assert outcome.final == outcome.tasks == 40


def test_where_too_few_daemons_turn_up_it_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "ELECTORS_KNOWN_WITHIN_S", 0.3)
    with pytest.raises(TooFewElectors, match=r"needs three daemons .*, \d can be reached"):
        hasty_world().run()
