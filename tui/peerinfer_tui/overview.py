"""The first screen: everything about one node at a glance."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer

from peerinfer_tui.events import changes
from peerinfer_tui.happenings import Happenings
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.node_line import NodeLine
from peerinfer_tui.snapshot import Snapshot
from peerinfer_tui.view import Line, attention, device_table, job_table, peer_table


class Overview(Screen[None]):
    """Node, devices, jobs, peers, events. Jobs and peers stand side by side where the terminal is wide."""

    AUTO_FOCUS = "#jobs"

    def __init__(self) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (140, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (36, "-tall")]
        self._snapshot: Snapshot | None = None
        self._node = NodeLine()
        self._devices = LiveTable(device_table, "devices")
        self._jobs = LiveTable(job_table, "jobs")
        self._peers = LiveTable(peer_table, "peers")
        self._happenings = Happenings()

    def compose(self) -> ComposeResult:
        yield self._node
        yield self._devices
        with Container(id="work"):
            yield self._jobs
            yield self._peers
        yield self._happenings
        yield Footer()

    def show(self, snapshot: Snapshot, now_s: float, stamp: str) -> None:
        """Brings the screen up to date. `now_s` is the wall clock, `stamp` how a person reads it."""
        before, self._snapshot = self._snapshot, snapshot
        happened: list[Line] = [] if before is None else changes(before, snapshot)
        self.remove_class("-stale")
        self._node.show(snapshot.node)
        for table in (self._devices, self._jobs, self._peers):
            table.show(snapshot)
        stamped: list[Line] = [((f"{stamp}  ", "dim"), *line) for line in happened]
        self._happenings.show(attention(snapshot, now_s), stamped)

    def show_lost(self, reason: str) -> None:
        """Keeps what was last known, marked as old."""
        self.add_class("-stale")
        self._node.show_lost(reason)
