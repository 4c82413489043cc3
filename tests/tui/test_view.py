"""What the tables and lines say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_daemon import OTHER, PEER

from peerinfer_tui.snapshot import DevicePicture, JobPicture, NodePicture, PeerPicture, Reason, Snapshot
from peerinfer_tui.view import (
    COLUMN_GAP,
    ROWS_MAX,
    Line,
    Table,
    attention,
    device_table,
    job_table,
    node_line,
    peer_name,
    peer_table,
    progress,
    provider_name,
    rate,
    remaining_s,
    short_id,
    state_span,
)

NODE = NodePicture(peer_id=PEER, name="alder", state="running", reachability="direct", sandbox="full", alive=3)
JOB = JobPicture(job_id="0123456789abcdef", state="running", items=1000, tasks=100, accepted=40, elapsed_s=4.0)


def words(line: Line) -> str:
    return "".join(text for text, _ in line)


def column(table: Table, title: str) -> list[str]:
    index = [heading.title for heading in table.headings].index(title)
    return [words(row.cells[index]).strip() for row in table.rows]


@pytest.mark.parametrize("width", range(1, 220, 7))
@pytest.mark.parametrize("lay", [device_table, job_table, peer_table])
def test_a_table_never_takes_more_cells_than_it_is_given(lay: object, width: int) -> None:
    snapshot = Snapshot(NODE, (DevicePicture(name="cpu"),), (PeerPicture(peer_id=OTHER),), (JOB,))
    table: Table = lay(snapshot, width)  # type: ignore[operator]
    taken = sum(heading.width + COLUMN_GAP for heading in table.headings)
    assert taken <= width or len(table.headings) == 1


def test_what_matters_most_stays_in_a_narrow_table() -> None:
    titles = [heading.title for heading in job_table(Snapshot(NODE, jobs=(JOB,)), 45).headings]
    assert titles == ["job", "state", "progress"]


def test_at_eighty_columns_jobs_show_progress_speed_and_coordinator() -> None:
    titles = [heading.title for heading in job_table(Snapshot(NODE, jobs=(JOB,)), 76).headings]
    assert {"job", "state", "progress", "items/s", "coordinator"} <= set(titles)


def test_at_eighty_columns_peers_show_name_state_path_round_trip_and_devices() -> None:
    titles = [heading.title for heading in peer_table(Snapshot(NODE), 76).headings]
    assert {"peer", "state", "path", "rtt", "devices"} <= set(titles)


def test_peers_that_live_come_first_and_keep_their_order() -> None:
    peers = [
        PeerPicture(peer_id="d", name="d", state="dead"),
        PeerPicture(peer_id="s", name="s", state="suspect"),
        PeerPicture(peer_id="b", name="b", state="alive"),
        PeerPicture(peer_id="a", name="a", state="alive"),
    ]
    assert column(peer_table(Snapshot(NODE, peers=tuple(peers)), 80), "peer") == ["a", "b", "s", "d"]


def test_jobs_under_way_come_before_those_that_ended() -> None:
    states = ["done", "queued", "failed", "running"]
    jobs = tuple(replace(JOB, job_id=f"{index:016x}", state=state) for index, state in enumerate(states))
    shown = column(job_table(Snapshot(NODE, jobs=jobs), 80), "state")
    assert [state.split()[-1] for state in shown] == ["running", "queued", "done", "failed"]


def test_a_long_table_says_how_much_of_it_is_shown() -> None:
    peers = tuple(PeerPicture(peer_id=f"{index}", name=f"{index:05}") for index in range(1234))
    table = peer_table(Snapshot(NODE, peers=peers), 80)
    assert len(table.rows) == ROWS_MAX
    assert table.caption == f"peers  {ROWS_MAX} of 1,234"


def test_a_peer_listed_twice_is_shown_once() -> None:
    peer = PeerPicture(peer_id=OTHER, name="birch")
    assert len(peer_table(Snapshot(NODE, peers=(peer, peer)), 80).rows) == 1


def test_two_devices_of_one_name_are_two_rows() -> None:
    device = DevicePicture(name="RX 580")
    assert len(device_table(Snapshot(NODE, devices=(device, device)), 80).rows) == 2


def test_unknown_figures_of_a_device_are_dashes() -> None:
    table = device_table(Snapshot(NODE, devices=(DevicePicture(name="cpu", provider="CPUExecutionProvider"),)), 120)
    assert column(table, "temp.") == column(table, "busy") == column(table, "memory") == ["–"]
    assert column(table, "provider") == ["CPU"]


def test_the_coordinator_is_called_by_its_name() -> None:
    snapshot = Snapshot(NODE, peers=(PeerPicture(peer_id=OTHER, name="birch"),))
    assert peer_name(snapshot, PEER) == "this node"
    assert peer_name(snapshot, OTHER) == "birch"
    assert peer_name(snapshot, "12D3KooWunknown12345678") == "…12345678"
    assert peer_name(snapshot, "") == "–"


def test_progress_counts_accepted_tasks_and_is_full_only_when_done() -> None:
    assert progress(JOB) == 0.4
    assert progress(replace(JOB, tasks=0)) == 0
    assert progress(replace(JOB, tasks=0, state="done")) == 1


def test_speed_is_the_daemons_figure_else_the_mean_since_the_start() -> None:
    assert rate(replace(JOB, items_per_second=7.0)) == 7.0
    assert rate(JOB) == 100.0
    assert rate(replace(JOB, elapsed_s=None)) is None
    assert remaining_s(JOB) == 6.0
    assert remaining_s(replace(JOB, state="done")) is None
    assert remaining_s(replace(JOB, accepted=0)) is None


def test_the_first_line_names_the_node_and_keeps_to_its_width() -> None:
    line = words(node_line(replace(NODE, suspect=1, version="0.1.0"), 80))
    for expected in ("alder", short_id(PEER), "● running", "3 peers", "1 suspect"):
        assert expected in line
    assert len(line) <= 80
    assert "version 0.1.0" in words(node_line(replace(NODE, version="0.1.0"), 120))


def test_states_have_a_mark_and_not_only_a_colour() -> None:
    assert state_span("paused") == ("▲ paused", "warn")
    assert state_span("something new") == ("○ something new", "plain")
    assert state_span("")[0] == "○ –"


def test_providers_lose_the_words_they_share() -> None:
    assert [provider_name(name) for name in ("WebGpuExecutionProvider", "")] == ["WebGpu", "–"]


def test_a_quiet_node_needs_no_attention() -> None:
    assert attention(Snapshot(NODE, jobs=(JOB,)), now_s=0.0) == []


def test_a_reason_of_the_whole_node_is_not_repeated_for_each_device() -> None:
    paused = replace(NODE, state="paused", reasons=(Reason("by hand"),))
    device = DevicePicture(name="cpu", state="paused", reasons=(Reason("by hand"),))
    assert len(attention(Snapshot(paused, devices=(device,)), now_s=0.0)) == 1


def test_the_gravest_matter_comes_first() -> None:
    snapshot = Snapshot(
        replace(NODE, state="paused", reasons=(Reason("by hand", 1900.0),), sandbox="none"),
        devices=(DevicePicture(name="RX 580", reasons=(Reason("too hot: 91 °C"),)),),
        jobs=(
            replace(JOB, failed=1, blocked="no peer lends a GPU"),
            replace(JOB, state="failed", reason="no peer could run the model"),
        ),
    )
    assert [words(line) for line in attention(snapshot, now_s=100.0)] == [
        "✕ job 01234567 failed: no peer could run the model",
        "▲ this node: by hand, for 30 m 00 s more",
        "▲ RX 580: too hot: 91 °C",
        "▲ models run here without a sandbox",
        "▲ job 01234567: waits: no peer lends a GPU",
        "▲ job 01234567: 1 task failed for good",
    ]
