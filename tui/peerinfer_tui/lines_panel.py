"""Some lines in a frame; scrolls if there are more than fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.theme import Theme
from textual.widgets import Static

from peerinfer_tui.line import Line
from peerinfer_tui.paint import entitle, painted

Lay = Callable[[int], Sequence[Line]]
"""Lays something out in so many cells."""


class LinesPanel(VerticalScroll):
    def __init__(self, css_id: str, title: str = "", *, scrolls: bool = False) -> None:
        super().__init__(id=css_id, classes="-scrolls" if scrolls else "", can_focus=scrolls)
        entitle(self, title)
        self._body = Static(markup=False)
        self._lay: Lay | None = None
        self._shown: Sequence[Line] | None = None

    def compose(self) -> ComposeResult:
        yield self._body

    def show(self, lay: Lay) -> None:
        self._lay = lay
        self._update()

    def on_resize(self, event: events.Resize) -> None:
        self._update()

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, self._redraw)

    def _redraw(self, theme: Theme) -> None:
        """In the colours of another theme."""
        self._shown = None
        self._update()

    def _update(self) -> None:
        cells = self.scrollable_content_region.width
        if self._lay is None or cells <= 0:
            return
        lines = list(self._lay(cells))
        if lines != self._shown:
            # Laying out means drawing the whole screen: only where the panel's height changes.
            is_as_high = self._shown is not None and len(self._shown) == len(lines)
            self._shown = lines
            self._body.update(painted(lines, self.app.theme_variables), layout=not is_as_high)
