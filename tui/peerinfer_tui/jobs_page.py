"""All jobs, and the one under the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding

from peerinfer_tui.job_view import job_page, job_sheet
from peerinfer_tui.line import Line
from peerinfer_tui.lines_panel import LinesPanel
from peerinfer_tui.live_table import LiveTable
from peerinfer_tui.news import CancelWanted, PriorityWanted
from peerinfer_tui.page import SplitPage
from peerinfer_tui.paint import entitle
from peerinfer_tui.pictures import JobPicture, Snapshot
from peerinfer_tui.table import Sheet
from peerinfer_tui.words import JOB_ENDED, PRIORITIES, names_in, short_job


class JobsPage(SplitPage):
    """Attaching gives the job the whole page."""

    MODE = "jobs"
    AUTO_FOCUS = "#jobs"
    BINDINGS: ClassVar = [
        Binding("a", "attach", "attach"),
        Binding("escape", "detach", "back", show=False),
        Binding("c", "cancel", "cancel"),
        Binding("plus", "prioritise(-1)", "priority", key_display="+-"),
        Binding("minus", "prioritise(1)", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(LiveTable("jobs"), LinesPanel("job", "job", scrolls=True))
        self._attached = ""

    def sheet(self, before: Snapshot | None, now: Snapshot) -> Sheet[JobPicture]:
        return job_sheet(now)

    def on_live_table_chosen(self, message: LiveTable.Chosen) -> None:
        self.action_attach()

    def action_attach(self) -> None:
        if self._attached:
            self.action_detach()
        elif self.table.key:
            self._attach_to(self.table.key)
            self.detail.focus()

    def action_detach(self) -> None:
        self._attach_to("")
        self.table.focus()

    def _attach_to(self, job: str) -> None:
        self._attached = job
        self.set_class(bool(job), "-attached")
        self.detail.show(self.lines)

    def action_cancel(self) -> None:
        job = self._live_job()
        if job is not None:
            self.post_message(CancelWanted(job.job_id))

    def action_prioritise(self, step: int) -> None:
        job = self._live_job()
        if job is None:
            return
        here = PRIORITIES.index(job.priority) if job.priority in PRIORITIES else PRIORITIES.index("normal")
        if not 0 <= here + step < len(PRIORITIES):
            self.notify(f"job {short_job(job.job_id)} has priority {job.priority} already", markup=False)
        else:
            self.post_message(PriorityWanted(job.job_id, PRIORITIES[here + step]))

    def _live_job(self) -> JobPicture | None:
        """The one under the cursor, if it goes on."""
        job = self._job()
        if job is not None and job.state in JOB_ENDED:
            self.notify(f"job {short_job(job.job_id)} has ended already: {job.state}", markup=False)
            return None
        return job

    @property
    def _watched(self) -> str:
        return self._attached or self.table.key

    def _job(self) -> JobPicture | None:
        jobs = self.snapshot.jobs if self.snapshot is not None else ()
        return next((job for job in jobs if job.job_id == self._watched), None)

    def lines(self, cells: int) -> Sequence[Line]:
        job = self._job()
        title = "job" if job is None else f"job  {short_job(job.job_id)}"
        entitle(self.detail, f"{title}  attached, escape goes back" if self._attached else title)
        if job is None or self.snapshot is None:
            return [(("no job here", "dim"),)]
        return job_page(job, names_in(self.snapshot), cells)
