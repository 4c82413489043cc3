"""What needs attention, then what happened last."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.text import Text
from textual.widgets import Static

from peerinfer_tui.paint import painted
from peerinfer_tui.view import Line

EVENTS_MAX = 100


class Happenings(Static):
    """As many lines as there is room for; with room for one, the gravest matter or the last event."""

    def __init__(self) -> None:
        super().__init__(id="happenings", markup=False)
        self._matters: Sequence[Line] = ()
        self._events: deque[Line] = deque(maxlen=EVENTS_MAX)
        self.border_title = "events"

    def show(self, matters: Sequence[Line], happened: Sequence[Line]) -> None:
        """`matters` replaces what stood there; `happened` is added, the last one on top."""
        self._matters = matters
        self._events.extendleft(happened)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        lines: list[Line] = [*self._matters, *self._events] or [(("nothing needs attention", "dim"),)]
        height = max(1, self.content_size.height)
        hidden = len(self._matters) - height
        drawn = [painted(line, self.app.theme_variables) for line in lines[:height]]
        if hidden > 0:
            drawn[-1].append(f"  (and {hidden} more)", style="dim")
        self.update(Text("\n").join(drawn))
