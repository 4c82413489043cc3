"""A table that is brought up to date in place and draws only what is on the screen."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from peerinfer_tui.line import Line
from peerinfer_tui.paint import entitle, segments
from peerinfer_tui.table import Heading, Order, Sheet, heading_at, heading_line, next_order

MARGIN = 1
"""Cells left free at either side."""


class LiveTable(ScrollView, can_focus=True):
    """Shows a sheet in the width there is. Cursor, order and filter survive an update: the cursor stays on its record."""

    COMPONENT_CLASSES: ClassVar = {"live-table--cursor"}
    BINDINGS: ClassVar = [
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
        Binding("j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
        Binding("enter", "choose", show=False),
    ]

    class Moved(Message):
        """The cursor stands on another record, or on none: `key` is "" then."""

        def __init__(self, table: LiveTable, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

        @property
        def control(self) -> LiveTable:
            return self.table

    class Chosen(Message):
        """Enter or a click on the record under the cursor."""

        def __init__(self, table: LiveTable, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

        @property
        def control(self) -> LiveTable:
            return self.table

    def __init__(self, css_id: str) -> None:
        super().__init__(id=css_id)
        self._given: Sheet[Any] | None = None
        self._sheet: Sheet[Any] | None = None
        self._order = Order()
        self._wanted = ""
        self._headings: tuple[Heading, ...] = ()
        self._cursor = 0
        self._key = ""
        self._shown: list[Line] = []
        """The lines on the screen, to draw anew only what changed."""
        self._shown_at = (-1, 0)
        """The first record among them, and how many there was room for."""

    @property
    def key(self) -> str:
        """Of the record under the cursor; "" if there is none."""
        return self._key

    @property
    def keys(self) -> list[str]:
        """Of the records, in their order."""
        return [] if self._sheet is None else [key for key, _ in self._sheet.records]

    @property
    def cursor_row(self) -> int:
        return self._cursor

    def show(self, sheet: Sheet[Any]) -> None:
        self._given = sheet
        self._arrange()

    def filter(self, wanted: str) -> None:
        """Shows the records that hold every word of `wanted`."""
        self._wanted = wanted
        self._arrange()

    def sort_next(self) -> None:
        """Sorts by the next column; after the last one as the sheet comes."""
        self._order = next_order(self._headings, self._order)
        self._arrange()

    def sort_other_way(self) -> None:
        self._order = Order(self._order.title, not self._order.is_reversed)
        self._arrange()

    def _arrange(self) -> None:
        cells = self.scrollable_content_region.width - 2 * MARGIN
        if self._given is None or cells <= 0:
            return
        self._sheet = self._given.arranged(self._order, self._wanted)
        self._headings = self._sheet.headings(cells)
        entitle(self, self._sheet.caption)
        height = len(self._sheet.records) + 1
        if self.virtual_size.height != height or self.virtual_size.width != cells:
            self.virtual_size = Size(cells, height)
        keys = self.keys
        if self._key in keys:
            self._cursor = keys.index(self._key)
        self._place(min(self._cursor, len(keys) - 1))
        visible = self._visible()
        if visible != self._shown:
            self._shown = visible
            self.refresh()
        self._shown_at = self._place_shown

    def _place(self, row: int) -> None:
        keys = self.keys
        self._cursor = max(0, row)
        key = keys[self._cursor] if keys else ""
        if key != self._key:
            self._key = key
            self.post_message(self.Moved(self, key))

    # --- keys and mouse ----------------------------------------------------------------------------------------------

    def action_move(self, step: int) -> None:
        self._go_to(self._cursor + step)

    def action_page(self, step: int) -> None:
        self._go_to(self._cursor + step * max(1, self._rows_seen - 1))

    def action_choose(self) -> None:
        if self._key:
            self.post_message(self.Chosen(self, self._key))

    def _go_to(self, row: int) -> None:
        count = len(self.keys)
        self._place(min(max(0, row), count - 1))
        top = round(self.scroll_y)
        if self._cursor < top:
            top = self._cursor
        elif self._cursor >= top + self._rows_seen:
            top = self._cursor - self._rows_seen + 1
        self.scroll_to(y=top, animate=False)
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or self._sheet is None:
            return
        if offset.y == 0:
            heading = heading_at(self._headings, offset.x - MARGIN)
            if heading is not None:
                is_picked = heading.title == self._order.title
                self._order = Order(heading.title, is_picked and not self._order.is_reversed)
                self._arrange()
            return
        row = offset.y - 1 + round(self.scroll_y)
        if row < len(self._sheet.records):
            self._go_to(row)
            if event.chain > 1:
                self.action_choose()

    # --- drawing -----------------------------------------------------------------------------------------------------

    @property
    def _rows_seen(self) -> int:
        return max(1, self.scrollable_content_region.height - 1)

    @property
    def _place_shown(self) -> tuple[int, int]:
        return round(self.scroll_y), self._rows_seen

    def on_resize(self, event: events.Resize) -> None:
        self._arrange()

    def _visible(self) -> list[Line]:
        """What the screen should show now."""
        if self._sheet is None:
            return []
        top = round(self.scroll_y)
        bottom = min(len(self._sheet.records), top + self._rows_seen)
        rows = [self._sheet.row(index, self._headings) for index in range(top, bottom)]
        return [heading_line(self._headings, self._order), *rows]

    def render_lines(self, crop: Any) -> list[Strip]:
        if self._shown_at != self._place_shown:
            self._shown, self._shown_at = self._visible(), self._place_shown
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        if y >= len(self._shown):
            return Strip.blank(width, base)
        is_cursor = y > 0 and y - 1 + round(self.scroll_y) == self._cursor
        if is_cursor:
            base = self.get_component_rich_style("live-table--cursor")
        return self._strip(self._shown[y], base, width)

    def _strip(self, line: Line, base: Style, width: int) -> Strip:
        margin = Segment(" " * MARGIN, base)
        strip = Strip([margin, *segments(line, self.app.theme_variables, base), margin])
        return strip.adjust_cell_length(width, base)

    def notify_style_update(self) -> None:
        self.refresh()
        super().notify_style_update()
