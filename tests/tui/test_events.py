"""What happened between two looks."""

from __future__ import annotations

from dataclasses import replace

from fake_daemon import OTHER, PEER

from peerinfer_tui.events import SINGLY_MAX, changes
from peerinfer_tui.pictures import (
    DevicePicture,
    Handover,
    JobPicture,
    NodePicture,
    PeerPicture,
    Reason,
    Snapshot,
)

CALM = Snapshot(
    NodePicture(peer_id=PEER, state="running", pid=1),
    peers=(PeerPicture(peer_id=OTHER, name="birch", state="alive"),),
    jobs=(JobPicture(job_id="0123456789abcdef", state="running", coordinator=PEER, items=1000),),
)


def happened(before: Snapshot, after: Snapshot) -> list[str]:
    return [each.text for each in changes(before, after, now_s=5.0)]


def test_nothing_happened_if_nothing_changed() -> None:
    assert happened(CALM, CALM) == []


def test_a_restart_and_a_new_state_are_told() -> None:
    after = replace(CALM, node=replace(CALM.node, pid=2, state="paused"))
    assert happened(CALM, after) == ["● the daemon was started again", "this node: ▲ paused"]


def test_a_jobs_life_is_told() -> None:
    before = replace(CALM, jobs=())
    assert happened(before, CALM) == ["job 01234567: ● running, 1,000 items"]
    taken_over = replace(CALM, jobs=(replace(CALM.jobs[0], coordinator=OTHER),))
    assert happened(CALM, taken_over) == ["job 01234567: coordinated by birch now"]
    done = replace(CALM, jobs=(replace(CALM.jobs[0], state="done"),))
    assert happened(CALM, done) == ["job 01234567: ✓ done"]


def test_peers_come_and_go_by_name() -> None:
    alone = replace(CALM, peers=())
    assert happened(alone, CALM) == ["birch joined"]
    assert happened(CALM, alone) == ["birch gone"]
    dead = replace(CALM, peers=(replace(CALM.peers[0], state="dead"),))
    assert happened(CALM, dead) == ["birch is dead"]
    assert happened(alone, dead) == []


def test_many_peers_at_once_are_counted() -> None:
    crowd = tuple(PeerPicture(peer_id=f"{index}", state="alive") for index in range(SINGLY_MAX + 1))
    assert happened(replace(CALM, peers=()), replace(CALM, peers=crowd)) == [f"{SINGLY_MAX + 1} peers joined"]
    lost = tuple(replace(peer, state="suspect") for peer in crowd)
    assert happened(replace(CALM, peers=crowd), replace(CALM, peers=lost)) == [f"{SINGLY_MAX + 1} peers are suspect"]


def test_a_new_term_is_told_with_its_time_and_its_reason() -> None:
    handover = Handover(2, OTHER, 3.0, "the lease of the one before ran out")
    after = replace(CALM, jobs=(replace(CALM.jobs[0], coordinator=OTHER, handovers=(handover,)),))
    (election,) = changes(CALM, after, now_s=5.0)
    assert (election.kind, election.at_s) == ("election", 3.0)
    assert election.text == "job 01234567: birch coordinates in term 2, the lease of the one before ran out"
    assert happened(after, after) == []


def test_a_devices_rest_and_return_are_told() -> None:
    works = replace(CALM, devices=(DevicePicture(name="RX 580"),))
    rests = replace(CALM, devices=(DevicePicture(name="RX 580", reasons=(Reason("too hot: 91 °C"),)),))
    assert happened(works, rests) == ["RX 580 rests: too hot: 91 °C"]
    assert happened(rests, works) == ["RX 580 works again"]


def test_what_goes_wrong_in_a_job_is_told() -> None:
    worse = replace(CALM, jobs=(replace(CALM.jobs[0], failed=2, audits_failed=1, blocked="no peer lends a GPU"),))
    assert happened(CALM, worse) == [
        "job 01234567: waits: no peer lends a GPU",
        "job 01234567: 2 tasks failed for good",
        "job 01234567: a check found a wrong result",
    ]


def test_a_rescued_job_begins_with_term_1_again() -> None:
    submitted, rescued = Handover(1, PEER, 1.0, "submitted"), Handover(1, PEER, 4.0, "its owner went on")
    before = replace(CALM, jobs=(replace(CALM.jobs[0], handovers=(submitted,)),))
    after = replace(CALM, jobs=(replace(CALM.jobs[0], handovers=(rescued,)),))
    assert happened(before, after) == ["job 01234567: this node coordinates in term 1, its owner went on"]
    assert happened(before, before) == []
