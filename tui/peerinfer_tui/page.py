"""What every page has: the node's line, the tabs, its own body, the keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Input

from peerinfer_tui.filter_line import FilterLine
from peerinfer_tui.line import Line
from peerinfer_tui.lines_panel import LinesPanel
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.logbook import Logbook
from peerinfer_tui.node_line import NodeLine
from peerinfer_tui.page_tabs import PageTabs
from peerinfer_tui.pictures import Snapshot
from peerinfer_tui.table import Sheet


class Page(Screen[None]):
    """One screen of the window. Only the page that is seen is brought up to date."""

    MODE: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (130, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-tall")]
        self._node = NodeLine()

    def compose(self) -> ComposeResult:
        yield self._node
        yield PageTabs(self.MODE)
        yield from self.compose_body()
        yield Footer()

    def compose_body(self) -> Iterable[Widget]:
        raise NotImplementedError

    def show(self, logbook: Logbook) -> None:
        """Brings the page up to date."""
        if logbook.lost:
            # What was last known stays, marked as old.
            self.add_class("-stale")
            self._node.show_lost(logbook.lost)
        else:
            self.remove_class("-stale")
            if logbook.snapshot is not None:
                self._node.show(logbook.snapshot.node)
        if logbook.snapshot is not None:
            self.show_body(logbook)

    def show_body(self, logbook: Logbook) -> None:
        raise NotImplementedError


class TablePage(Page):
    """A page around one table, which can be filtered and sorted."""

    BINDINGS: ClassVar = [
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("s", "sort", "sort"),
        Binding("S", "sort_other_way", "other way", show=False),
    ]

    def __init__(self, table: LiveTable) -> None:
        super().__init__()
        self.table = table
        self._filter = FilterLine()

    def action_filter(self) -> None:
        self._filter.open()

    def action_sort(self) -> None:
        self.table.sort_next()

    def action_sort_other_way(self) -> None:
        self.table.sort_other_way()

    def compose_body(self) -> Iterable[Widget]:
        yield self._filter
        yield self.table

    def on_input_changed(self, event: Input.Changed) -> None:
        self.table.filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._filter.display = bool(event.value)
        self.table.focus()


class SplitPage(TablePage):
    """A table, and beside or below it everything about the record under the cursor."""

    def __init__(self, table: LiveTable, detail: LinesPanel) -> None:
        super().__init__(table)
        self.detail = detail
        self.snapshot: Snapshot | None = None

    def compose_body(self) -> Iterable[Widget]:
        yield self._filter
        with Container(classes="split"):
            yield self.table
            yield self.detail

    def show_body(self, logbook: Logbook) -> None:
        before, self.snapshot = self.snapshot, logbook.snapshot
        assert self.snapshot is not None
        sheet = self.sheet(before, self.snapshot)
        if sheet is not None:
            self.table.show(sheet)
        self.detail.show(self.lines)

    def sheet(self, before: Snapshot | None, now: Snapshot) -> Sheet[Any] | None:
        """The rows; None if they are as they were."""
        raise NotImplementedError

    def lines(self, cells: int) -> Sequence[Line]:
        """The record under the cursor, in so many cells."""
        raise NotImplementedError

    def on_live_table_moved(self, message: LiveTable.Moved) -> None:
        self.detail.scroll_home(animate=False)
        self.detail.show(self.lines)
