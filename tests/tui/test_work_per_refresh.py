"""A thousand peers and a hundred jobs: what one refresh costs, counted in cells and lines instead of seconds.

`refresh_bench.py` beside this file measures the same in milliseconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from lively_swarm import NOW_S, answers, job, read_snapshot
from test_window import wait_until
from textual.widget import Widget

from peerinfer_tui import mirror as mirrors
from peerinfer_tui import peers_page
from peerinfer_tui import snapshot as snapshots
from peerinfer_tui.app import Window
from peerinfer_tui.events import SINGLY_MAX, changes
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.page_tabs import PAGES
from peerinfer_tui.peer_view import peer_sheet
from peerinfer_tui.pictures import Snapshot
from peerinfer_tui.table import Sheet

PEERS = 1000
JOBS = 100


def large() -> Snapshot:
    given = answers(PEERS)
    given["/api/v1/jobs"] = [job(number, "running", accepted=100 + number) for number in range(JOBS)]
    return read_snapshot(*(given[f"/api/v1/{name}"] for name in ("node", "devices", "peers", "jobs")))


def test_only_the_rows_on_the_screen_are_laid_out(tmp_path: Path, monkeypatch) -> None:
    laid: list[int] = []
    row = Sheet.row
    monkeypatch.setattr(Sheet, "row", lambda sheet, index, headings: laid.append(index) or row(sheet, index, headings))

    async def tell() -> None:
        window = Window(str(tmp_path / "none.sock"), refresh_s=3600.0, clock=lambda: NOW_S)
        async with window.run_test(size=(120, 40)) as pilot:
            await pilot.press("2")
            await wait_until(pilot, lambda: window.current_mode == "peers")
            first = large()
            window.logbook.take(first, NOW_S)
            window.show_page()
            table = window.screen.query_one("#peers", LiveTable)
            await wait_until(pilot, lambda: len(table.keys) == PEERS)
            for keys in ([], ["end"], ["s", "s", "s", "s"]):
                await pilot.press(*keys)
                await pilot.pause()
                laid.clear()
                moved = tuple(replace(peer, last_seen_s=(peer.last_seen_s or 0) + 1) for peer in first.peers)
                window.logbook.take(replace(first, peers=moved), NOW_S + 1)
                window.show_page()
                await pilot.pause()
                seen = table.scrollable_content_region.height
                assert 0 < len(laid) <= 2 * seen  # once to compare, once to draw
            laid.clear()
            window.show_page()
            await pilot.pause()
            assert len(laid) <= seen  # nothing has changed, so nothing is drawn

    asyncio.run(tell())


def test_a_name_that_is_plain_is_not_looked_at_letter_by_letter(monkeypatch) -> None:
    looked: list[str] = []
    category = snapshots.unicodedata.category
    monkeypatch.setattr(snapshots.unicodedata, "category", lambda letter: looked.append(letter) or category(letter))
    large()
    assert looked == []
    snapshots.clean("Ulme 🌳")
    assert looked


def test_a_thousand_peers_that_go_are_one_line() -> None:
    before = large()
    dead = tuple(replace(peer, state="dead") for peer in before.peers)
    assert len(changes(before, replace(before, peers=dead), NOW_S)) <= SINGLY_MAX
    assert len(peer_sheet(replace(before, peers=dead)).records) == PEERS


def test_only_what_is_told_anew_is_read_anew(monkeypatch) -> None:
    read: list[str] = []
    for name in ("read_peer", "read_job"):
        one = getattr(mirrors, name)
        monkeypatch.setattr(mirrors, name, lambda raw, one=one, name=name: read.append(name) or one(raw))
    given = answers(PEERS)
    mirror = mirrors.Mirror()
    whole = {name: given[f"/api/v1/{name}"] for name in ("node", "devices", "peers", "jobs")}
    mirror.take({"event": "snapshot", **whole}, NOW_S)
    before = mirror.snapshot(NOW_S)
    assert len(read) == PEERS + len(before.jobs)
    read.clear()
    changed = {**whole["peers"][3], "queue": 99}
    mirror.take({"event": "changes", "peers": {"changed": [changed], "gone": [before.peers[5].peer_id]}}, NOW_S + 1)
    after = mirror.snapshot(NOW_S + 1)
    assert read == ["read_peer"]
    assert len(after.peers) == PEERS - 1
    assert after.peers[3].queue == 99


def test_a_page_of_peers_that_nothing_was_told_of_is_not_sorted_again(tmp_path: Path, monkeypatch) -> None:
    async def tell() -> None:
        sheets: list[int] = []
        monkeypatch.setattr(peers_page, "peer_sheet", lambda now: sheets.append(1) or peer_sheet(now))
        window = Window(str(tmp_path / "none.sock"), refresh_s=3600.0, clock=lambda: NOW_S)
        async with window.run_test(size=(120, 40)) as pilot:
            await pilot.press("2")
            await wait_until(pilot, lambda: window.current_mode == "peers")
            first = large()
            for second in range(3):
                window.logbook.take(replace(first, node=replace(first.node, frames_running=second)), NOW_S + second)
                window.show_page()
            assert sheets == [1]

    asyncio.run(tell())


@pytest.mark.parametrize("page", PAGES)
def test_a_page_on_which_nothing_has_changed_is_not_drawn_again(tmp_path: Path, page: str, monkeypatch) -> None:
    calm = replace(large(), jobs=(), peers=())  # what lives grows older, and is drawn for that

    async def tell() -> None:
        window = Window(str(tmp_path / "none.sock"), refresh_s=3600.0, again_s=3600.0, clock=lambda: NOW_S)
        async with window.run_test(size=(200, 60)) as pilot:
            await pilot.press(str(list(PAGES).index(page) + 1))
            await wait_until(pilot, lambda: window.current_mode == page)
            for second in range(4):
                window.logbook.take(calm, NOW_S + second)
                window.show_page()
                await pilot.pause()
            drawn: list[Widget] = []
            refresh = Widget.refresh
            monkeypatch.setattr(
                Widget, "refresh", lambda widget, *given, **how: drawn.append(widget) or refresh(widget, *given, **how)
            )
            for second in range(4, 8):
                window.logbook.take(calm, NOW_S + second)
                window.show_page()
                await pilot.pause()
            assert drawn == []

    asyncio.run(tell())
