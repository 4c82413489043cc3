"""What happened between two looks."""

from __future__ import annotations

from dataclasses import replace

from fake_daemon import OTHER, PEER

from peerinfer_tui.events import SINGLY_MAX, changes
from peerinfer_tui.snapshot import JobPicture, NodePicture, PeerPicture, Snapshot

CALM = Snapshot(
    NodePicture(peer_id=PEER, state="running", pid=1),
    peers=(PeerPicture(peer_id=OTHER, name="birch", state="alive"),),
    jobs=(JobPicture(job_id="0123456789abcdef", state="running", coordinator=PEER, items=1000),),
)


def happened(before: Snapshot, after: Snapshot) -> list[str]:
    return ["".join(text for text, _ in line) for line in changes(before, after)]


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
