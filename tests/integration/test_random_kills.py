"""A short form of `hundred_kills`, on a job that has lost one of its electors for good before."""

import random
import time

import models
import numpy as np
import pytest
from committees import Five
from hundred_kills import Killer, heal, run_through
from job_files import SLOW_ATOL, assert_same, write_model, write_npz
from swarm import wait_for

pytestmark = pytest.mark.slow

ITEMS, BATCH = 150, 3
KILLS = 3
SOONER = "import peerinfer.lease_profile as profile; profile.RESTARTS_WITHIN_S = 8.0"
"""A minute is what users give a machine to start again."""

REPLACED_WITHIN_S = 75.0
"""Three renewals and these seconds, and what a busy machine takes."""


def test_an_elector_that_is_gone_for_good_is_replaced_and_the_job_ends_right_whoever_is_killed_then(shared, tmp_path):
    shared.prelude = SOONER
    five = Five(shared)
    five.ensure_up()
    rows = np.linspace(-1, 1, ITEMS, dtype=np.float32).reshape(ITEMS, 1)
    model = write_model(tmp_path / "slow.onnx", models.slow(20))
    with five.idle():
        job = five.detach("ada", model, write_npz(tmp_path / "rows.npz", x=rows), BATCH)
        gone = next(name for name in job.committee if name not in ("ada", job.coordinator))
        five.kill(gone)

        def is_replaced():
            committee = job.seen().get("committee")  # nobody's, while somebody is elected
            return committee if committee and five[gone].peer_id not in committee else None

        committee = wait_for(is_replaced, timeout_s=REPLACED_WITHIN_S, saying=f"{gone} to be replaced")
        assert len(committee) == 3
        job.committee = [five.name_of(peer) for peer in committee]
        assert gone not in job.committee

    five.names = tuple(name for name in five.names if name != gone)  # It does not come back.
    killer = Killer(five, random.Random(5))
    view = run_through(job, killer, until_kills=KILLS, until_s=time.monotonic() + 60)
    assert view["state"] == "done", view
    assert killer.kills
    heal(job, killer)
    job.committee = [
        five.name_of(peer) for peer in job.seen()["committee"]
    ]  # Whoever was down for long was replaced too.
    entries = job.check_journals(tasks=ITEMS // BATCH)
    assert len(entries) == ITEMS // BATCH
    wait_for(lambda: (job.seen_by("ada") or {}).get("state") == "done", timeout_s=30, saying="ada to know")
    job.fetch("ada", tmp_path / "out.npz")
    assert_same(tmp_path / "out.npz", {"y": rows}, atol=SLOW_ATOL)
