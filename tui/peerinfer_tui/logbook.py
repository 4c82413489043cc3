"""What the window remembers: the last snapshot, what happened, and how fast work went."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence

from peerinfer_tui.events import Happening, changes, elections, log_lines
from peerinfer_tui.pace import Pace
from peerinfer_tui.pictures import JobPicture, LogLine, Snapshot
from peerinfer_tui.words import items_accepted, names_in

EVENTS_MAX = 1000
"""Older ones are forgotten. The daemon's log has them all."""

SPAN_S = 300.0
"""How far back the curves of the overview go."""

SAMPLES_MAX = 1200


class Logbook:
    """Fed with every snapshot and every loss of the daemon; both in the order of their times."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.now_s = 0.0
        """Wall clock of the last snapshot."""
        self.lost = ""
        """Why there is no newer snapshot, or nothing."""
        self.happenings: list[tuple[int, Happening]] = []
        """By the time at which they happened, which is not always the order in which they are told. With their numbers."""
        self.own_rates: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        """Wall clock, and items per second that this node computed."""
        self.job_rates: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        """Wall clock, and items per second that were accepted of the jobs this node knows."""
        self._own_pace, self._job_pace = Pace(), Pace()
        self._items_accepted = 0.0
        self._next = 0
        self._log_seen = (0, 0)
        """Which process wrote the last line of the daemon's log that is noted here, and its number."""

    def take(self, snapshot: Snapshot, now_s: float) -> None:
        before, self.snapshot = self.snapshot, snapshot
        self.now_s = now_s
        if self.lost:
            self._note([Happening(now_s, "node", (("● ", "good"), ("the daemon answers again", "plain")))])
            self.lost = ""
        self._note(log_lines(self._unseen(snapshot), names_in(snapshot), now_s))
        if before is None:
            self._note(elections(snapshot, now_s))
        else:
            self._note(changes(before, snapshot, now_s))
        if before is None or before.node.pid != snapshot.node.pid:
            self._own_pace.forget()
            self._job_pace.forget()
        else:
            self._items_accepted += _accepted(before.jobs, snapshot.jobs)
        for rates, pace, count in (
            (self.own_rates, self._own_pace, float(snapshot.node.items_done)),
            (self.job_rates, self._job_pace, self._items_accepted),
        ):
            rate = pace.take(now_s, count)
            if rate is not None:
                rates.append((now_s, max(0.0, rate)))

    def _unseen(self, snapshot: Snapshot) -> list[LogLine]:
        """A picture of everything brings the last lines again."""
        pid, number = self._log_seen
        if pid != snapshot.node.pid:
            pid, number = snapshot.node.pid, 0
        found = [line for line in snapshot.log if line.number > number]
        if found:
            self._log_seen = (pid, found[-1].number)
        return found

    def lose(self, reason: str, now_s: float) -> None:
        """The daemon cannot be asked, for this `reason`."""
        if not self.lost and self.snapshot is not None:
            self._note([Happening(now_s, "node", (("✕ ", "bad"), ("the daemon does not answer", "plain")))])
        self.lost = reason

    def _note(self, happenings: Sequence[Happening]) -> None:
        for each in happenings:
            if each.kind == "election" and any(each == noted for _, noted in self.happenings):
                continue  # a daemon that was started again learns its jobs' terms anew
            insort(self.happenings, (self._next, each), key=lambda noted: noted[1].at_s)
            self._next += 1
        del self.happenings[:-EVENTS_MAX]


def _accepted(before: Sequence[JobPicture], after: Sequence[JobPicture]) -> float:
    """Items accepted from one to the other, of the jobs that both know.

    A daemon that was started again learns by and by how far a job is: what comes after nothing was not done just now.
    """
    known = {job.job_id: items_accepted(job) for job in before}
    return sum(max(0.0, items_accepted(job) - known[job.job_id]) for job in after if known.get(job.job_id))
