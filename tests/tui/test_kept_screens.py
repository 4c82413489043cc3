"""Every page as it looks, kept in snapshots/ as SVG. After a change that is meant to be seen, look at the new pictures:

PEERINFER_KEEP_SCREENS=1 python -m pytest tests/tui/test_kept_screens.py
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon
from lively_swarm import NOW_S, answers
from textual.pilot import Pilot

from peerinfer_tui.app import Window

KEPT = Path(__file__).with_name("snapshots")
DEADLINE_S = 60.0

SCREENS = {
    "overview_80x24": ((80, 24), [], "dark"),
    "overview_120x40": ((120, 40), [], "dark"),
    "overview_200x60": ((200, 60), [], "dark"),
    "overview_light": ((80, 24), [], "light"),
    "peers_80x24": ((80, 24), ["2"], "dark"),
    "peers_by_round_trip_200x60": ((200, 60), ["2", "s", "s", "s", "s"], "dark"),
    "peers_filtered": ((80, 24), ["2", "slash", "b", "e"], "dark"),
    "jobs_80x24": ((80, 24), ["3"], "dark"),
    "jobs_light_200x60": ((200, 60), ["3"], "light"),
    "job_attached": ((120, 40), ["3", "enter"], "dark"),
    "cancelling": ((80, 24), ["3", "c"], "dark"),
    "node_80x24": ((80, 24), ["4"], "dark"),
    "node_200x60": ((200, 60), ["4"], "dark"),
    "events_80x24": ((80, 24), ["5"], "dark"),
    "help_80x24": ((80, 24), ["question_mark"], "dark"),
}
FONTS = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)
"""Fetched from elsewhere by whoever looks at the picture: not wanted."""


@pytest.fixture
def _greenwich() -> Iterator[None]:
    """Times of day are local: here they are the same everywhere."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    del os.environ["TZ"]
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


async def wait_drawn(window: Window, pilot: Pilot[None]) -> str:
    """The screen once it does not change any more."""
    async with asyncio.timeout(DEADLINE_S):
        last = ""
        while True:
            await pilot.pause()
            now = window.export_screenshot(title=window.TITLE)
            if now == last:
                return now
            last = now


async def picture(folder: Path, size: tuple[int, int], keys: list[str], theme: str) -> str:
    async with FakeDaemon(folder / "node.sock") as daemon:
        daemon.answers = answers()
        window = Window(str(daemon.path), refresh_s=3600.0, clock=lambda: NOW_S)
        async with window.run_test(size=size, tooltips=False) as pilot:
            window.theme = f"textual-{theme}"
            async with asyncio.timeout(DEADLINE_S):
                while window.logbook.snapshot is None:
                    await pilot.pause(0.01)
            for second in range(300):
                at_s = NOW_S - 300.0 + second
                if not 100 < second < 130:
                    window.logbook.job_rates.append((at_s, 200.0 + 150.0 * (second // 37 % 3) + second * 7 % 50))
                if second > 80:
                    window.logbook.own_rates.append((at_s, 20.0 + 15.0 * (second // 17 % 4)))
            window.show_page()
            await wait_drawn(window, pilot)
            for key in keys:
                await pilot.press(key)
            if window.focused is not None and window.focused.id == "filter":
                window.focused.cursor_blink = False  # type: ignore[attr-defined]
            return FONTS.sub("", await wait_drawn(window, pilot))


@pytest.mark.usefixtures("_greenwich")
@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_looks_as_it_was_kept(name: str, tmp_path: Path) -> None:
    size, keys, theme = SCREENS[name]
    found = asyncio.run(picture(tmp_path, size, keys, theme))
    kept = KEPT / f"{name}.svg"
    if os.environ.get("PEERINFER_KEEP_SCREENS"):
        kept.write_text(found, encoding="utf-8")
    if found != kept.read_text(encoding="utf-8"):
        other = tmp_path / f"{name}.svg"
        other.write_text(found, encoding="utf-8")
        pytest.fail(f"the screen has changed: compare {kept} with {other}")


def test_no_picture_is_kept_that_nobody_compares() -> None:
    assert {path.stem for path in KEPT.iterdir()} == set(SCREENS)


def test_a_picture_fetches_nothing() -> None:
    for path in KEPT.iterdir():
        assert not re.search(r"url\(\"?http|<script|<image", path.read_text(encoding="utf-8"))
