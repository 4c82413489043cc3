"""A thousand peers and a hundred jobs: what one refresh costs, counted in cells and lines instead of seconds.

`refresh_bench.py` beside this file measures the same in milliseconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon
from lively_swarm import NOW_S, answers, job
from test_window import wait_until

from peerinfer_tui import snapshot as snapshots
from peerinfer_tui.app import Window
from peerinfer_tui.client import Daemon
from peerinfer_tui.events import SINGLY_MAX, changes
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.peer_view import peer_sheet
from peerinfer_tui.pictures import Snapshot
from peerinfer_tui.snapshot import read_snapshot
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
        window = Window(str(tmp_path / "none.sock"), poll_s=3600.0, clock=lambda: NOW_S)
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


@pytest.mark.parametrize(("peers", "lists"), [(10, 10), (249, 10), (250, 5), (1000, 2)])
def test_the_list_of_a_large_swarm_is_asked_for_more_seldom_and_shown_all_the_time(
    tmp_path: Path, peers: int, lists: int
) -> None:
    async def tell() -> None:
        async with FakeDaemon(tmp_path / "node.sock") as fake, Daemon(str(fake.path)) as daemon:
            fake.answers = answers(peers)
            for _ in range(10):
                assert len((await daemon.snapshot()).peers) == peers
            assert fake.asked.count("/api/v1/peers") == lists
            assert fake.asked.count("/api/v1/jobs") == 10

    asyncio.run(tell())
