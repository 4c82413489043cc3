"""The first page: everything at a glance."""

from __future__ import annotations

from collections.abc import Iterable

from textual.containers import Container
from textual.widget import Widget

from peerinfer_tui.attention import attention
from peerinfer_tui.curve_panel import CurvePanel
from peerinfer_tui.figures import clock_time
from peerinfer_tui.job_view import active_job_sheet
from peerinfer_tui.line import Line, folded
from peerinfer_tui.lines_panel import LinesPanel
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.logbook import Logbook
from peerinfer_tui.overview_view import contribution_lines, swarm_lines
from peerinfer_tui.page import Page
from peerinfer_tui.paint import entitle

RECENT_MAX = 50


class Overview(Page):
    """Swarm and own part, curves, what needs attention, jobs under way. In two columns where the terminal is wide."""

    MODE = "overview"
    AUTO_FOCUS = "#jobs"

    def __init__(self) -> None:
        super().__init__()
        self._swarm = LinesPanel("swarm", "swarm")
        self._own = LinesPanel("contribution", "my contribution")
        self._jobs_curve = CurvePanel("jobs-curve", "jobs here")
        self._own_curve = CurvePanel("own-curve", "this node")
        self._matters = LinesPanel("matters", "needs attention", scrolls=True)
        self._recent = LinesPanel("recent", "what happened")
        self._jobs = LiveTable("jobs")

    def compose_body(self) -> Iterable[Widget]:
        with Container(id="overview"):
            with Container(id="health"):
                yield self._swarm
                yield self._own
            with Container(id="curves"):
                yield self._jobs_curve
                yield self._own_curve
            with Container(id="news"):
                yield self._matters
                yield self._recent
            yield self._jobs

    def show_body(self, logbook: Logbook) -> None:
        snapshot = logbook.snapshot
        assert snapshot is not None
        self._swarm.show(lambda cells: swarm_lines(snapshot, cells))
        self._own.show(lambda _: contribution_lines(snapshot))
        self._jobs_curve.show(logbook.job_rates, logbook.now_s)
        self._own_curve.show(logbook.own_rates, logbook.now_s)
        matters = attention(snapshot, logbook.now_s)
        entitle(self._matters, f"needs attention  {len(matters)}" if matters else "needs attention")
        nothing: list[Line] = [(("nothing needs attention", "dim"),)]
        self._matters.show(lambda cells: [part for line in matters for part in folded(line, cells)] or nothing)
        happened = [each for _, each in list(logbook.happenings)[-RECENT_MAX:]]
        recent: list[Line] = [((f"{clock_time(each.at_s)}  ", "dim"), *each.line) for each in reversed(happened)]
        self._recent.show(lambda _: recent or [(("nothing yet", "dim"),)])
        self._jobs.show(active_job_sheet(snapshot))
