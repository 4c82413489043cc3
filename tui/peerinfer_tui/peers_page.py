"""All peers, and the one under the cursor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.containers import Container
from textual.widget import Widget

from peerinfer_tui.line import Line
from peerinfer_tui.lines_panel import LinesPanel
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.logbook import Logbook
from peerinfer_tui.page import TablePage
from peerinfer_tui.peer_view import peer_page, peer_sheet
from peerinfer_tui.pictures import Snapshot


class PeersPage(TablePage):
    MODE = "peers"
    AUTO_FOCUS = "#peers"

    def __init__(self) -> None:
        super().__init__(LiveTable("peers"))
        self._detail = LinesPanel("peer", "peer", scrolls=True)
        self._snapshot: Snapshot | None = None

    def compose_body(self) -> Iterable[Widget]:
        yield self._filter
        with Container(classes="split"):
            yield self.table
            yield self._detail

    def show_body(self, logbook: Logbook) -> None:
        self._snapshot = logbook.snapshot
        assert self._snapshot is not None
        self.table.show(peer_sheet(self._snapshot))
        self._detail.show(self._lines)

    def on_live_table_moved(self, message: LiveTable.Moved) -> None:
        self._detail.scroll_home(animate=False)
        self._detail.show(self._lines)

    def _lines(self, cells: int) -> Sequence[Line]:
        peers = self._snapshot.peers if self._snapshot is not None else ()
        peer = next((peer for peer in peers if peer.peer_id == self.table.key), None)
        self._detail.border_title = "peer" if peer is None else f"peer  {peer.name or 'unnamed'}"
        return [(("no peer here", "dim"),)] if peer is None else peer_page(peer, cells)
