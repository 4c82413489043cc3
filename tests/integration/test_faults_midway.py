"""What goes away in the middle of a job costs no item. Every fault strikes while the job's progress shows it half done.

Until it has struck the others rest: else they might have done all before, or have left nothing to the one that is struck.
"""

import contextlib
import os
import signal

import models
import numpy as np
import pytest
from job_files import SLOW_ATOL, assert_adds_up, assert_same, write_model, write_npz
from swarm import suspended, wait_for

pytestmark = pytest.mark.slow

ITEMS = 160
"""Of about 30 ms each: some seconds for one volunteer."""

FEW = 100
"""Where the job waits until what is to happen has happened."""


@pytest.fixture(scope="module")
def slow_job(tmp_path_factory):
    """Model, inputs and what should come out of some seconds' work."""
    folder = tmp_path_factory.mktemp("slow")
    rows = np.linspace(-1, 1, ITEMS, dtype=np.float32).reshape(ITEMS, 1)
    model = write_model(folder / "slow.onnx", models.slow(20))
    return model, folder, rows


@pytest.fixture(scope="module")
def survivor(shared):
    return shared.join("survivor")


@pytest.fixture(scope="module")
def victims(shared):
    return []


@pytest.fixture
def victim(shared, victims):
    """The volunteer that the last test did something to, or another one where it does not volunteer any more."""
    last = victims[-1] if victims else None
    if last is not None and last.code is None and last.ask("GET", "/node")["state"] != "running":
        last.kill()
    if last is None or last.code is not None:
        victims.append(shared.join("victim"))
    return victims[-1]


@contextlib.contextmanager
def resting(daemon):
    """It takes no work meanwhile."""
    daemon.ask("POST", "/node/pause")
    try:
        yield
    finally:
        daemon.ask("POST", "/node/resume")


@pytest.fixture
def start(swarm, survivor, slow_job, tmp_path):
    """Starts the job on the survivor and another volunteer; gives the run, and a check of its end."""
    model, folder, rows = slow_job
    out = tmp_path / "out.npz"

    def started(*others, and_survivor=True, items=ITEMS):
        inputs = write_npz(folder / f"{items}.npz", x=rows[:items])
        addresses = [other.address for other in others] + [survivor.address] * and_survivor
        bootstrap = [part for address in addresses for part in ("--bootstrap", address)]
        run = swarm.start(
            "me", "run", model, inputs, "-o", out, "--json", "--timeout", "10m", *bootstrap, terminal=True
        )

        def finished():
            assert run.wait() == 0, run.told()
            assert_adds_up(run.json, items=items)
            assert_same(out, {"y": rows[:items]}, atol=SLOW_ATOL)
            return run.json

        return run, finished

    return started


def share_of(peer, summary):
    return {entry["peer_id"]: entry["tasks"] for entry in summary["peers"]}.get(peer.peer_id, 0)


def given_again(summary):
    """Tasks that somebody else got as well: after the first peer had failed, or because it was late and one was idle."""
    return summary["retried"] + summary["hedged"]


def test_the_process_of_a_device_killed_in_the_middle_costs_no_item_and_is_replaced(survivor, victim, start):
    with resting(survivor):
        run, finished = start(victim)
        run.wait_progress(0.2)
        killed = victim.worker_pid
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: victim.worker_pid not in (None, killed), timeout_s=60, saying="another process for the device")
        assert run.code is None, "the job was done before the device was back: nothing was tested"
    summary = finished()
    assert given_again(summary) > 0
    assert share_of(victim, summary) > 0


def test_the_process_that_checks_samples_killed_in_the_middle_costs_no_item(survivor, start):
    run, finished = start()
    run.wait_progress(0.1)
    os.kill(run.worker_pid, signal.SIGKILL)
    assert finished()["failed_items"] == []


def test_a_volunteer_that_falls_silent_loses_its_tasks_to_others_and_may_come_back(survivor, victim, start):
    with contextlib.ExitStack() as until_done:
        with resting(survivor):
            run, finished = start(victim)
            run.wait_progress(0.2)
            until_done.enter_context(suspended(victim.pid))
        summary = finished()
    assert given_again(summary) > 0
    assert share_of(survivor, summary) > 0
    assert wait_for(lambda: victim.ask("GET", "/node")["state"] == "running")


# --- the volunteer's hand on the switch ----------------------------------------------------------------------------


def test_a_paused_volunteer_computes_nothing_and_goes_on_when_resumed(shared, victim, start):
    run, finished = start(victim, and_survivor=False, items=FEW)
    run.wait_progress(0.1)
    victim.ask("POST", "/node/pause")  # at once; a command takes its time to start
    assert shared.run("victim", "pause", "--for", "1h").code == 0
    wait_for(lambda: victim.ask("GET", "/devices")[0]["state"] == "paused", timeout_s=60)
    status = shared.run("victim", "status", "--json").json
    assert status["state"] == "paused"
    assert "paused by its owner" in status["reasons"][0]["reason"]
    assert run.code is None
    done, items = run.progress
    assert done < items
    assert shared.run("victim", "resume").code == 0
    assert share_of(victim, finished()) > 0


def test_a_pause_survives_a_daemon_that_is_killed(shared, victim, victims):
    assert shared.run("victim", "pause").code == 0
    victim.kill()
    again = shared.join("victim")
    victims.append(again)
    assert again.peer_id == victim.peer_id
    assert again.ask("GET", "/node")["state"] == "paused"
    assert shared.run("victim", "resume").code == 0
    assert again.ask("GET", "/node")["state"] == "running"


def test_a_volunteer_that_finishes_ends_what_it_holds_and_takes_no_more(shared, survivor, victim, start):
    with resting(survivor):
        run, finished = start(victim)
        run.wait_progress(0.1)
        assert shared.run("victim", "finish").code == 0
        wait_for(lambda: victim.ask("GET", "/devices")[0]["state"] == "finishing", timeout_s=60)
        assert run.code is None, "the job was done before the volunteer had finished: nothing was tested"
    summary = finished()
    assert summary["retried"] == 0
    assert share_of(survivor, summary) > 0
    assert share_of(victim, summary) > 0


@pytest.mark.parametrize("how", ["leave", "terminate"])
def test_a_volunteer_that_leaves_hands_in_what_it_holds_and_ends_well(how, shared, survivor, victim, start):
    with resting(survivor):
        run, finished = start(victim)
        run.wait_progress(0.1)
        if how == "leave":
            assert shared.run("victim", "leave").code == 0
        else:
            victim.send(signal.SIGTERM)
        assert victim.wait(60) == 0, victim.told()
        assert run.code is None, "the job was done before the volunteer had left: nothing was tested"
    summary = finished()
    assert summary["retried"] == 0
    assert share_of(survivor, summary) > 0
    assert share_of(victim, summary) > 0


def test_a_volunteer_killed_in_the_middle_costs_no_item(survivor, victim, start):
    with resting(survivor):
        run, finished = start(victim)
        run.wait_progress(0.2)
        victim.kill()
    summary = finished()
    assert given_again(summary) > 0, "it held nothing when it was killed: nothing was tested"
    assert share_of(survivor, summary) > 0
    assert share_of(victim, summary) > 0
