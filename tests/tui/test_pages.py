"""What the pages say of peers, jobs, devices and the node."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lively_swarm import NOW_S, OWN, peer_id
from test_table import lively

from peerinfer_tui.attention import FAILED_JOBS_MAX, attention
from peerinfer_tui.device_view import device_page, node_page
from peerinfer_tui.job_view import FAILURES_SHOWN, job_page
from peerinfer_tui.line import Line, folded, state_span, words
from peerinfer_tui.overview_view import contribution_lines, curve_lines, energy_words, node_line, swarm_lines
from peerinfer_tui.peer_view import peer_page
from peerinfer_tui.pictures import DevicePicture, Failure, JobPicture, NodePicture, PeerPicture, Reason, Snapshot
from peerinfer_tui.words import (
    model_name,
    names_in,
    peer_name,
    progress,
    provider_name,
    rate,
    remaining_s,
    short_id,
    spoken,
)

NODE = NodePicture(peer_id=OWN, name="alder", state="running", reachability="direct", sandbox="full", alive=3)
JOB = JobPicture(job_id="0123456789abcdef", state="running", items=1000, tasks=100, accepted=40, elapsed_s=4.0)


def text(lines: list[Line]) -> str:
    return "\n".join(words(line) for line in lines)


# --- names and figures ---------------------------------------------------------------------------------------------


def test_the_coordinator_is_called_by_its_name() -> None:
    names = names_in(Snapshot(NODE, peers=(PeerPicture(peer_id="12D3KooWother", name="birch"),)))
    assert peer_name(names, OWN) == "this node"
    assert peer_name(names, "12D3KooWother") == "birch"
    assert peer_name(names, "12D3KooWunknown12345678") == "…12345678"
    assert peer_name(names, "") == "–"


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


def test_models_are_called_by_their_file_or_the_beginning_of_their_hash() -> None:
    assert model_name("/home/ada/digits.onnx") == "digits.onnx"
    assert model_name("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku") == "bafkreihdwdc…"


def test_states_have_a_mark_and_not_only_a_colour() -> None:
    assert state_span("paused") == ("▲ paused", "warn")
    assert state_span("something new") == ("○ something new", "plain")
    assert state_span("")[0] == "○ –"


def test_providers_lose_the_words_they_share() -> None:
    assert [provider_name(name) for name in ("WebGpuExecutionProvider", "")] == ["WebGpu", "–"]


# --- the overview --------------------------------------------------------------------------------------------------


def test_the_first_line_names_the_node_and_keeps_to_its_width() -> None:
    line = words(node_line(replace(NODE, suspect=1, version="0.1.0"), 80))
    for expected in ("alder", short_id(OWN), "● running", "3 peers", "1 suspect"):
        assert expected in line
    assert len(line) <= 80
    assert "version 0.1.0" in words(node_line(replace(NODE, version="0.1.0"), 120))


def test_the_swarm_is_summed_up_and_fits_beside_another_panel() -> None:
    lines = swarm_lines(lively(), 36)
    said = text(lines)
    for expected in (
        "● 10 alive",
        "▲ 1 suspect",
        "8 of 10, 2 by relay",
        "7 GPU, 10 CPU",
        "2 running, 1 queued, 3 ended",
    ):
        assert expected in said
    assert all(len(words(line)) <= 36 for line in lines[:4])
    assert "dead" not in said
    assert "▲ 1 suspect  ✕ 1 dead" in text(swarm_lines(lively(), 56))


def test_a_lonely_node_has_a_swarm_of_nobody() -> None:
    assert "● 0 alive" in text(swarm_lines(Snapshot(NodePicture()), 36))
    assert "nothing" in text(swarm_lines(Snapshot(NodePicture()), 36))


def test_the_own_part_is_told_in_tasks_items_and_energy() -> None:
    lines = contribution_lines(lively())
    assert "1,873 tasks, 187,300 items" in text(lines)
    assert "0.11 kWh" in text(lines)
    assert all(len(words(line)) <= 36 for line in lines[:4])
    assert "not measured" in text(contribution_lines(Snapshot(NODE)))
    assert energy_words(1200.0) == "1,200 J"


def test_a_curve_fills_its_room_and_says_what_its_top_is() -> None:
    lines = curve_lines([(NOW_S, 50.0), (NOW_S - 1, 100.0)], NOW_S, 10.0, 29, 3)
    assert [len(words(line)) for line in lines] == [29, 29, 29]
    assert words(lines[0]).startswith("     100 ")
    assert words(lines[-1]).startswith("       0 ")
    assert len(curve_lines([], NOW_S, 10.0, 5, 2)) == 2


# --- what needs attention --------------------------------------------------------------------------------------------


def test_a_quiet_node_needs_no_attention() -> None:
    assert attention(Snapshot(NODE, jobs=(JOB,)), now_s=0.0) == []


def test_a_reason_of_the_whole_node_is_not_repeated_for_each_device() -> None:
    paused = replace(NODE, state="paused", reasons=(Reason("by hand"),))
    device = DevicePicture(name="cpu", state="paused", reasons=(Reason("by hand"),))
    assert len(attention(Snapshot(paused, devices=(device,)), now_s=0.0)) == 1


def test_the_gravest_matter_comes_first() -> None:
    snapshot = Snapshot(
        replace(NODE, state="paused", reasons=(Reason("by hand", 1900.0),), sandbox="none", suspect=2),
        devices=(DevicePicture(name="RX 580", reasons=(Reason("too hot: 91 °C"),)),),
        jobs=(
            replace(JOB, failed=1, blocked="no peer lends a GPU", audits_failed=2),
            replace(JOB, state="failed", reason="no peer could run the model"),
        ),
    )
    assert [words(line) for line in attention(snapshot, now_s=100.0)] == [
        "✕ job 01234567 failed: no peer could run the model",
        "▲ this node: by hand, for 30 m 00 s more",
        "▲ RX 580: too hot: 91 °C",
        "▲ models run here without a sandbox; `peerinfer doctor` says why",
        "▲ 2 peers do not answer now",
        "▲ job 01234567 waits: no peer lends a GPU",
        "▲ job 01234567: 1 task failed for good",
        "▲ job 01234567: 2 checks found a wrong result",
    ]


def test_what_needs_attention_is_told_to_its_end() -> None:
    why = "1 of 3 electors answered, 2 are needed; if they are gone for good: peerinfer jobs rescue 01234567"
    (line,) = attention(Snapshot(NODE, jobs=(replace(JOB, blocked=why),)), now_s=0.0)
    lines = folded(line, 40)
    assert all(len(words(each)) <= 40 for each in lines)
    assert " ".join(words(each).strip("▲ ") for each in lines) == f"job 01234567 waits: {why}"
    assert words(lines[1]).startswith("  ")


def test_many_failed_jobs_do_not_hide_everything_else() -> None:
    failed = tuple(replace(JOB, job_id=f"{index}", state="failed") for index in range(40))
    lines = attention(Snapshot(NODE, jobs=failed), now_s=0.0)
    assert len(lines) == FAILED_JOBS_MAX + 1
    assert words(lines[-1]) == "✕ 37 more jobs failed"


# --- pages -----------------------------------------------------------------------------------------------------------


def test_a_peers_page_says_why_it_takes_no_work() -> None:
    peers = {peer.name: peer for peer in lively().peers}
    said = text(peer_page(peers["larch"], 76))
    assert "takes work    no: it answered task 12" in said
    assert "integrity 0 %" in said
    assert "takes work    yes" in text(peer_page(peers["ash"], 76))
    assert text(peer_page(PeerPicture(), 20))


def test_what_any_stranger_is_held_for_is_not_shown_as_something_seen_of_one() -> None:
    stranger = PeerPicture(integrity=0.21, reliability=0.21, evidence=0)
    assert "reputation    nothing seen of it yet" in text(peer_page(stranger, 76))
    assert "integrity 21 %  reliability 21 %  1 observation" in text(peer_page(replace(stranger, evidence=1), 76))


def test_a_jobs_page_tells_its_tasks_terms_shares_and_errors() -> None:
    snapshot = lively()
    names = names_in(snapshot)
    said = text(job_page(snapshot.jobs[0], names, 76))
    for expected in (
        "98 open  40 assigned  16 provisional  244 final  2 failed",
        "this node, term 1",
        "21 of 260 repeated, 0 differed",
        "65 %  ash, 170 tasks",
        "task 31 (items 3100–3199): 4 attempts failed",
    ):
        assert expected in said
    assert all(len(words(line).rstrip()) <= 76 for line in job_page(snapshot.jobs[0], names, 76))
    assert "2: beech, the lease of the one before ran out" in text(job_page(snapshot.jobs[1], names, 76))
    assert "no peer has a GPU with 24 GiB" in text(job_page(snapshot.jobs[2], names, 100))


def test_a_job_that_another_coordinates_is_as_far_as_its_journal_says() -> None:
    elsewhere = replace(JOB, state="paused", accepted=0, final=75, tasks=100)
    assert "75 %" in text(job_page(elsewhere, {}, 76))


def test_peers_in_what_the_daemon_says_are_called_by_their_names() -> None:
    said = f"{peer_id('ash')} did not renew its lease of {'5c' * 16}; {peer_id('nobody')} neither"
    names = {peer_id("ash"): "ash"}
    assert spoken(said, names) == f"ash did not renew its lease of 5c5c5c5c; {short_id(peer_id('nobody'))} neither"
    blocked = replace(JOB, blocked=f"not heard of lately: {peer_id('ash')}")
    assert "waits         not heard of lately: ash" in text(job_page(blocked, names, 76))


def test_the_tail_of_a_job_is_told_once_everything_is_given_out() -> None:
    snapshot = lively()
    assert "the last 9 tasks are with peers" in text(job_page(snapshot.jobs[1], names_in(snapshot), 76))
    assert "tail" not in text(job_page(snapshot.jobs[0], names_in(snapshot), 76))
    assert "tail" not in text(job_page(replace(snapshot.jobs[1], state="done"), {}, 76))


def test_a_jobs_page_lists_so_many_errors_and_counts_the_rest() -> None:
    failures = tuple(Failure(index, index * 10, 10, "out of memory") for index in range(FAILURES_SHOWN + 5))
    said = text(job_page(replace(JOB, failed=4000, failures=failures), {}, 100))
    assert said.count("out of memory") == FAILURES_SHOWN
    assert "and 3,980 more" in said


def test_a_devices_page_shows_gauges_limits_and_reasons_with_their_end() -> None:
    node = replace(NODE, reasons=(Reason("somebody uses this machine", NOW_S + 90.0),))
    said = text(device_page(replace(lively(), node=node), 76, NOW_S))
    for expected in ("93 %", "5.0 GiB of 8.0 GiB", "79 °C, limit 80 °C", "112 W, limit 150 W", "5.21 k GFLOP/s"):
        assert expected in said
    assert "somebody uses this machine, for 1 m 30 s more" in said


@pytest.mark.parametrize("cells", [1, 20, 40, 76, 200])
def test_unknown_figures_of_a_device_are_said_to_be_unknown(cells: int) -> None:
    said = text(device_page(Snapshot(NODE, devices=(DevicePicture(name="cpu", max_temp_c=80.0),)), cells, 0.0))
    assert "not known, limit 80 °C" in said
    assert "for utilisation, memory, power" in said
    assert said.count("not known") == 1


def test_a_hot_device_without_a_limit_is_marked_too() -> None:
    hot = DevicePicture(name="RX 580", temperature_c=95.0)
    gauge = device_page(Snapshot(NODE, devices=(hot,)), 76, 0.0)[1]
    assert "temperature" in words(gauge)
    assert gauge[1][1] == "warn"


def test_the_nodes_page_says_which_key_helps() -> None:
    assert "p pauses" in text(node_page(NODE, 76, 0.0))
    assert "r takes work again" in text(node_page(replace(NODE, state="paused"), 76, 0.0))
    assert peer_id("ash") not in text(node_page(NODE, 76, 0.0))
