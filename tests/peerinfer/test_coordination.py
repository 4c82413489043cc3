"""The coordinator's promises, one by one; `test_coordination_histories.py` plays them all at once."""

import random

import pytest

from peerinfer.assignment import (
    WITHDRAWN,
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
    TaskWithdrawn,
    VoidResults,
    WindowSet,
    WorkerJoined,
    WorkerLost,
    WorkerOffer,
)
from peerinfer.coordination import Coordination
from peerinfer.frame_ends import LOSSES_MAX, REFUSAL_REST_S, REFUSALS_MAX, STRIKES_MAX
from peerinfer.ids import Cid, JobId, PeerId
from peerinfer.machine import NEVER, Tick
from peerinfer.whitewashing import KEPT_OUT, NEW_NAMES_PER_DAY_MAX

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


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.machine.check()


# --- giving out ----------------------------------------------------------------------------------------------------


def test_a_job_is_worked_off_and_every_task_is_kept_once(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=100)))
    assert sorted(bench.work_off()) == list(range(100))
    end = bench.end()
    assert (end.state, end.picture.final, end.picture.open) == ("done", 100, 0)
    assert sum(end.picture.peers.values()) == 100
    assert bench.machine.jobs == ()
    assert bench.machine.deadline_s == NEVER


def test_a_job_that_has_everything_already_ends_at_once(bench):
    bench.tell(JobAccepted(spec_of(tasks=2, final=(0, 1))))
    assert bench.end().state == "done"


def test_a_job_is_accepted_once(bench):
    bench.join(ADA).tell(JobAccepted(spec_of()), JobAccepted(spec_of(tasks=99)))
    assert bench.picture().tasks == 8


def test_no_worker_gets_more_frames_than_its_window(bench):
    bench.join(ADA, window=3).tell(JobAccepted(spec_of(tasks=100)))
    assert len(bench.take(SendFrame)) == bench.machine.in_flight(ADA) == 3


def test_a_worker_that_has_not_stated_its_window_gets_nothing(bench):
    bench.tell(WorkerJoined(ADA, VOLUNTEER), JobAccepted(spec_of()))
    assert bench.take(SendFrame) == []


def test_a_closed_window_stops_new_frames_and_an_open_one_lets_them_through(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=100)))
    (frame,) = bench.take(SendFrame)
    bench.tell(WindowSet(ADA, 0, "paused")).answer(frame)
    assert bench.take(SendFrame) == []
    assert bench.picture().blocked == "1 peer: paused"
    bench.tell(WindowSet(ADA, 1, ""))
    assert len(bench.take(SendFrame)) == 1


def test_frames_shrink_toward_the_end(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=200, seconds_per_item=0.03)))
    sizes = []
    while frames := bench.take(SendFrame):
        sizes.append(len(frames[0].tasks))
        bench.now_s += 1.0
        bench.answer(frames[0], compute_s=0.03 * sizes[-1])
    from_largest = sizes[sizes.index(max(sizes)) :]
    assert from_largest == sorted(from_largest, reverse=True)
    assert sizes[-1] == 1


def test_two_jobs_share_the_workers(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=50)), JobAccepted(spec_of(OTHER, tasks=50)))
    order = []
    while frames := bench.take(SendFrame):
        order.append(frames[0].job)
        bench.now_s += 1.0
        bench.answer(frames[0], compute_s=0.01 * len(frames[0].tasks))
    assert {JOB, OTHER} == set(order[:4])


def test_a_job_that_comes_later_is_not_served_alone_to_make_up_for_the_past(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1000)))
    for _ in range(20):
        (frame,) = bench.take(SendFrame)
        bench.now_s += 1.0
        bench.answer(frame, compute_s=0.01 * len(frame.tasks))
    bench.tell(JobAccepted(spec_of(OTHER, tasks=1000)))
    seen = []
    for _ in range(8):
        (frame,) = bench.take(SendFrame)
        seen.append(frame.job)
        bench.now_s += 1.0
        bench.answer(frame, compute_s=0.01 * len(frame.tasks))
    assert seen.count(JOB) >= 2


def test_when_a_job_ends_its_workers_turn_to_the_next_at_once(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1, deadline_s=5.0)), JobAccepted(spec_of(OTHER, tasks=1)))
    (frame,) = bench.take(SendFrame)
    assert frame.job == JOB
    bench.pass_time(5.0)
    assert bench.end().job == JOB
    assert [frame.job for frame in bench.take(SendFrame)] == [OTHER]


@pytest.mark.parametrize(
    ("wish", "offer", "reason"),
    [
        ({"local_only": True}, VOLUNTEER, "only this node's own devices were asked for"),
        ({"device_kind": "gpu"}, VOLUNTEER, "has no GPU to lend"),
        ({"memory_bytes_min": 1 << 40}, VOLUNTEER, "has too little device memory"),
    ],
)
def test_a_worker_that_does_not_fit_gets_nothing_and_it_is_known_why(bench, wish, offer, reason):
    bench.join(ADA, offer=offer).tell(JobAccepted(spec_of(**wish)))
    assert bench.take(SendFrame) == []
    assert bench.machine.why_not(JOB, ADA) == reason


def test_a_job_without_any_suitable_peer_says_how_many_were_ruled_out_by_what(bench):
    bench.join(ADA, BEN).join(CAL, window=0)
    bench.tell(WindowSet(CAL, 0, "runs on battery"), WindowSet(ADA, 0, "runs on battery"))
    bench.tell(JobAccepted(spec_of(device_kind=None, memory_bytes_min=1 << 40, patience_s=10.0)))
    bench.pass_time(9.9)
    assert bench.take(JobEnded) == []
    bench.pass_time(0.2)
    end = bench.end()
    assert (end.state, end.kind) == ("failed", "NoSuitablePeer")
    assert end.reason == "no suitable peer within 10 s: 3 peers: have too little device memory"


def test_a_job_that_nobody_is_connected_for_says_so(bench):
    bench.tell(JobAccepted(spec_of(patience_s=5.0))).pass_time(5.0)
    assert bench.end().reason == "no suitable peer within 5 s: no peer that lends a device is connected"


def test_patience_starts_again_when_somebody_was_there(bench):
    bench.tell(JobAccepted(spec_of(tasks=100, patience_s=10.0))).pass_time(9.0)
    bench.join(ADA).pass_time(1.0).tell(WorkerLost(ADA, "gone")).pass_time(9.0)
    assert bench.take(JobEnded) == []
    bench.pass_time(1.1)
    assert bench.end().kind == "NoSuitablePeer"


def test_a_worker_that_was_busy_for_long_was_there_until_it_was_lost(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=1, seconds_per_item=100.0, patience_s=10.0))).pass_time(500.0)
    bench.take(SendFrame)
    bench.tell(WorkerLost(ADA, "gone"))
    assert bench.take(JobEnded) == []
    bench.pass_time(5.0).join(BEN)
    assert bench.work_off() == [0]


def test_a_task_that_was_withdrawn_before_it_was_sent_is_never_sent(bench):
    bench.tell(JobAccepted(spec_of(tasks=0, online=True)), TasksAdded(JOB, 3), TaskWithdrawn(JOB, 1))
    assert [failed.reason for failed in bench.take(TaskFailedForGood)] == [WITHDRAWN]
    bench.join(ADA)
    assert bench.work_off() == [0, 2]
    bench.tell(TaskWithdrawn(JOB, 0), TaskWithdrawn(JOB, 1))
    assert bench.take(TaskFailedForGood) == []


def test_a_frame_that_nobody_waits_for_is_cancelled_and_one_with_others_goes_on(bench):
    bench.tell(JobAccepted(spec_of(tasks=0, online=True)), TasksAdded(JOB, 1)).join(ADA, window=2)
    (alone,) = bench.take(SendFrame)
    bench.tell(TaskWithdrawn(JOB, 0))
    (cancelled,) = bench.take(CancelFrame)
    assert (cancelled.peer, cancelled.frame, cancelled.reason) == (ADA, alone.frame, WITHDRAWN)
    bench.answer(alone)
    assert bench.take(KeepResults) == []
    bench.tell(JobAccepted(spec_of(OTHER, tasks=2)))
    frames = bench.take(SendFrame)
    for task in frames[0].tasks[1:]:
        bench.tell(TaskWithdrawn(OTHER, task))
    assert bench.take(CancelFrame) == []
    bench.answer(frames[0])
    (kept,) = bench.take(KeepResults)
    assert kept.tasks == frames[0].tasks[:1]


def test_an_online_job_waits_for_workers_as_long_as_it_takes(bench):
    bench.tell(JobAccepted(spec_of(tasks=0, online=True)), TasksAdded(JOB, 1)).pass_time(10_000.0)
    assert bench.take(JobEnded) == []
    bench.join(ADA)
    assert bench.work_off() == [0]
    bench.tell(TasksAdded(JOB, 2))
    assert bench.work_off() == [1, 2]
    bench.tell(JobClosed(JOB))
    assert bench.end().state == "done"


def test_a_job_fails_at_its_deadline_and_stops_what_runs(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=100, deadline_s=3.0)))
    sent = {frame.frame for frame in bench.take(SendFrame)}
    bench.pass_time(3.0)
    end = bench.end()
    assert (end.state, end.kind, end.reason) == ("failed", "JobFailed", "not done within its deadline of 3 s")
    assert {cancel.frame for cancel in bench.take(CancelFrame)} == sent


@pytest.mark.parametrize(
    ("event", "state", "kind"),
    [
        (JobCancelled(JOB, "enough"), "cancelled", ""),
        (JobBroken(JOB, "disk full", "StateUnusable"), "failed", "StateUnusable"),
    ],
)
def test_a_job_that_is_cancelled_or_broken_stops_what_runs(bench, event, state, kind):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=100)))
    sent = {frame.frame for frame in bench.take(SendFrame)}
    bench.tell(event)
    end = bench.end()
    assert (end.state, end.reason, end.kind) == (state, event.reason, kind)
    assert {cancel.frame for cancel in bench.take(CancelFrame)} == sent
    assert bench.machine.in_flight(ADA) == 0


def test_what_was_not_checked_when_a_job_was_cancelled_is_not_called_final(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=40, verify="spot")))
    bench.answer(bench.take(SendFrame)[0])
    assert bench.picture().provisional > 0
    bench.tell(JobCancelled(JOB, "enough"))
    picture = bench.end().picture
    assert picture.final == 0
    assert picture.provisional > 0


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_task_that_failed_on_one_peer_goes_to_another(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1)))
    (frame,) = bench.take(SendFrame)
    bench.join(BEN).fail(frame).pass_time(1.0)
    (again,) = bench.take(SendFrame)
    assert (again.peer, again.tasks, again.attempts) == (BEN, (0,), (1,))


def test_a_task_is_tried_again_by_the_same_peer_where_there_is_no_other(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=1, retries=1)))
    bench.fail(bench.take(SendFrame)[0]).pass_time(1.0)
    (again,) = bench.take(SendFrame)
    assert again.peer == ADA
    bench.answer(again)
    end = bench.end()
    assert (end.state, end.picture.retried) == ("done", 1)


def test_a_failed_task_waits_longer_each_time(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=1, retries=9)))
    waits = []
    for _ in range(10):
        (frame,) = bench.take(SendFrame)
        failed_s = bench.now_s
        bench.fail(frame)
        if bench.machine.deadline_s < NEVER and not bench.take(JobEnded):
            bench.now_s = bench.machine.deadline_s
            bench.tell(Tick())
            waits.append(bench.now_s - failed_s)
    assert waits[0] <= 0.2
    assert waits[5] > 10 * waits[0]
    assert max(waits) <= 10.0


def test_a_task_that_fails_for_good_fails_alone_with_its_reason(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=8, retries=0)))
    (frame, *others) = bench.take(SendFrame)
    bench.answer(frame, failures=[(0, "model", "bad input")])
    for other in others:
        bench.answer(other)
    bench.work_off()
    assert bench.take(TaskFailedForGood) == [TaskFailedForGood(JOB, frame.tasks[0], "model: bad input")]
    end = bench.end()
    assert end.state == "done"
    assert end.picture.failed == {frame.tasks[0]: "model: bad input"}
    assert end.picture.final == 7


def test_a_cancelled_attempt_is_no_failure(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=1, retries=0)))
    bench.fail(bench.take(SendFrame)[0], kind="cancelled")
    assert bench.take(TaskFailedForGood) == []
    assert len(bench.take(SendFrame)) == 1


def test_what_a_lost_worker_had_goes_to_others_and_costs_no_retry(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=4, retries=0)))
    had = [task for frame in bench.take(SendFrame) for task in frame.tasks]
    bench.tell(WorkerLost(ADA, "vanished")).join(BEN)
    assert set(had) <= set(bench.work_off())
    assert bench.end().state == "done"


def test_a_task_that_was_with_many_workers_when_they_vanished_fails(bench):
    bench.tell(JobAccepted(spec_of(tasks=1)))
    for number in range(LOSSES_MAX + 1):
        assert bench.take(TaskFailedForGood) == [], number
        bench.join(PeerId(f"peer {number}"), window=1)
        assert len(bench.take(SendFrame)) == 1
        bench.tell(WorkerLost(PeerId(f"peer {number}"), "vanished"))
    assert bench.take(TaskFailedForGood) == [TaskFailedForGood(JOB, 0, "vanished")]


def test_a_worker_that_joins_again_without_having_left_keeps_no_frames(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=8)))
    (old, *_) = bench.take(SendFrame)
    bench.join(ADA)
    assert sorted(bench.work_off()) == list(range(8))
    bench.answer(old)
    assert bench.end().state == "done"
    assert bench.take(DropResults) == [DropResults(ADA, old.frame)]


# --- frames that are late, refused or unknown ------------------------------------------------------------------------


def test_a_frame_that_takes_too_long_is_cancelled_and_its_tasks_go_elsewhere(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1, task_timeout_s=2.0)))
    (frame,) = bench.take(SendFrame)
    bench.join(BEN).pass_time(200.0)
    assert CancelFrame(ADA, frame.frame, "it took too long") in bench.take(CancelFrame)
    assert bench.take(SendFrame)[0].peer == BEN


def test_a_worker_that_answers_nothing_in_time_gets_no_more_of_the_job(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=100, retries=50))).pass_time(1000.0)
    assert len(bench.take(SendFrame)) == STRIKES_MAX
    assert bench.end().reason.endswith(f"1 peer: answered none of {STRIKES_MAX} frames in time")


def test_one_answer_in_time_clears_the_strikes(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1000, retries=50)))
    for _ in range(3):
        for _ in range(STRIKES_MAX - 1):
            bench.next_frame()
            bench.pass_time(bench.machine.deadline_s - bench.now_s)
        bench.answer(bench.next_frame())
    assert bench.machine.why_not(JOB, ADA) is None


def test_a_refused_frame_is_not_offered_in_a_circle(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of()))
    (frame,) = bench.take(SendFrame)
    bench.tell(FrameRefused(ADA, frame.frame, "busy", final=False))
    assert bench.take(SendFrame) == []
    bench.pass_time(REFUSAL_REST_S)
    assert len(bench.take(SendFrame)) == 1


def test_a_refused_frame_bears_no_mark_and_goes_to_whoever_has_room(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1)))
    (frame,) = bench.take(SendFrame)
    bench.tell(FrameRefused(ADA, frame.frame, "busy", final=False)).join(BEN)
    (again,) = bench.take(SendFrame)
    assert (again.peer, again.attempts) == (BEN, (0,))


def test_a_worker_that_refuses_for_good_gets_no_more_of_the_job_but_of_others(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of()))
    (frame,) = bench.take(SendFrame)
    bench.tell(FrameRefused(ADA, frame.frame, "refuses the model", final=True))
    assert bench.machine.why_not(JOB, ADA) == "refuses the model"
    bench.tell(JobAccepted(spec_of(OTHER)))
    assert [frame.job for frame in bench.take(SendFrame)] == [OTHER]


def test_a_worker_that_always_refuses_is_given_up(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(patience_s=30.0)))
    for _ in range(REFUSALS_MAX):
        (frame,) = bench.take(SendFrame)
        bench.tell(FrameRefused(ADA, frame.frame, "busy", final=False)).pass_time(REFUSAL_REST_S)
    assert bench.take(SendFrame) == []
    bench.pass_time(30.0)
    assert bench.end().reason == "no suitable peer within 30 s: 1 peer: busy"


def test_results_of_an_unknown_frame_are_dropped(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of()))
    (frame, *_) = bench.take(SendFrame)
    bench.tell(FrameAnswered(ADA, 999, (0,), (), 0.1), FrameAnswered(CAL, frame.frame, (0,), (), 0.1))
    stranger = BEN if frame.peer == ADA else ADA
    bench.tell(FrameAnswered(stranger, frame.frame, (0,), (), 0.1), FrameRefused(CAL, frame.frame, "no", False))
    assert len(bench.take(DropResults)) == 3
    assert bench.take(KeepResults) == []
    assert bench.picture().final == 0


def test_results_that_come_after_the_frames_time_are_dropped(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1)))
    (frame,) = bench.take(SendFrame)
    bench.pass_time(120.0).answer(frame)
    assert bench.take(DropResults) == [DropResults(ADA, frame.frame)]


@pytest.mark.parametrize("claim_s", [1e-300, 0.0, 1e300, 1.7e308])
def test_what_a_worker_claims_of_its_time_cannot_starve_a_job(bench, claim_s):
    """It cannot have computed for longer than its frame was away."""
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=20_000)), JobAccepted(spec_of(OTHER, tasks=20_000)))
    jobs = []
    for _ in range(12):
        (frame,) = bench.take(SendFrame)
        jobs.append(frame.job)
        bench.now_s += 0.1
        bench.answer(frame, compute_s=claim_s)
    assert jobs.count(JOB) >= 3
    assert jobs.count(OTHER) >= 3


# --- audits --------------------------------------------------------------------------------------------------------


def play_spot(bench, *, tasks=200, peers=(ADA, BEN)):
    """Everything is answered; what was drawn waits for its audit."""
    bench.join(*peers).tell(JobAccepted(spec_of(tasks=tasks, verify="spot")))
    bench.work_off()
    return bench.take(Audit)


def test_every_worker_is_audited_at_least_once(bench):
    audits = play_spot(bench, tasks=6, peers=(ADA, BEN, CAL))
    worked = {peer for peer, count in bench.picture().peers.items() if count}
    assert {audit.peers[0] for audit in audits} == worked


def test_about_one_task_in_twenty_is_audited_and_of_strangers_more_at_first(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=1000, verify="spot")))
    audits = []
    while frames := bench.take(SendFrame):
        for frame in frames:
            bench.answer(frame)
            drawn = bench.take(Audit)
            audits += drawn
            for audit in drawn:
                bench.tell(AuditDone(JOB, audit.task, audit.peers))
    assert 50 <= len(audits) <= 130
    assert sum(audit.task < 100 for audit in audits) > 2 * sum(audit.task >= 900 for audit in audits)


def test_a_job_ends_only_after_its_last_audit(bench):
    (*others, last) = play_spot(bench)
    for audit in others:
        bench.tell(AuditDone(JOB, audit.task, audit.peers))
    assert bench.take(JobEnded) == []
    assert bench.picture().provisional > 0
    bench.audit([last])
    end = bench.end()
    assert (end.state, end.picture.final) == ("done", 200)
    assert end.picture.audited >= len(others) + 1


def test_results_are_final_when_the_journal_has_them(bench):
    bench.commits = False
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1)))
    bench.work_off()
    assert (bench.picture().provisional, bench.picture().final) == (1, 0)
    (settle,) = bench.take(Settle)
    assert settle == Settle(JOB, ADA, (0,), True)
    bench.tell(TasksCommitted(JOB, (0,)))
    assert bench.end().picture.final == 1


def test_nothing_goes_into_the_journal_before_an_audit_has_covered_it(bench):
    bench.commits = False
    audits = play_spot(bench)
    assert bench.take(Settle) == []
    bench.audit(audits)
    settled = [task for settle in bench.take(Settle) for task in settle.tasks]
    assert sorted(settled) == list(range(200))


def test_a_job_that_somebody_else_coordinates_now_stops_without_an_end(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=100)))
    sent = {frame.frame for frame in bench.take(SendFrame)}
    bench.tell(JobDropped(JOB, "the lease is lost"))
    assert {cancel.frame for cancel in bench.take(CancelFrame)} == sent
    assert bench.take(JobEnded) == []
    assert bench.machine.jobs == ()


def test_this_nodes_own_devices_are_believed(bench):
    bench.join(OWN, offer=LOCAL).tell(JobAccepted(spec_of(verify="spot")))
    bench.work_off()
    assert bench.take(Audit) == []
    assert bench.end().picture.final == 8


def test_an_audit_that_could_not_be_computed_here_is_not_passed_but_done_by_somebody_else(bench):
    audits = play_spot(bench)
    for _ in range(20):
        bench.audit(audits, agrees=None)
        audits = []
        bench.work_off()
    end = bench.end()
    assert (end.state, end.picture.audited, end.picture.final) == ("done", 0, 200)
    assert end.picture.copied >= 2
    assert {copies.peer for copies in bench.take(CompareCopies)} == {ADA, BEN}


def test_results_that_nobody_can_check_do_not_count(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=4, verify="spot")))
    for _ in range(20):
        bench.work_off()
        bench.audit(agrees=None)
    bench.pass_time(10.0)
    end = bench.end()
    assert (end.state, end.picture.final, len(end.picture.failed)) == ("done", 0, 4)
    assert all(reason.startswith("unverified: ") for reason in end.picture.failed.values())


def test_a_worker_that_is_caught_loses_all_its_provisional_results_of_every_job(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=100, verify="spot")))
    bench.tell(JobAccepted(spec_of(OTHER, tasks=100, verify="spot")))
    bench.work_off()
    audits = bench.take(Audit)
    held = {job: bench.picture(job).peers[ADA] for job in (JOB, OTHER)}
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(caught.job, caught.task, (), (ADA,), "task 3: wrong"))
    voided = bench.take(VoidResults)
    lost = {job: sum(len(void.tasks) for void in voided if void.job == job) for job in (JOB, OTHER)}
    assert lost == held
    assert all(void.peer == ADA for void in voided)
    assert [drop.peer for drop in bench.take(DropWorker)] == [ADA]
    assert bench.machine.caught == {ADA: "a result did not stand up to its check: task 3: wrong"}


def test_who_was_caught_comes_back_under_few_new_names_from_the_same_network(bench):
    here, elsewhere = (WorkerOffer(False, ("cpu",), 1 << 33, groups=(net,)) for net in ("9.9.9.0/24", "8.8.8.0/24"))
    bench.join(ADA, offer=here).join(BEN, offer=here).tell(JobAccepted(spec_of(tasks=1000, verify="spot")))
    for frame in bench.take(SendFrame):
        bench.answer(frame)
    caught = next(audit for audit in bench.take(Audit) if audit.peers[0] == ADA)
    bench.tell(AuditDone(caught.job, caught.task, (), (ADA,), "wrong"))
    names = [PeerId(f"name {number}") for number in range(NEW_NAMES_PER_DAY_MAX + 3)]
    for name in names:
        bench.join(name, offer=here)
    bench.join(CAL, offer=elsewhere).join(BEN, offer=here)
    kept_out = [name for name in names if bench.machine.why_not(JOB, name) == KEPT_OUT]
    assert kept_out == names[NEW_NAMES_PER_DAY_MAX:]
    given = {frame.peer for frame in bench.take(SendFrame)}
    assert given >= {BEN, CAL, *names[:NEW_NAMES_PER_DAY_MAX]}, "who is known, or from elsewhere, comes as before"
    assert not given & set(kept_out)


def test_a_caught_workers_tasks_are_computed_again_by_others_and_the_job_ends(bench):
    audits = play_spot(bench)
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(JOB, caught.task, (), (ADA,), "wrong"))
    void = [task for void in bench.take(VoidResults) for task in void.tasks]
    frames = bench.take(SendFrame)
    assert all(frame.peer == BEN for frame in frames)
    bench.effects += frames
    assert sorted(bench.work_off()) == sorted(void)
    bench.audit([audit for audit in audits if audit.peers[0] == BEN])
    end = bench.end()
    assert (end.state, end.picture.final, end.picture.audits_failed) == ("done", 200, 1)
    assert ADA not in end.picture.peers


def test_a_caught_worker_gets_nothing_more_even_when_it_comes_back(bench):
    audits = play_spot(bench)
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(JOB, caught.task, (), (ADA,), "wrong"))
    bench.take(SendFrame)
    bench.join(ADA).tell(JobAccepted(spec_of(OTHER)))
    assert all(frame.peer != ADA for frame in bench.take(SendFrame))
    assert bench.machine.why_not(OTHER, ADA) == "gave a wrong result"


def test_audits_of_a_caught_worker_that_are_under_way_are_not_waited_for(bench):
    audits = [audit for audit in play_spot(bench) if audit.peers[0] == ADA]
    bench.tell(AuditDone(JOB, audits[0].task, (), (ADA,), "wrong"))
    bench.work_off()
    before = bench.picture().audits_failed
    for audit in audits[1:]:
        bench.tell(AuditDone(JOB, audit.task, (), (ADA,), "wrong"))
    assert bench.picture().audits_failed == before == 1


def test_verdicts_that_nobody_waits_for_are_ignored(bench):
    bench.tell(AuditDone(JOB, 0, (), (ADA,), "wrong"))
    bench.join(ADA).tell(JobAccepted(spec_of(verify="none")), AuditDone(JOB, 0, (), (ADA,), "wrong"))
    assert bench.machine.caught == {}


def test_results_that_an_earlier_job_left_unchecked_are_checked_now(bench):
    bench.tell(JobAccepted(spec_of(tasks=4, verify="spot", kept=((ADA, False, (0, 2)), (BEN, False, (3,))))))
    audits = bench.take(Audit)
    assert {audit.peers[0] for audit in audits} == {ADA, BEN}
    assert {audit.task for audit in audits} <= {0, 2, 3}
    bench.join(CAL)
    assert bench.work_off() == [1]


def test_unchecked_results_of_a_peer_that_was_caught_since_are_computed_again(bench):
    audits = play_spot(bench)
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(JOB, caught.task, (), (ADA,), "wrong"), JobCancelled(JOB, ""))
    bench.take(SendFrame)
    bench.tell(JobAccepted(spec_of(OTHER, tasks=2, verify="spot", kept=((ADA, False, (0, 1)),))))
    assert bench.picture(OTHER).provisional == 0


# --- copies --------------------------------------------------------------------------------------------------------


def audits_of(bench, *peers, count=30):
    """Peers that have stood up to so many checks before."""
    for peer in peers:
        for _ in range(count):
            bench.machine.reputation.passed(peer, bench.now_s)


def play(bench, verify, *, tasks=40, honest_audits=True, rounds=200):
    """To the end of a job, whatever is asked: copies, audits, redoing."""
    bench.tell(JobAccepted(spec_of(tasks=tasks, verify=verify)))
    for _ in range(rounds):
        bench.work_off()
        for audit in bench.take(Audit):
            wrong = tuple(peer for peer in audit.peers if peer in bench.liars)
            right = tuple(peer for peer in audit.peers if peer not in bench.liars)
            told = (
                AuditDone(audit.job, audit.task, right, wrong, "no")
                if honest_audits
                else AuditDone(JOB, audit.task, None)
            )
            bench.tell(told)
        if not bench.machine.jobs:
            break
        bench.pass_time(1.0)
    return bench.end()


def test_a_quorum_is_computed_twice_and_counts_when_both_agree(bench):
    bench.join(ADA, BEN)
    end = play(bench, "quorum:2")
    assert (end.state, end.picture.final, end.picture.copied, end.picture.audited) == ("done", 40, 40, 0)
    assert end.picture.grounds == {"quorum": 40}


def test_copies_never_go_to_peers_of_the_same_subnet(bench):
    for peer, subnet in ((ADA, "9.9.9.0/24"), (BEN, "9.9.9.0/24"), (CAL, "8.8.8.0/24")):
        bench.join(peer, offer=WorkerOffer(False, ("cpu",), 1 << 33, groups=(subnet,)))
    end = play(bench, "quorum:2")
    assert end.state == "done"
    kept = {(kept.job, task): kept.peer for kept in bench.kept for task in kept.tasks}
    assert kept
    for key, others in bench.copied.items():
        assert {kept[key], *others} != {ADA, BEN}


def test_a_quorum_that_cannot_be_had_is_this_nodes_own_affair(bench):
    bench.join(ADA)
    end = play(bench, "quorum:2")
    assert (end.state, end.picture.final, end.picture.audited) == ("done", 40, 40)


def test_a_quorum_that_cannot_be_had_at_all_makes_no_result_final(bench):
    bench.join(ADA)
    end = play(bench, "quorum:2", tasks=3, honest_audits=False)
    assert (end.picture.final, len(end.picture.failed)) == (0, 3)
    assert "no 2 distinct peers agree" in end.picture.failed[0]


@pytest.mark.parametrize("verify", ["quorum:2", "adaptive", "spot"])
def test_a_liar_is_caught_under_every_policy_and_what_is_final_is_right(bench, verify):
    bench.liars = {BEN}
    bench.join(ADA, BEN, CAL)
    audits_of(bench, CAL)
    end = play(bench, verify)
    assert (end.state, end.picture.final) == ("done", 40)
    assert BEN not in end.picture.peers
    assert list(bench.machine.caught) == [BEN]


def test_newcomers_are_doubled_with_somebody_who_has_proven_himself(bench):
    bench.join(ADA, CAL)
    audits_of(bench, CAL)
    bench.join(CAL)
    end = play(bench, "adaptive")
    first = {task for kept in bench.kept if kept.peer == ADA for task in kept.tasks}
    doubled = {task for (_, task), peers in bench.copied.items() if CAL in peers}
    assert first <= doubled | set(range(40))
    assert len(first & doubled) >= min(len(first), 20)
    assert (end.state, end.picture.final) == ("done", 40)
    assert end.picture.error_bound < 1e-3


def test_a_copy_that_a_worker_took_along_goes_to_another(bench):
    bench.join(ADA)
    bench.tell(JobAccepted(spec_of(tasks=1, verify="quorum:2")))
    bench.work_off()
    bench.join(BEN)
    (double,) = bench.take(SendFrame)
    assert (double.peer, double.tasks) == (BEN, (0,))
    bench.tell(WorkerLost(BEN, "gone")).join(CAL)
    (again,) = bench.take(SendFrame)
    assert (again.peer, again.tasks) == (CAL, (0,))
    bench.answer(again)
    assert bench.end().state == "done"


def test_a_device_that_is_only_too_coarse_is_no_liar_until_it_happens_again_and_again(bench):
    for number, job in enumerate((JOB, OTHER, JobId("3" * 32))):
        bench.join(ADA)
        bench.tell(JobAccepted(spec_of(job, tasks=2, verify="spot")))
        bench.work_off()
        (audit, *_) = bench.take(Audit)
        bench.tell(AuditDone(job, audit.task, (), (ADA,), "0.51 where 0.5 is right", (ADA,)))
        bench.take(SendFrame)
        assert bench.machine.is_barred(ADA) == (number == 2)
        if number < 2:
            assert "less precisely" in bench.machine.why_not(job, ADA)
            assert bench.machine.reputation.standing(ADA, bench.now_s).faults == 0
        bench.tell(JobCancelled(job, ""))


def test_what_was_seen_of_a_peer_outlives_the_job(bench):
    bench.join(ADA)
    play(bench, "spot")
    standing = bench.machine.reputation.standing(ADA, bench.now_s)
    assert standing.audits >= 4
    bench.liars = {ADA}
    bench.tell(JobAccepted(spec_of(OTHER, tasks=4, verify="quorum:2")))
    bench.work_off()
    bench.pass_time(6.0)
    for audit in bench.take(Audit):
        bench.tell(AuditDone(OTHER, audit.task, (), (ADA,), "no"))
    assert bench.machine.reputation.standing(ADA, bench.now_s).faults == 1


# --- the rest ------------------------------------------------------------------------------------------------------


def test_events_of_jobs_and_workers_that_are_not_there_do_nothing(bench):
    bench.tell(
        TasksAdded(JOB, 3),
        JobClosed(JOB),
        JobCancelled(JOB, ""),
        JobBroken(JOB, "", ""),
        WorkerLost(ADA, ""),
        WindowSet(ADA, 5, ""),
        FrameRefused(ADA, 1, "", True),
        Tick(),
    )
    assert bench.effects == []
    assert bench.machine.deadline_s == NEVER


def test_the_same_seed_and_events_give_the_same_effects():
    def played():
        bench = Bench()
        play_spot(bench)
        return bench.effects

    assert played() == played()


def test_the_check_notices_a_task_that_is_in_no_frame(bench):
    bench.join(ADA).tell(JobAccepted(spec_of()))
    broken = Bench()
    broken.join(ADA).tell(JobAccepted(spec_of()))
    broken.machine._workers[ADA].frames.clear()
    with pytest.raises(AssertionError, match="a frame is lost between its job and its worker"):
        broken.machine.check()
