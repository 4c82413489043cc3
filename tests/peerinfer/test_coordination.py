"""The coordinator's promises, one by one; `test_coordination_histories.py` plays them all at once."""

import pytest
from coordination_bench import ADA, BEN, CAL, JOB, OTHER, VOLUNTEER, Bench, play_spot, spec_of

from peerinfer.assignment import (
    WITHDRAWN,
    CancelFrame,
    DropResults,
    FrameAnswered,
    FrameRefused,
    JobAccepted,
    JobBroken,
    JobCancelled,
    JobClosed,
    JobEnded,
    KeepResults,
    SendFrame,
    TaskFailedForGood,
    TasksAdded,
    TaskWithdrawn,
    WindowSet,
    WorkerJoined,
    WorkerLost,
)
from peerinfer.frame_ends import LOSSES_MAX, REFUSAL_REST_S, REFUSALS_MAX, STRIKES_MAX
from peerinfer.ids import PeerId
from peerinfer.machine import NEVER, Tick


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


@pytest.mark.parametrize(("tasks", "which"), [(1, "the only task"), (8, "all 8 tasks")])
def test_a_job_of_which_every_task_failed_has_failed(bench, tasks, which):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=tasks, retries=0)))
    while frames := bench.take(SendFrame):
        for frame in frames:
            bench.answer(frame, failures=[(place, "model", "bad input") for place in range(len(frame.tasks))])
    end = bench.end()
    assert (end.state, end.kind, end.reason) == ("failed", "JobFailed", f"{which} failed: model: bad input")
    assert len(end.picture.failed) == tasks


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


@pytest.mark.parametrize(
    ("kind", "words"),
    [("memory", "too little memory"), ("crash", "its process died"), ("timeout", "a task took too long")],
)
def test_a_job_that_is_too_much_for_a_worker_from_the_first_ends_and_says_so(bench, kind, words):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=100, retries=50)))
    while bench.machine.why_not(JOB, ADA) is None:
        bench.fail(bench.next_frame(), kind)
    bench.pass_time(100.0)
    assert f"1 peer: gave no result for {STRIKES_MAX} tasks: {words}" in bench.end().reason


def test_a_job_that_needs_more_memory_than_a_worker_has_leaves_it_to_other_jobs(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=100, retries=50)))
    while bench.machine.why_not(JOB, ADA) is None:
        bench.fail(bench.next_frame(), "memory")
    bench.tell(JobAccepted(spec_of(job=OTHER)))
    assert bench.next_frame().job == OTHER


def test_frames_that_are_too_much_for_a_worker_are_no_reason_to_put_it_aside_while_single_tasks_are_not(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=100, retries=3)))
    while not bench.take(JobEnded):
        frame = bench.next_frame()
        if len(frame.tasks) > 1:
            bench.fail(frame, "memory")
        else:
            bench.answer(frame)
    assert len({task for kept in bench.kept for task in kept.tasks}) == 100


def test_a_worker_that_has_given_results_is_not_put_aside_for_a_few_tasks_that_are_too_large_for_it(bench):
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1000, retries=50)))
    bench.answer(bench.next_frame())
    for _ in range(STRIKES_MAX + 1):
        bench.fail(bench.next_frame(), "memory")
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
