"""Whatever the daemon says is a snapshot."""

from __future__ import annotations

import math

from fake_daemon import PEER, picture
from hypothesis import given
from hypothesis import strategies as st
from lively_swarm import answers as lively_answers
from lively_swarm import read_snapshot

from peerinfer.limits import NAME_CHARS_MAX
from peerinfer_tui.attention import attention
from peerinfer_tui.device_view import device_page, node_page
from peerinfer_tui.events import changes
from peerinfer_tui.job_view import job_page, job_sheet
from peerinfer_tui.overview_view import contribution_lines, node_line, swarm_lines
from peerinfer_tui.peer_view import peer_page, peer_sheet
from peerinfer_tui.pictures import Reason
from peerinfer_tui.snapshot import clean, read_job
from peerinfer_tui.words import names_in

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,  # more takes all the time to make and is read in the same way
)
ANSWERS = [*picture().values(), *lively_answers().values(), [lively_answers()["/api/v1/jobs"][0]["handovers"][0]]]
RECORDS = [each for answer in ANSWERS for each in ([answer] if isinstance(answer, dict) else answer)]
FIELDS = sorted({field for record in RECORDS for field in record})
RECORD = st.dictionaries(st.sampled_from(FIELDS), JSON)


def test_the_answers_of_a_healthy_daemon_are_read_whole() -> None:
    answers = picture()
    snapshot = read_snapshot(*(answers[f"/api/v1/{name}"] for name in ("node", "devices", "peers", "jobs")))
    assert (snapshot.node.peer_id, snapshot.node.name, snapshot.node.alive) == (PEER, "alder", 1)
    assert snapshot.devices[0].memory_bytes == 16 << 30
    assert snapshot.devices[0].gemm_gflops == 210
    assert snapshot.devices[0].power_w is None
    assert snapshot.peers[0].devices[0].name == "cpu"
    assert (snapshot.jobs[0].tasks, snapshot.jobs[0].accepted, snapshot.jobs[0].failed) == (100, 40, 0)


@given(st.tuples(RECORD | JSON, *[st.lists(RECORD, max_size=4) | JSON] * 3), st.integers(1, 250))
def test_any_json_can_be_shown_at_any_width(answers: tuple[object, ...], width: int) -> None:
    snapshot = read_snapshot(*answers)
    node_line(snapshot.node, width)
    attention(snapshot, 0.0)
    changes(snapshot, snapshot, 0.0)
    swarm_lines(snapshot, width), contribution_lines(snapshot), device_page(snapshot, width, 0.0)
    node_page(snapshot.node, width, 0.0)
    for sheet in (job_sheet(snapshot), peer_sheet(snapshot)):
        headings = sheet.headings(width)
        for index in range(len(sheet.records)):
            sheet.row(index, headings)
    for job in (*snapshot.jobs, read_job(answers[0])):
        job_page(job, names_in(snapshot), width)
    for peer in snapshot.peers:
        peer_page(peer, width)


def test_devices_of_a_peer_may_be_names_or_objects() -> None:
    peers = [{"devices": ["cpu", {"name": "Radeon"}, 3]}]
    (peer,) = read_snapshot({}, [], peers, []).peers
    assert [device.name for device in peer.devices] == ["cpu", "Radeon", ""]


def test_failed_tasks_are_counted_even_where_only_some_are_listed() -> None:
    jobs = read_snapshot(
        {}, [], [], [{"job_id": "a", "failed": [3, 5]}, {"job_id": "b", "failed": [{}, {}], "failed_tasks": 4000}]
    ).jobs
    assert [job.failed for job in jobs] == [2, 4000]


def test_reasons_keep_their_end() -> None:
    node = read_snapshot({"reasons": [{"reason": "by hand", "until": 90.0}, "too hot", {"until": 1}]}, [], [], []).node
    assert node.reasons == (Reason("by hand", 90.0), Reason("too hot"))


def test_numbers_that_are_none_read_as_unknown() -> None:
    for rtt in ("12", True, math.nan, math.inf, 10**400, None):
        assert read_snapshot({}, [], [{"rtt_ms": rtt}], []).peers[0].rtt_ms is None


def test_a_stranger_cannot_write_to_the_terminal_through_a_name() -> None:
    assert clean("\x1b]0;owned\x07bi\x9brch\u202egnp\n2") == "]0;owned bi rch gnp 2"
    assert clean("Ulme 🌳 榆树") == "Ulme 🌳 榆树"
    assert len(clean("x" * 10_000)) == NAME_CHARS_MAX
