"""The second line of the screen: which pages there are, and which one this is."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.events import Click
from textual.widgets import Static

PAGES = {"overview": "Overview", "peers": "Peers", "jobs": "Jobs", "node": "My node", "events": "Events"}
"""Pages by the name of their mode, in the order of the keys 1 to 5."""


class PageTab(Static):
    def __init__(self, mode: str, number: int, title: str, *, is_current: bool) -> None:
        super().__init__(f" {number} {title} ", markup=False, classes="-current" if is_current else "")
        self._mode = mode

    async def on_click(self, event: Click) -> None:
        event.stop()
        await self.app.run_action(f"page('{self._mode}')")


class PageTabs(Horizontal):
    def __init__(self, current: str) -> None:
        super().__init__(id="tabs")
        self._current = current

    def compose(self) -> ComposeResult:
        for number, (mode, title) in enumerate(PAGES.items(), 1):
            yield PageTab(mode, number, title, is_current=mode == self._current)
