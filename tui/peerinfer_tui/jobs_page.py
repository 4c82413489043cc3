"""All jobs, and the one under the cursor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding
from textual.containers import Container
from textual.widget import Widget

from peerinfer_tui.job_view import job_page, job_sheet
from peerinfer_tui.line import Line
from peerinfer_tui.lines_panel import LinesPanel
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.logbook import Logbook
from peerinfer_tui.news import CancelWanted, JobWatched
from peerinfer_tui.page import TablePage
from peerinfer_tui.pictures import JobPicture, Snapshot
from peerinfer_tui.words import JOB_ENDED, names_in, short_job


class JobsPage(TablePage):
    """Attaching gives the job the whole page, and the daemon asks its coordinator for every picture of it."""

    MODE = "jobs"
    AUTO_FOCUS = "#jobs"
    BINDINGS: ClassVar = [
        Binding("a", "attach", "attach"),
        Binding("escape", "detach", "back", show=False),
        Binding("c", "cancel", "cancel"),
    ]

    def __init__(self) -> None:
        super().__init__(LiveTable("jobs"))
        self._detail = LinesPanel("job", "job", scrolls=True)
        self._snapshot: Snapshot | None = None
        self._attached = ""

    def compose_body(self) -> Iterable[Widget]:
        yield self._filter
        with Container(classes="split"):
            yield self.table
            yield self._detail

    def show_body(self, logbook: Logbook) -> None:
        self._snapshot = logbook.snapshot
        assert self._snapshot is not None
        self.table.show(job_sheet(self._snapshot))
        self._detail.show(self._lines)

    def on_screen_suspend(self) -> None:
        self.post_message(JobWatched(""))

    def on_screen_resume(self) -> None:
        self.post_message(JobWatched(self._watched))

    def on_live_table_moved(self, message: LiveTable.Moved) -> None:
        self._detail.scroll_home(animate=False)
        self._detail.show(self._lines)
        self.post_message(JobWatched(self._watched))

    def on_live_table_chosen(self, message: LiveTable.Chosen) -> None:
        self.action_attach()

    def action_attach(self) -> None:
        if self._attached:
            self.action_detach()
        elif self.table.key:
            self._attach_to(self.table.key)
            self._detail.focus()

    def action_detach(self) -> None:
        self._attach_to("")
        self.table.focus()

    def _attach_to(self, job: str) -> None:
        self._attached = job
        self.set_class(bool(job), "-attached")
        self._detail.show(self._lines)
        self.post_message(JobWatched(self._watched))

    def action_cancel(self) -> None:
        job = self._job()
        if job is None:
            return
        if job.state in JOB_ENDED:
            self.notify(f"job {short_job(job.job_id)} has ended already: {job.state}", markup=False)
        else:
            self.post_message(CancelWanted(job.job_id))

    @property
    def _watched(self) -> str:
        return self._attached or self.table.key

    def _job(self) -> JobPicture | None:
        jobs = self._snapshot.jobs if self._snapshot is not None else ()
        return next((job for job in jobs if job.job_id == self._watched), None)

    def _lines(self, cells: int) -> Sequence[Line]:
        job = self._job()
        title = "job" if job is None else f"job  {short_job(job.job_id)}"
        self._detail.border_title = f"{title}  attached, escape goes back" if self._attached else title
        if job is None or self._snapshot is None:
            return [(("no job here", "dim"),)]
        return job_page(job, names_in(self._snapshot), cells)
