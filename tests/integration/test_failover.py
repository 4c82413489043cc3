"""A detached job outlives every process that works at it. Each fault strikes while the job is on its way.

All rest until a test lets them compute, so that no job is over before it is struck. `test_random_kills` strikes while all
compute.
"""

import contextlib
import re
import sqlite3
import time

import models
import numpy as np
import pytest
from committees import Five
from job_files import SLOW_ATOL, assert_same, write_model, write_npz
from swarm import wait_for

from peerinfer.limits import EPOCHS_MAX

pytestmark = pytest.mark.slow

ITEMS = 150
"""Of up to a tenth of a second each."""

BATCH = 3
TASKS = ITEMS // BATCH
BEGUN = 8
"""Tasks that are final when a test begins."""

TAKEOVER_S_MAX = 15.0
"""The promise is a lease and a second, 4 s. A machine that also does other things is given more."""

GRACEFUL_S_MAX = 10.0
"""The promise is half a second. That it was no lease that ran out is told by the reason."""


@pytest.fixture(scope="module")
def slow_job(tmp_path_factory):
    """Model and inputs of some seconds' work for all five, and what should come out."""
    folder = tmp_path_factory.mktemp("slow")
    rows = np.linspace(-1, 1, ITEMS, dtype=np.float32).reshape(ITEMS, 1)
    return write_model(folder / "slow.onnx", models.slow(20)), write_npz(folder / "rows.npz", x=rows), {"y": rows}


@pytest.fixture(scope="module")
def running(shared):
    return Five(shared)


@pytest.fixture
def five(running):
    running.ensure_up()
    return running


@pytest.fixture
def job(five, slow_job):
    """On its way, coordinated by its submitter "ada", while all rest."""
    model, inputs, _ = slow_job
    with five.idle():
        detached = five.detach("ada", model, inputs, BATCH)
        with five.computing("ada"):
            detached.wait_final(BEGUN)
        yield detached


@pytest.fixture
def finished(five, slow_job, tmp_path):
    """Checks the end of a job that all work at: its state, its journals, and what its submitter fetches."""

    def check(job):
        with five.computing(*five.names):
            view = job.wait_ended()
        assert view["state"] == "done", view
        assert view["failed_tasks"] == 0, view
        five.ensure_up(job.submitter)
        wait_for(lambda: (job.seen_by(job.submitter) or {}).get("state") == "done", saying="the submitter to know")
        entries = job.check_journals(tasks=TASKS)
        job.fetch(job.submitter, tmp_path / "out.npz")
        assert_same(tmp_path / "out.npz", slow_job[2], atol=SLOW_ATOL)
        return view, entries

    return check


def report(record_property, name, seconds):
    record_property(name, round(seconds, 2))
    print(f"{name}: {seconds:.2f} s")


def test_a_detached_job_survives_its_submitter_and_the_next_coordinator(five, job, finished, record_property):
    before = job.wait_final(BEGUN)
    assert five.name_of(before["coordinator"]) == "ada"
    assert before["survives"]
    killed_s = five.kill("ada")
    second = job.wait_term(before["term"], but=("ada",))
    report(record_property, "submitter killed, taken over after", time.monotonic() - killed_s)
    assert time.monotonic() - killed_s < TAKEOVER_S_MAX
    assert second["final"] >= before["final"], "a result that was final is not any more"
    next_name = five.name_of(second["coordinator"])
    assert next_name in job.committee
    with five.computing(next_name):
        job.wait_final(second["final"] + 1, but=("ada",))
    five.ensure_up("ada")
    # Its list shows the job as far as whoever coordinates it says, not as far as its own journal went.
    listed = wait_for(lambda: _listed_as_running(five["ada"], job), saying=lambda: f"its list: {job.seen()}")
    assert five.name_of(listed["coordinator"]) == next_name
    assert listed["accepted"] >= second["final"]
    before = job.wait_term(before["term"])
    killed_s = five.kill(next_name)
    third = job.wait_term(before["term"], but=(next_name,))
    report(record_property, "second coordinator killed, taken over after", time.monotonic() - killed_s)
    assert time.monotonic() - killed_s < TAKEOVER_S_MAX
    five.ensure_up(next_name)
    view, _ = finished(job)
    terms = [(handover["term"], five.name_of(handover["coordinator"])) for handover in view["handovers"]]
    assert [name for _, name in terms][:2] == ["ada", next_name]
    assert terms[2][0] == third["term"]
    assert "did not renew" in view["handovers"][1]["why"]
    wait_for(lambda: not job.left_on_disks(), timeout_s=60, saying=lambda: f"nothing left: {job.left_on_disks()}")
    # What came home stays there, also when nobody else has it any more.
    assert (five.home("ada") / "jobs" / f"{job.id}.spool").stat().st_size > 0


def _listed_as_running(daemon, job):
    listed = [each for each in daemon.ask("GET", "/jobs") if each["job_id"] == job.id]
    return listed[0] if listed and listed[0]["state"] == "running" else None


def test_a_coordinator_that_leaves_hands_over_at_once(five, job, finished, record_property):
    before = job.wait_final(BEGUN)
    name = five.name_of(before["coordinator"])
    asked = five.swarm.start(name, "leave")
    ended = wait_for(lambda: _left_at(five[name]), timeout_s=40, saying=f"{name} to leave")
    after = job.wait_term(before["term"], but=(name,))
    assert asked.wait() == 0
    assert five[name].wait() == 0
    seconds = _took_over_at(after) - ended
    report(record_property, "coordinator left, taken over after", seconds)
    assert seconds < GRACEFUL_S_MAX
    assert after["handovers"][-1]["why"] == "the lease was given back"
    finished(job)


def _left_at(daemon):
    """When it lost its lease, by its own log."""
    return next((event["time"] for event in daemon.events() if event["event"] == "lease lost"), None)


def _took_over_at(view):
    return view["handovers"][-1]["at"]


def test_a_coordinator_that_was_stopped_past_its_lease_does_nothing_when_it_wakes(five, job, finished):
    before = job.wait_final(BEGUN)
    old = five.name_of(before["coordinator"])
    with five.stopped(old):
        after = job.wait_term(before["term"], but=(old,))
        with five.computing(five.name_of(after["coordinator"])):
            job.wait_final(after["final"] + 1, but=(old,))
        woken_s = time.time()

    def has_stepped_down():
        return any(event["event"] == "lease lost" and event["time"] >= woken_s for event in five[old].events())

    wait_for(has_stepped_down, timeout_s=20, saying=f"{old} to notice that its lease is over")

    def follows():
        view = job.seen_by(old)
        return view if view is not None and view["term"] >= after["term"] else None

    view = wait_for(follows, timeout_s=20, saying=f"{old} to follow the new term")
    assert five.name_of(view["coordinator"]) != old or view["term"] > after["term"], (
        "it coordinates in a term of others"
    )
    finished(job)
    chain = job.journal(next(name for name in job.committee if name != old))
    late = [
        chain.batch(sequence)
        for sequence in range(chain.end)
        if chain.batch(sequence).term.candidate == five[old].peer_id
        and chain.batch(sequence).term.round <= before["term"]
        and chain.batch(sequence).at_s > woken_s
    ]
    assert late == [], "it wrote into the journal after its lease was over"


def test_a_committee_without_its_quorum_pauses_the_job_says_so_and_goes_on(five, job, finished):
    before = job.wait_final(BEGUN)
    down = [name for name in job.committee if name != job.submitter][:2]
    alone = next(name for name in job.committee if name not in down)
    for name in down:
        five.kill(name)

    def pauses():
        view = job.seen_by(alone)
        return view if view and view["state"] == "paused" and "of 3 electors" in view["blocked"] else None

    with five.computing(*five.names):
        paused = wait_for(pauses, timeout_s=30, saying="the job to pause")

        def names_both():
            return all(five[name].peer_id in job.seen_by(alone)["blocked"] for name in down)

        wait_for(names_both, timeout_s=20, saying="both electors to be missed")
        shown = five.swarm.run(alone, "jobs", "show", job.id)
    assert shown.code == 0, shown.told()
    assert "paused" in shown.stdout
    assert "of 3 electors" in shown.stdout
    final = paused["final"]
    assert final >= before["final"]
    five.ensure_up(down[0])
    with five.computing(*five.names):
        after = job.wait_more(final)
    assert after["term"] > before["term"]
    five.ensure_up()
    finished(job)


def test_the_submitter_may_cancel_while_another_coordinates(five, job):
    before = job.wait_final(BEGUN)
    five.kill("ada")
    job.wait_term(before["term"], but=("ada",))
    five.ensure_up("ada")
    cancelled = five.swarm.run("ada", "jobs", "cancel", job.id)
    assert cancelled.code == 0, cancelled.told()
    assert job.wait_ended()["state"] == "cancelled"
    wait_for(lambda: (job.seen_by("ada") or {}).get("state") == "cancelled", timeout_s=30)
    job.check_journals(tasks=TASKS, state="cancelled")


def test_coordinator_and_workers_killed_together_and_the_submitter_comes_back_to_watch(five, job, finished):
    before = job.wait_final(BEGUN)
    for name in ("ada", *(name for name in five.names if name not in job.candidates)):
        five.kill(name)
    after = job.wait_term(before["term"], but=("ada",))
    assert after["final"] >= before["final"]
    five.ensure_up("ada")
    attached = five.swarm.start("ada", "jobs", "attach", job.id, "--json", terminal=True)
    attached.wait_progress(0.0)
    with five.computing(*five.names):
        assert attached.wait() == 0, attached.told()
    assert attached.json["state"] == "done"
    finished(job)


# --- electors ----------------------------------------------------------------------------------------------------------


def test_an_elector_killed_and_started_again_keeps_its_journal_and_its_promises(five, job, finished):
    before = job.wait_final(BEGUN)
    coordinator = five.name_of(before["coordinator"])
    elector = next(name for name in job.committee if name != coordinator)
    for _ in range(2):
        five.kill(elector)
        promised, held = seat_of(five, elector, job), len(job.journal(elector))
        five.ensure_up(elector)
        final = job.seen()["final"]
        with five.computing(coordinator):
            job.wait_more(final)
        assert len(job.journal(elector)) >= held
        assert seat_of(five, elector, job) >= promised
    view, _ = finished(job)
    assert view["term"] == before["term"], "losing one elector must not cost the coordinator its lease"


def seat_of(five, name, job):
    """Round and candidate that the elector has promised, as it stands on its disk; None where it has no seat."""
    with contextlib.closing(_seats(five, name)) as connection:
        query = "SELECT promised_round, promised_candidate FROM seats WHERE job = ?"
        return connection.execute(query, (job.id,)).fetchone()


def _seats(five, name):
    return sqlite3.connect(f"file:{five.home(name) / 'seats.db'}?mode=ro", uri=True, timeout=10)


def test_the_owner_goes_on_without_a_quorum_and_nobody_follows_the_old_one(five, job, slow_job, tmp_path):
    before = job.wait_final(BEGUN)
    lost = [name for name in job.committee if name != "ada"][:2]
    for name in lost:  # Two are a quorum: the third elector may hear of the job late.
        wait_for(lambda name=name: seat_of(five, name, job), saying=f"{name} to take its seat")
    refused = five.swarm.run("ada", "jobs", "rescue", job.id, "--yes")
    assert refused.code == 2, refused.told()
    assert re.search(r"needs no rescue: [23] of 3 electors answer, 2 are needed", refused.stderr), refused.told()
    for name in lost:
        five.kill(name)
    with five.computing(*five.names):
        paused = wait_for(lambda: _paused(job), timeout_s=60, saying=lambda: f"a pause: {job.seen_by('ada')}")
    assert f"peerinfer jobs rescue {job.id[:8]}" in paused["blocked"]
    assert set(paused["missing"]) == {five[name].peer_id for name in lost}
    unasked = five.swarm.run("ada", "jobs", "rescue", job.id)
    assert unasked.code == 2, unasked.told()
    assert "add --yes" in unasked.stderr
    assert (job.seen_by("ada") or {})["generation"] == 0
    rescued = five.swarm.run("ada", "jobs", "rescue", job.id[:8], "--yes", "--json")
    assert rescued.code == 0, rescued.told()
    assert rescued.json["generation"] == 1
    assert not set(rescued.json["committee"]) & {five[name].peer_id for name in lost}
    assert 0 < rescued.json["carried"] <= TASKS
    assert rescued.json["carried"] >= before["final"], "a result that was final on a quorum and is at hand is gone"
    # Those that were lost come back, and do not know.
    five.ensure_up(*lost)
    with five.computing(*five.names):
        view = job.wait_ended(timeout_s=180)
    assert view["state"] == "done", view
    assert view["generation"] == 1
    assert view["term"] < 100, "terms are counted anew"
    job.fetch("ada", tmp_path / "out.npz")
    told = job.seen_by("ada")["handovers"]
    assert (told[0]["generation"], told[0]["why"]) == (0, "submitted")
    after = next(each for each in told if each["generation"] == 1)
    assert "went on without these electors: " in after["why"]
    assert all(five[name].peer_id in after["why"] for name in lost)
    assert_same(tmp_path / "out.npz", slow_job[2], atol=SLOW_ATOL)
    for name in lost:
        wait_for(lambda name=name: _is_fenced(five, name, job), timeout_s=30, saying=f"{name} to hear of it")
        assert job.seen_by(name)["reason"] == "its owner named another committee"
    over = five.swarm.run("ada", "jobs", "rescue", job.id, "--yes")
    assert over.code == 2, over.told()
    assert "has ended already: done" in over.stderr


def _is_fenced(five, name, job):
    """It has the owner's word on its disk, and has ended the job for itself. A seat that was taken is never lost."""
    with contextlib.closing(_seats(five, name)) as connection:
        row = connection.execute("SELECT epoch FROM seats WHERE job = ?", (job.id,)).fetchone()
    assert row is not None, f"{name} has no seat of the job any more: {five[name].told()}"
    return row[0] >= EPOCHS_MAX and (job.seen_by(name) or {}).get("state") == "cancelled"


def _paused(job):
    view = job.seen_by("ada")
    return view if view is not None and view["state"] == "paused" and view["missing"] else None


# Last in this file: for CLOCK_SKEW_MAX_S after the loss, that elector refuses new jobs as well.
def test_an_elector_that_lost_its_memory_refuses_the_jobs_from_before(five, job, finished):
    job.wait_final(BEGUN)
    elector = next(name for name in job.committee if name != "ada")
    five.kill(elector)
    seats = five.home(elector) / "seats.db"
    seats.write_bytes(b"this was a database" * 500)
    seats.with_name("seats.db-wal").unlink(missing_ok=True)  # else SQLite would bring the whole file back from it
    five.ensure_up(elector)
    assert "seats.db could not be used" in five[elector].stderr
    assert (five.home(elector) / "seats.db.corrupt-1").exists()
    with five.computing(*five.names):
        assert job.wait_ended()["state"] == "done"
    assert seat_of(five, elector, job) is None
