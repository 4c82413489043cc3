"""The first line of the screen."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.theme import Theme
from textual.widgets import Static

from peerinfer_tui.line import Line
from peerinfer_tui.overview_view import node_line
from peerinfer_tui.paint import painted
from peerinfer_tui.pictures import NodePicture


class NodeLine(Static):
    """Says which node this is, and whether anybody is there."""

    def __init__(self) -> None:
        super().__init__(id="node", markup=False)
        self._node: NodePicture | None = None
        self._lost = ""
        self._drawn: Line = ()

    def show(self, node: NodePicture) -> None:
        self._node, self._lost = node, ""
        self._draw()

    def show_lost(self, reason: str) -> None:
        self._lost = reason
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, self._redraw)

    def _redraw(self, theme: Theme) -> None:
        """In the colours of another theme."""
        self._drawn = ()
        self._draw()

    def _draw(self) -> None:
        self.set_class(bool(self._lost), "-lost")
        if self._lost:
            self._drawn = ()
            self.update(Text(f"✕ {self._lost} · trying again", no_wrap=True, overflow="ellipsis"), layout=False)
        elif self._node is not None:
            line = node_line(self._node, self.content_size.width)
            if line != self._drawn:
                self._drawn = line
                self.update(painted([line], self.app.theme_variables), layout=False)
