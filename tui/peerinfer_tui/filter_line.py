"""A line to type a filter into."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding
from textual.widgets import Input


class FilterLine(Input):
    """Hidden until somebody wants it. Escape forgets the filter, enter keeps it."""

    BINDINGS: ClassVar = [Binding("escape", "forget", "no filter", show=False)]

    def __init__(self) -> None:
        super().__init__(
            placeholder="filter: words that a row must hold; enter keeps, escape clears", id="filter", compact=True
        )
        self.display = False

    def open(self) -> None:
        self.display = True
        self.focus()

    def action_forget(self) -> None:
        self.value = ""
        self.display = False
        self.screen.focus_next()
