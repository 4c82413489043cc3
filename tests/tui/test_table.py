"""Tables: which columns fit, which rows are shown, in which order."""

from __future__ import annotations

import pytest
from lively_swarm import answers, read_snapshot

from peerinfer_tui.job_view import active_job_sheet, job_sheet
from peerinfer_tui.line import fitted, words
from peerinfer_tui.peer_view import peer_sheet
from peerinfer_tui.pictures import JobPicture, NodePicture, PeerPicture, Snapshot
from peerinfer_tui.table import COLUMN_GAP, Order, Sheet, heading_at, heading_line, next_order

NODE = NodePicture(peer_id="own", name="alder")


def lively(peers: int = 12) -> Snapshot:
    given = answers(peers)
    return read_snapshot(*(given[f"/api/v1/{name}"] for name in ("node", "devices", "peers", "jobs")))


def names(sheet: Sheet[PeerPicture]) -> list[str]:
    return [peer.name for _, peer in sheet.records]


def of_peers(*peers: PeerPicture) -> Sheet[PeerPicture]:
    return peer_sheet(Snapshot(NODE, peers=peers))


@pytest.mark.parametrize("width", range(1, 220, 7))
@pytest.mark.parametrize("lay", [peer_sheet, job_sheet])
def test_a_row_takes_exactly_the_cells_of_its_headings_and_those_fit(lay: object, width: int) -> None:
    sheet: Sheet[object] = lay(lively())  # type: ignore[operator]
    headings = sheet.headings(width)
    taken = sum(heading.width for heading in headings) + COLUMN_GAP * (len(headings) - 1)
    assert taken <= width or len(headings) == 1
    for index in range(len(sheet.records)):
        assert len(words(sheet.row(index, headings))) == taken
    assert len(words(heading_line(headings, Order("state")))) == taken


def test_what_matters_most_stays_in_a_narrow_table() -> None:
    assert [heading.title for heading in job_sheet(lively()).headings(40)] == ["job", "state", "progress"]


def test_at_eighty_columns_nothing_important_is_missing() -> None:
    jobs = {heading.title for heading in job_sheet(lively()).headings(76)}
    assert {"job", "state", "progress", "items/s", "left", "coordinator"} <= jobs
    peers = {heading.title for heading in peer_sheet(lively()).headings(76)}
    assert {"peer", "state", "path", "rtt", "device", "GFLOP/s", "rep."} <= peers


def test_at_a_hundred_and_twenty_columns_peers_say_why_not() -> None:
    assert "why not" in {heading.title for heading in peer_sheet(lively()).headings(116)}


def test_peers_that_live_come_first_and_keep_their_order() -> None:
    states = {"d": "dead", "s": "suspect", "b": "alive", "a": "alive"}
    peers = [PeerPicture(peer_id=name, name=name, state=state) for name, state in states.items()]
    assert names(of_peers(*peers)) == ["a", "b", "s", "d"]


def test_jobs_under_way_come_before_those_that_ended() -> None:
    states = ["done", "queued", "failed", "running"]
    jobs = tuple(JobPicture(job_id=f"{index:016x}", state=state) for index, state in enumerate(states))
    sheet = job_sheet(Snapshot(NODE, jobs=jobs))
    assert [job.state for _, job in sheet.records] == ["running", "queued", "done", "failed"]
    assert [job.state for _, job in active_job_sheet(Snapshot(NODE, jobs=jobs)).records] == ["running", "queued"]


def test_a_picked_column_sorts_and_the_unknown_come_last_either_way() -> None:
    rtts = {"slow": 80.0, "unknown": None, "fast": 2.0}
    sheet = of_peers(*(PeerPicture(peer_id=name, name=name, rtt_ms=rtt) for name, rtt in rtts.items()))
    assert names(sheet.arranged(Order("rtt"))) == ["fast", "slow", "unknown"]
    assert names(sheet.arranged(Order("rtt", is_reversed=True))) == ["slow", "fast", "unknown"]


def test_the_busiest_come_first_where_more_is_more() -> None:
    sheet = of_peers(*(PeerPicture(peer_id=str(queue), name=str(queue), queue=queue) for queue in (1, 9, 4)))
    assert names(sheet.arranged(Order("queue"))) == ["9", "4", "1"]


def test_a_column_that_is_not_there_sorts_nothing() -> None:
    sheet = peer_sheet(lively())
    assert sheet.arranged(Order("no such column")).records == list(sheet.records)


def test_sorting_goes_from_column_to_column_and_back_to_none() -> None:
    headings = peer_sheet(lively()).headings(40)
    order, seen = Order(), []
    for _ in range(len(headings) + 1):
        order = next_order(headings, order)
        seen.append(order.title)
    assert seen == [*(heading.title for heading in headings), ""]
    assert next_order(headings, Order("one that does not fit any more")).title == headings[0].title


def test_the_sorted_column_is_marked() -> None:
    headings = peer_sheet(lively()).headings(76)
    assert "rtt▾" in words(heading_line(headings, Order("rtt")))
    assert "rtt▴" in words(heading_line(headings, Order("rtt", is_reversed=True)))


def test_a_filter_keeps_rows_that_hold_every_word_and_counts_them() -> None:
    sheet = peer_sheet(lively())
    found = sheet.arranged(Order(), "RADEON  alive")
    assert names(found) == ["ash", "hazel"]
    assert found.caption == "peers  2 of 12"
    assert names(sheet.arranged(Order(), "paused")) == ["hazel"]
    assert sheet.arranged(Order(), "no such thing").caption == "peers  0 of 12"
    assert sheet.arranged(Order(), "  ").caption == "peers  12"


def test_an_empty_table_says_what_to_do() -> None:
    assert of_peers().caption == "peers  none yet: on another machine, peerinfer join"
    assert job_sheet(Snapshot(NODE)).caption.startswith("jobs  none yet: peerinfer run")


def test_a_peer_listed_twice_is_shown_once() -> None:
    peer = PeerPicture(peer_id="x", name="birch")
    assert len(of_peers(peer, peer).records) == 1


def test_a_click_finds_the_column_under_it() -> None:
    headings = peer_sheet(lively()).headings(76)
    assert heading_at(headings, 0) == headings[0]
    assert heading_at(headings, headings[0].width + COLUMN_GAP) == headings[1]
    assert heading_at(headings, 500) is None
    assert heading_at(headings, -1) is None


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 5), ("abcdef", 4), ("榆树榆树", 5), ("", 3), ("abc", 3), ("abc", 1)]
)
@pytest.mark.parametrize("right", [False, True])
def test_a_cell_is_cut_or_filled_to_its_width(text: str, width: int, right: bool) -> None:
    from rich.cells import cell_len

    line = fitted(((text, "plain"),), width, right=right)
    assert cell_len(words(line)) <= width
    assert cell_len(words(line)) >= width - 1  # half of a wide character is not shown
    if cell_len(text) > width:
        assert words(line).endswith("…")
