"""This node: its devices, and the owner's hand on the switch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding
from textual.containers import Container
from textual.widget import Widget

from peerinfer_tui.device_view import device_page, node_page
from peerinfer_tui.lines_panel import LinesPanel
from peerinfer_tui.logbook import Logbook
from peerinfer_tui.page import Page
from peerinfer_tui.paint import entitle


class NodePage(Page):
    MODE = "node"
    AUTO_FOCUS = "#devices"
    BINDINGS: ClassVar = [
        Binding("p", "app.pause", "pause"),
        Binding("h", "app.pause_hour", "pause 1 h"),
        Binding("r", "app.resume", "resume"),
        Binding("f", "app.finish", "finish"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._devices = LinesPanel("devices", "devices", scrolls=True)
        self._about = LinesPanel("about", "this node", scrolls=True)

    def compose_body(self) -> Iterable[Widget]:
        with Container(classes="split"):
            yield self._devices
            yield self._about

    def show_body(self, logbook: Logbook) -> None:
        snapshot, now_s = logbook.snapshot, logbook.now_s
        assert snapshot is not None
        entitle(self._devices, f"devices  {len(snapshot.devices)}")
        self._devices.show(lambda cells: device_page(snapshot, cells, now_s))
        self._about.show(lambda cells: node_page(snapshot.node, cells, now_s))
