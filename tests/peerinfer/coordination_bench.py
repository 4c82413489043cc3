"""A coordinator's machine with a clock beside it, for tests."""

import random

from peerinfer.assignment import (
    Audit,
    AuditDone,
    CompareCopies,
    CopiesCompared,
    FrameAnswered,
    JobAccepted,
    JobEnded,
    JobSpec,
    KeepResults,
    SendFrame,
    Settle,
    TasksCommitted,
    WindowSet,
    WorkerJoined,
    WorkerOffer,
)
from peerinfer.coordination import Coordination
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.machine import Tick

ADA, BEN, CAL, OWN = PeerId("ada"), PeerId("ben"), PeerId("cal"), PeerId("own")
JOB, OTHER = JobId("1" * 32), JobId("2" * 32)
VOLUNTEER = WorkerOffer(local=False, kinds=("cpu",), memory_bytes=1 << 33)
LOCAL = WorkerOffer(local=True, kinds=("cpu",), memory_bytes=1 << 33)


def spec_of(job=JOB, *, tasks=8, **more):
    values = {
        "model": Cid("model"),
        "model_bytes": 1000,
        "items_per_task": 1,
        "bytes_per_task": 100,
        "seconds_per_item": 0.01,
    }
    return JobSpec(job=job, tasks=tasks, **(values | more))


class Bench:
    """A machine with a clock beside it. Effects pile up until they are looked at."""

    def __init__(self):
        self.machine = Coordination(random.Random(7))
        self.now_s = 100.0
        self.effects = []
        self.kept = []
        self.copied = {}
        self.liars = set()
        self.commits = True
        """Whether there is a journal that takes everything at once."""

    def tell(self, *events):
        waiting = list(events)
        while waiting:
            effects = self.machine.handle(waiting.pop(0), self.now_s)
            self.machine.check()
            assert self.machine.deadline_s > self.now_s
            self.effects += effects
            self.kept += [made for made in effects if type(made) is KeepResults]
            if self.commits:
                waiting += [TasksCommitted(made.job, made.tasks) for made in effects if type(made) is Settle]
            waiting += [self.compare(made) for made in effects if type(made) is CompareCopies]
        return self

    def compare(self, copies):
        """Whoever is among the liars gives another answer than everybody else, and all liars the same."""
        agrees = []
        for task in copies.tasks:
            others = [kept.peer for kept in self.kept if kept.job == copies.job and task in kept.tasks][-1:]
            others += self.copied.setdefault((copies.job, task), [])
            self.copied[copies.job, task].append(copies.peer)
            lies = copies.peer in self.liars
            agrees.append((task, tuple(other for other in others if (other in self.liars) == lies)))
        return CopiesCompared(copies.job, copies.peer, tuple(agrees))

    def pass_time(self, seconds):
        """To the end of this time, with a tick at every deadline on the way."""
        end_s = self.now_s + seconds
        while self.machine.deadline_s <= end_s:
            self.now_s = self.machine.deadline_s
            self.tell(Tick())
        self.now_s = end_s
        return self

    def join(self, *peers, window=2, offer=VOLUNTEER):
        for peer in peers:
            self.tell(WorkerJoined(peer, offer), WindowSet(peer, window, ""))
        return self

    def take(self, kind):
        """The effects of this kind since the last look; they are gone then."""
        found = [effect for effect in self.effects if type(effect) is kind]
        self.effects = [effect for effect in self.effects if type(effect) is not kind]
        return found

    def answer(self, frame, *, failures=(), compute_s=0.1):
        failed = {position for position, _, _ in failures}
        done = tuple(position for position in range(len(frame.tasks)) if position not in failed)
        return self.tell(FrameAnswered(frame.peer, frame.frame, done, tuple(failures), compute_s))

    def fail(self, frame, kind="model"):
        return self.answer(frame, failures=[(position, kind, "no") for position in range(len(frame.tasks))])

    def work_off(self):
        """Everybody answers everything until nothing more is sent."""
        kept = []
        while frames := self.take(SendFrame):
            for frame in frames:
                self.now_s += 0.01
                self.answer(frame, compute_s=0.01)
                kept += frame.tasks
        return kept

    def audit(self, audits=(), agrees=True):
        """Judges these, and whatever is drawn because of it."""
        waiting = [*audits, *self.take(Audit)]
        while waiting:
            for audit in waiting:
                right = audit.peers if agrees else () if agrees is False else None
                wrong = audit.peers if agrees is False else ()
                self.tell(AuditDone(audit.job, audit.task, right, wrong, "wrong" if wrong else ""))
            waiting = self.take(Audit)
        return self

    def next_frame(self):
        """The next frame that is sent, after as many deadlines as it takes."""
        while not (frames := self.take(SendFrame)):
            self.pass_time(self.machine.deadline_s - self.now_s)
        (frame,) = frames
        return frame

    def picture(self, job=JOB):
        return self.machine.picture(job)

    def end(self):
        (ended,) = self.take(JobEnded)
        return ended


def play_spot(bench, *, tasks=200, peers=(ADA, BEN)):
    """Everything is answered; what was drawn waits for its audit."""
    bench.join(*peers).tell(JobAccepted(spec_of(tasks=tasks, verify="spot")))
    bench.work_off()
    return bench.take(Audit)
