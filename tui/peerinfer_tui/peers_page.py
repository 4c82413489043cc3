"""All peers, and the one under the cursor."""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer_tui.line import Line
from peerinfer_tui.lines_panel import LinesPanel
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.page import SplitPage
from peerinfer_tui.paint import entitle
from peerinfer_tui.peer_view import peer_page, peer_sheet
from peerinfer_tui.pictures import PeerPicture, Snapshot
from peerinfer_tui.table import Sheet


class PeersPage(SplitPage):
    MODE = "peers"
    AUTO_FOCUS = "#peers"

    def __init__(self) -> None:
        super().__init__(LiveTable("peers"), LinesPanel("peer", "peer", scrolls=True))

    def sheet(self, before: Snapshot | None, now: Snapshot) -> Sheet[PeerPicture] | None:
        return None if before is not None and before.peers is now.peers else peer_sheet(now)

    def lines(self, cells: int) -> Sequence[Line]:
        peers = self.snapshot.peers if self.snapshot is not None else ()
        peer = next((peer for peer in peers if peer.peer_id == self.table.key), None)
        entitle(self.detail, "peer" if peer is None else f"peer  {peer.name or 'unnamed'}")
        return [(("no peer here", "dim"),)] if peer is None else peer_page(peer, cells)
