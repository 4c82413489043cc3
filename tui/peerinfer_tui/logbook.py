"""What the window remembers: the last snapshot, what happened, and how fast work went."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from peerinfer_tui.events import Happening, changes, elections, log_lines
from peerinfer_tui.pictures import JobPicture, LogLine, Snapshot
from peerinfer_tui.words import items_accepted

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
        self.happenings: deque[tuple[int, Happening]] = deque(maxlen=EVENTS_MAX)
        """With their numbers, which only grow."""
        self.own_rates: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        """Wall clock, and items per second that this node computed."""
        self.job_rates: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        """Wall clock, and items per second that were accepted of the jobs this node knows."""
        self._next = 0
        self._log_seen = (0, 0)
        """Which process wrote the last line of the daemon's log that is noted here, and its number."""

    def take(self, snapshot: Snapshot, now_s: float) -> None:
        before, self.snapshot = self.snapshot, snapshot
        elapsed_s, self.now_s = now_s - self.now_s, now_s
        if self.lost:
            self._note([Happening(now_s, "node", (("● ", "good"), ("the daemon answers again", "plain")))])
            self.lost = ""
        self._note(log_lines(self._unseen(snapshot), now_s))
        if before is None:
            self._note(elections(snapshot))
            return
        self._note(changes(before, snapshot, now_s))
        if elapsed_s <= 0 or before.node.pid != snapshot.node.pid:
            return
        self.own_rates.append((now_s, max(0, snapshot.node.items_done - before.node.items_done) / elapsed_s))
        self.job_rates.append((now_s, _accepted(before.jobs, snapshot.jobs) / elapsed_s))

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
            self.happenings.append((self._next, each))
            self._next += 1


def _accepted(before: Sequence[JobPicture], after: Sequence[JobPicture]) -> float:
    """Items accepted from one to the other, of the jobs that both know."""
    known = {job.job_id: items_accepted(job) for job in before}
    return sum(max(0.0, items_accepted(job) - known[job.job_id]) for job in after if job.job_id in known)
