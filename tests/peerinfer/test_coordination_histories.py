"""Any history at all: jobs, workers that come, answer, refuse, vanish and lie, and events that make no sense.

After every event the machine's own check must hold, and a few promises that only an observer of its effects can see.
In the end the world heals, and every job must end.
"""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from wire_strategies import SAME_EVERY_TIME

from peerinfer.assignment import (
    Audit,
    AuditDone,
    CancelFrame,
    CompareCopies,
    CopiesCompared,
    DropResults,
    DropWorker,
    FrameAnswered,
    FrameRefused,
    JobAccepted,
    JobBroken,
    JobCancelled,
    JobClosed,
    JobDropped,
    JobEnded,
    JobSpec,
    KeepResults,
    SendFrame,
    Settle,
    TaskFailedForGood,
    TasksAdded,
    TasksCommitted,
    VoidResults,
    WindowSet,
    WorkerJoined,
    WorkerLost,
    WorkerOffer,
)
from peerinfer.coordination import Coordination
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.ledger import TaskState
from peerinfer.limits import FRAME_TASKS_MAX, WINDOW_FRAMES_MAX
from peerinfer.machine import Tick

PEERS = tuple(PeerId(name) for name in ("ada", "ben", "cal", "dan"))
JOBS = tuple(JobId(digit * 32) for digit in "123")
KINDS = ("model", "timeout", "memory", "crash", "cancelled", "internal")

peers = st.sampled_from(PEERS)
jobs = st.sampled_from(JOBS)


class Histories(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed):
        self.machine = Coordination(random.Random(seed))
        self.now_s = 0.0
        self.windows = {}
        self.frames = {}
        self.running = {}
        self.counted = {}
        self.settled = {}
        self.to_commit = []
        self.audits = []
        self.compares = []
        self.caught = set()
        self.frames_seen = set()

    # --- watching --------------------------------------------------------------------------------------------------

    def tell(self, event):
        answered = (event.peer, event.frame) if isinstance(event, FrameAnswered) else None
        settled = 0
        for effect in self.machine.handle(event, self.now_s):
            settled += self.watch(effect, answered)
        assert answered is None or settled == 1, "an answer is kept or dropped, once"
        self.machine.check()
        assert self.machine.deadline_s > self.now_s, "a deadline that stands still is a busy loop"
        assert set(self.machine.jobs) == set(self.running)
        self.check_that_nobody_is_idle()

    def watch(self, effect, answered):
        """Takes one effect into account; True if it settles the answer."""
        match effect:
            case SendFrame(peer, number, job, tasks, attempts):
                assert peer in self.windows
                assert peer not in self.caught, "a caught peer got work"
                assert job in self.running
                assert number not in self.frames_seen, "a frame's number was used twice"
                assert 1 <= len(tasks) <= FRAME_TASKS_MAX
                assert len(set(tasks)) == len(tasks) == len(attempts)
                is_double = self.machine._force.frames[number].is_double
                assert is_double or not set(tasks) & self.counted[job], "a task with a result was given out"
                self.frames_seen.add(number)
                self.frames[number] = effect
                held = sum(1 for frame in self.frames.values() if frame.peer == peer)
                assert held <= self.windows[peer], "more frames than the window"
            case CancelFrame(peer, number, _):
                assert self.frames.pop(number).peer == peer
            case KeepResults(peer, number, job, tasks):
                assert (peer, number) == answered
                assert not set(tasks) & self.counted[job], "a result counted twice"
                self.counted[job] |= set(tasks)
                return True
            case DropResults(peer, number):
                assert (peer, number) == answered
                return True
            case CompareCopies(peer, number, job, tasks):
                assert (peer, number) == answered
                self.compares.append((job, peer, tasks))
                return True
            case Audit(job, task, peers):
                assert task in self.counted[job]
                self.audits.append((job, task, peers))
            case Settle(job, peer, tasks, _):
                assert set(tasks) <= self.counted[job]
                assert not set(tasks) & self.settled[job], "a result went into the journal twice"
                assert peer not in self.caught or job not in self.running or self.running[job].verify == "none"
                self.settled[job] |= set(tasks)
                self.to_commit.append((job, tasks))
            case VoidResults(job, _, tasks, _):
                assert set(tasks) <= self.counted[job]
                assert not set(tasks) & self.settled[job], "what is in the journal was taken back"
                self.counted[job] -= set(tasks)
            case TaskFailedForGood(job, task, reason):
                assert job in self.running
                assert task not in self.settled[job], "what is in the journal failed"
                assert reason
            case DropWorker(peer, _):
                self.caught.add(peer)
                self.lose(peer)
            case JobEnded(job, state, reason, _, picture):
                spec = self.running.pop(job)
                self.forget(job)
                total = picture.open + picture.assigned + picture.provisional + picture.final + len(picture.failed)
                assert total == picture.tasks
                assert all(count > 0 for count in picture.peers.values())
                assert state == "done" or reason or spec is None
                if state == "done":
                    assert (picture.open, picture.assigned, picture.provisional) == (0, 0, 0)
        return False

    def forget(self, job):
        self.to_commit = [commit for commit in self.to_commit if commit[0] != job]
        self.audits = [audit for audit in self.audits if audit[0] != job]
        self.compares = [compare for compare in self.compares if compare[0] != job]

    def lose(self, peer):
        self.windows.pop(peer, None)
        self.frames = {number: frame for number, frame in self.frames.items() if frame.peer != peer}

    def check_that_nobody_is_idle(self):
        for worker in self.machine._workers.values():
            if len(worker.frames) >= worker.window or worker.rests_until_s > self.now_s:
                continue
            if not worker.breaker.allows(self.now_s, len(worker.frames)):
                continue
            for job in self.machine._jobs.values():
                held_back = any(("again", peer) in self.machine._dispatch._alarms for peer in job.usable)
                if worker.peer in job.usable and not held_back:
                    fresh = [task for task in job.ledger._open if task not in job.ledger._faults]
                    assert not fresh, f"{worker.peer} has room, and task {fresh[0]} waits"

    # --- what may happen -------------------------------------------------------------------------------------------

    @rule(
        job=jobs,
        tasks=st.integers(0, 40),
        verify=st.sampled_from(["none", "spot", "quorum:2", "quorum:3", "adaptive"]),
        retries=st.integers(0, 3),
        patience_s=st.sampled_from([0.0, 5.0, 60.0]),
        deadline_s=st.sampled_from([None, None, 30.0]),
        online=st.booleans(),
        local_only=st.sampled_from([False, False, True]),
        task_timeout_s=st.sampled_from([None, 0.5]),
        seconds_per_item=st.sampled_from([1e-6, 0.01, 30.0]),
        data=st.data(),
    )
    def accept(self, job, tasks, data, **wishes):
        final = data.draw(st.sets(st.integers(0, tasks - 1), max_size=3)) if tasks else set()
        spec = JobSpec(
            job=job, model=Cid("m"), model_bytes=10, tasks=tasks, items_per_task=2, bytes_per_task=1000,
            final=tuple(sorted(final)), **wishes
        )  # fmt: skip
        if job not in self.running:
            self.running[job] = spec
            self.counted[job] = set(final)
            self.settled[job] = set()
        self.tell(JobAccepted(spec))

    @rule(peer=peers, local=st.booleans(), window=st.integers(0, 4))
    def join(self, peer, local, window):
        self.lose(peer)
        self.windows[peer] = 0
        self.tell(WorkerJoined(peer, WorkerOffer(local, ("cpu",), 1 << 30)))
        self.set_window(peer, window)

    @rule(peer=peers, frames=st.integers(0, WINDOW_FRAMES_MAX))
    def set_window(self, peer, frames):
        if peer in self.windows:
            self.windows[peer] = frames
        self.tell(WindowSet(peer, frames, "" if frames else "takes a rest"))

    @rule(peer=peers)
    def vanish(self, peer):
        self.lose(peer)
        self.tell(WorkerLost(peer, "vanished"))

    def some_frame(self, data):
        return self.frames.pop(data.draw(st.sampled_from(sorted(self.frames))))

    @precondition(lambda self: getattr(self, "frames", None))
    @rule(data=st.data(), compute_s=st.sampled_from([0.0, 1e-300, 0.1, 1e300]))
    def answer(self, data, compute_s):
        frame = self.some_frame(data)
        failed = data.draw(st.dictionaries(st.integers(0, len(frame.tasks) - 1), st.sampled_from(KINDS), max_size=3))
        done = tuple(position for position in range(len(frame.tasks)) if position not in failed)
        failures = tuple((position, kind, "no") for position, kind in sorted(failed.items()))
        self.tell(FrameAnswered(frame.peer, frame.frame, done, failures, compute_s))

    @precondition(lambda self: getattr(self, "frames", None))
    @rule(data=st.data())
    def answer_well(self, data):
        frame = self.some_frame(data)
        self.tell(FrameAnswered(frame.peer, frame.frame, tuple(range(len(frame.tasks))), (), 0.01))

    @precondition(lambda self: getattr(self, "frames", None))
    @rule(data=st.data(), final=st.booleans())
    def refuse(self, data, final):
        frame = self.some_frame(data)
        self.tell(FrameRefused(frame.peer, frame.frame, "no", final))

    @rule(peer=peers, number=st.integers(0, 30), final=st.booleans(), refused=st.booleans())
    def speak_of_a_strange_frame(self, peer, number, final, refused):
        frame = self.frames.get(number)
        if frame is None or frame.peer != peer:
            event = FrameRefused(peer, number, "no", final) if refused else FrameAnswered(peer, number, (0,), (), 0.1)
            self.tell(event)

    @precondition(lambda self: getattr(self, "audits", None))
    @rule(data=st.data(), agrees=st.sampled_from([True, True, None, False]))
    def judge(self, data, agrees):
        job, task, peers = self.audits.pop(data.draw(st.integers(0, len(self.audits) - 1)))
        wrong = data.draw(st.sets(st.sampled_from(peers), min_size=1)) if agrees is False else set()
        right = None if agrees is None else tuple(peer for peer in peers if peer not in wrong)
        self.tell(AuditDone(job, task, right, tuple(sorted(wrong)), "wrong" if wrong else ""))

    @precondition(lambda self: getattr(self, "compares", None))
    @rule(data=st.data())
    def compare(self, data):
        job, peer, tasks = self.compares.pop(data.draw(st.integers(0, len(self.compares) - 1)))
        others = tuple(data.draw(st.sets(peers, max_size=2)))
        self.tell(CopiesCompared(job, peer, tuple((task, others) for task in tasks)))

    @rule(peer=peers, job=jobs, task=st.integers(0, 40), agrees=st.booleans())
    def judge_what_was_not_asked(self, peer, job, task, agrees):
        if not any((job, task) == audit[:2] for audit in self.audits):
            self.tell(AuditDone(job, task, (peer,) if agrees else (), () if agrees else (peer,), "?"))
            self.tell(CopiesCompared(job, peer, ((task, ()),)))

    @precondition(lambda self: getattr(self, "to_commit", None))
    @rule(data=st.data())
    def commit(self, data):
        job, tasks = self.to_commit.pop(data.draw(st.integers(0, len(self.to_commit) - 1)))
        self.tell(TasksCommitted(job, tasks))

    @rule(job=jobs)
    def drop(self, job):
        self.running.pop(job, None)
        self.forget(job)
        self.tell(JobDropped(job, "somebody else has the lease"))

    @rule(job=jobs, count=st.integers(0, 5))
    def add(self, job, count):
        spec = self.running.get(job)
        if spec is None or spec.online:
            self.tell(TasksAdded(job, count))

    @rule(job=jobs, event=st.sampled_from([JobClosed, JobCancelled, JobBroken]))
    def stop(self, job, event):
        made = {JobClosed: (job,), JobCancelled: (job, "enough"), JobBroken: (job, "disk full", "StateUnusable")}
        self.tell(event(*made[event]))

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0, 20.0, 300.0]))
    def wait(self, seconds):
        """With a tick at every deadline, and one that nobody asked for."""
        end_s = self.now_s + seconds
        for _ in range(10_000):
            if self.machine.deadline_s > end_s:
                break
            self.now_s = self.machine.deadline_s
            self.tell(Tick())
        else:
            raise AssertionError("it wants to be woken without end")
        self.now_s = end_s
        self.tell(Tick())

    # --- the end ---------------------------------------------------------------------------------------------------

    def teardown(self):
        if not hasattr(self, "machine"):
            return
        healer = PeerId("zoe")
        self.windows[healer] = 0
        self.tell(WorkerJoined(healer, WorkerOffer(True, ("cpu",), 1 << 40)))
        self.set_window(healer, 4)
        for job in JOBS:
            self.tell(JobClosed(job))
        for _ in range(5000):
            if not self.running:
                break
            if self.to_commit:
                self.tell(TasksCommitted(*self.to_commit.pop()))
            elif self.audits:
                job, task, answered = self.audits.pop()
                self.tell(AuditDone(job, task, answered))
            elif self.compares:
                job, peer, tasks = self.compares.pop()
                self.tell(CopiesCompared(job, peer, tuple((task, ()) for task in tasks)))
            elif mine := [frame for frame in self.frames.values() if frame.peer == healer]:
                del self.frames[mine[0].frame]
                self.tell(FrameAnswered(healer, mine[0].frame, tuple(range(len(mine[0].tasks))), (), 0.01))
            else:
                self.wait(min(self.machine.deadline_s - self.now_s, 300.0))
        assert not self.running, f"{self.machine.snapshot()} never ended"
        assert not self.frames
        assert all(self.machine.in_flight(peer) == 0 for peer in PEERS)


def test_states_are_as_many_as_the_picture_names():
    assert [state.name for state in TaskState] == ["OPEN", "ASSIGNED", "PROVISIONAL", "FINAL", "FAILED"]


TestAnyHistory = Histories.TestCase
TestAnyHistory.settings = settings(SAME_EVERY_TIME, max_examples=60, stateful_step_count=50)
