"""A table that is brought up to date in place."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual import events
from textual.widgets import DataTable

from peerinfer_tui.paint import painted
from peerinfer_tui.snapshot import Snapshot
from peerinfer_tui.view import COLUMN_GAP, Heading, Line, Row, Table

Lay = Callable[[Snapshot, int], Table]
"""Lays a snapshot out in so many cells."""


class LiveTable(DataTable[Text]):
    """Shows one table of a snapshot in the width there is. Cursor and scroll position survive an update."""

    def __init__(self, lay: Lay, css_id: str) -> None:
        super().__init__(id=css_id, cursor_type="row", cell_padding=COLUMN_GAP // 2, zebra_stripes=False)
        self._lay = lay
        self._snapshot: Snapshot | None = None
        self._headings: tuple[Heading, ...] = ()
        self._shown: dict[str, tuple[Line, ...]] = {}

    def show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._update()

    def on_resize(self, event: events.Resize) -> None:
        self._update()

    def _update(self) -> None:
        cells = self.scrollable_content_region.width
        if self._snapshot is None or cells <= 0:
            return
        table = self._lay(self._snapshot, cells)
        self.border_title = table.caption
        if table.headings != self._headings:
            self._rebuild(table)
        elif [row.key for row in table.rows] != list(self._shown):
            self._refill(table.rows)
        else:
            self._touch_up(table.rows)

    def _rebuild(self, table: Table) -> None:
        self.clear(columns=True)
        self._headings = table.headings
        for heading in table.headings:
            title = Text(heading.title, justify="right" if heading.right else "left")
            self.add_column(title, width=heading.width, key=heading.title)
        self._refill(table.rows)

    def _refill(self, rows: tuple[Row, ...]) -> None:
        cursor, left, top = self.cursor_row, self.scroll_x, self.scroll_y
        self.clear()
        for row in rows:
            self.add_row(*(self._cell(column, line) for column, line in enumerate(row.cells)), key=row.key)
        self._shown = {row.key: row.cells for row in rows}
        self.move_cursor(row=min(cursor, len(rows) - 1) if rows else 0, scroll=False)
        self.scroll_to(left, top, animate=False)

    def _touch_up(self, rows: tuple[Row, ...]) -> None:
        for row in rows:
            for column, (line, shown) in enumerate(zip(row.cells, self._shown[row.key], strict=True)):
                if line != shown:
                    self.update_cell(row.key, self._headings[column].title, self._cell(column, line))
            self._shown[row.key] = row.cells

    def _cell(self, column: int, line: Line) -> Text:
        return painted(line, self.app.theme_variables, right=self._headings[column].right)
