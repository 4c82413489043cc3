"""What happened, with a filter."""

from __future__ import annotations

from peerinfer_tui.event_view import event_sheet
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.logbook import Logbook
from peerinfer_tui.page import TablePage


class EventsPage(TablePage):
    MODE = "events"
    AUTO_FOCUS = "#events"

    def __init__(self) -> None:
        super().__init__(LiveTable("events"))

    def show_body(self, logbook: Logbook) -> None:
        self.table.show(event_sheet(logbook.happenings))
