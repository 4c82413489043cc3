"""Where the time of frames goes: a histogram over all of them, and the last frames of each job one by one.

A frame waits from the decision to send it until its inputs are put together and on the stream (`queue`), is computed by the
worker (`compute`, by its own word, never more than it was away), and travels for the rest of the time until its answer
is here (`transfer`). `verify` is the time in which samples are computed again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from peerinfer.control import Json
from peerinfer.ids import JobId, PeerId

STAGES = ("queue", "transfer", "compute", "verify")

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

FRAMES_KEPT_MAX = 256
"""Of one job."""

JOBS_KEPT_MAX = 64


@dataclass(slots=True)
class Histogram:
    """Counts by `BOUNDS_S`, the last one for what is longer."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total_s: float = 0.0

    def add(self, seconds: float, tasks: int) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += tasks
        self.total_s += seconds * tasks

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """As Prometheus has it: how many took at most so long."""
        count = 0
        for bound, here in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            count += here
            yield bound, float(count)


@dataclass(slots=True)
class _Frame:
    job: JobId
    peer: PeerId
    tasks: int
    ordered_s: float
    sent_s: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What became of one frame, or of samples that were computed again together: then there is no frame."""

    frame: int | None
    peer: str
    tasks: int
    ordered_s: float
    stages: tuple[tuple[str, float], ...]
    """Names and seconds, in the order in which they came."""


class Stages:
    """Told by the coordinator's role what happens to its frames."""

    def __init__(self, now_s: Callable[[], float], tell: Callable[[JobId, Spent], None] | None = None) -> None:
        """`tell` hears of every frame when it is answered, and of samples that were computed again."""
        self._now_s = now_s
        self._tell = tell
        self.histograms = {stage: Histogram() for stage in STAGES}
        self.kept = 0
        self.failed = 0
        self.voided = 0
        self._under_way: dict[int, _Frame] = {}
        self._ended: dict[JobId, deque[Spent]] = {}

    def ordered(self, number: int, job: JobId, peer: PeerId, tasks: int) -> None:
        self._under_way[number] = _Frame(job, peer, tasks, self._now_s())

    def sent(self, number: int) -> None:
        frame = self._under_way.get(number)
        if frame is not None:
            frame.sent_s = self._now_s()

    def dropped(self, number: int) -> None:
        """It was cancelled, refused, or its worker has gone."""
        self._under_way.pop(number, None)

    def answered(self, number: int, compute_s: float) -> None:
        frame = self._under_way.pop(number, None)
        if frame is None or frame.sent_s is None:
            return
        away_s = max(self._now_s() - frame.sent_s, 0.0)
        compute_s = min(max(compute_s, 0.0), away_s)
        stages = (("queue", frame.sent_s - frame.ordered_s), ("transfer", away_s - compute_s), ("compute", compute_s))
        for stage, seconds in stages:
            self.histograms[stage].add(seconds, frame.tasks)
        self._note(frame.job, Spent(number, frame.peer, frame.tasks, frame.ordered_s, stages))

    def checked(self, job: JobId, seconds: float, tasks: int) -> None:
        """So many samples of one job were computed again together."""
        self.histograms["verify"].add(seconds, tasks)
        self._note(job, Spent(None, "", tasks, self._now_s() - seconds, (("verify", seconds),)))

    def timeline(self, job: JobId) -> list[Json]:
        """The last frames of a job, the first one first; times count from the first of them."""
        entries = sorted(self._ended.get(job, ()), key=lambda entry: entry.ordered_s)
        began_s = entries[0].ordered_s if entries else 0.0
        return [
            {
                "frame": entry.frame,
                "peer": entry.peer,
                "tasks": entry.tasks,
                **{f"{stage}_s": round(seconds, 6) for stage, seconds in entry.stages},
                "at_s": round(entry.ordered_s - began_s, 6),
            }
            for entry in entries
        ]

    def _note(self, job: JobId, entry: Spent) -> None:
        if self._tell is not None:
            self._tell(job, entry)
        entries = self._ended.pop(job, None) or deque(maxlen=FRAMES_KEPT_MAX)
        self._ended[job] = entries
        entries.append(entry)
        if len(self._ended) > JOBS_KEPT_MAX:
            del self._ended[next(iter(self._ended))]
