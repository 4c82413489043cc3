"""A rate over the last minutes."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.theme import Theme
from textual.widgets import Static

from peerinfer_tui.figures import duration
from peerinfer_tui.line import Line
from peerinfer_tui.logbook import SPAN_S
from peerinfer_tui.overview_view import curve_caption, curve_lines
from peerinfer_tui.paint import entitle, painted


class CurvePanel(Static):
    """As high as it is given room for."""

    def __init__(self, css_id: str, name: str) -> None:
        super().__init__(id=css_id, markup=False)
        self.border_subtitle = f"last {duration(SPAN_S)}"
        self._what = name
        self._samples: Sequence[tuple[float, float]] = ()
        self._now_s = 0.0
        self._drawn: list[Line] = []

    def show(self, samples: Sequence[tuple[float, float]], now_s: float) -> None:
        self._samples, self._now_s = samples, now_s
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def on_mount(self) -> None:
        self.app.theme_changed_signal.subscribe(self, self._redraw)

    def _redraw(self, theme: Theme) -> None:
        """In the colours of another theme."""
        self._drawn = []
        self._draw()

    def _draw(self) -> None:
        cells, rows = self.content_size
        entitle(self, curve_caption(self._what, self._samples))
        lines = curve_lines(self._samples, self._now_s, SPAN_S, cells, rows) if cells > 0 and rows > 0 else []
        if lines and lines != self._drawn:
            self._drawn = lines
            self.update(painted(lines, self.app.theme_variables), layout=False)
