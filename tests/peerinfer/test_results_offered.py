"""What workers computed for an earlier coordinator: given to them first, and to nobody else meanwhile."""

import pytest
from coordination_bench import ADA, BEN, CAL, JOB, LOCAL, OWN, Bench, spec_of

from peerinfer.assignment import CancelFrame, JobAccepted, JobDropped, JobEnded, ResultsOffered, SendFrame, WorkerLost
from peerinfer.known_answers import OFFERS_MAX
from peerinfer.ledger import Ledger, TaskState

SETTLES_S = 0.25


@pytest.fixture
def bench():
    return Bench()


def accept(bench, **more):
    bench.tell(JobAccepted(spec_of(verify="none", **({"settles_s": SETTLES_S} | more))))


def test_after_a_takeover_a_worker_is_given_just_the_frame_that_it_computed_and_others_wait(bench):
    bench.join(ADA, BEN)
    accept(bench)
    assert bench.take(SendFrame) == []
    bench.tell(ResultsOffered(ADA, JOB, (5, 2)))
    (frame,) = bench.take(SendFrame)
    assert (frame.peer, frame.tasks) == (ADA, (5, 2))
    bench.answer(frame, compute_s=0.0)
    bench.pass_time(SETTLES_S)
    done = bench.work_off()
    assert sorted(done) == [0, 1, 3, 4, 6, 7], "a task was computed twice, or forgotten"
    assert [end.state for end in bench.take(JobEnded)] == ["done"]


def test_where_nobody_took_over_nobody_waits(bench):
    bench.join(ADA)
    accept(bench, settles_s=0.0)
    assert bench.take(SendFrame) != []


def test_an_offer_of_what_somebody_else_is_at_makes_a_race_that_the_offer_wins(bench):
    bench.join(ADA, window=1)
    accept(bench, settles_s=0.0, tasks=3)
    (slow,) = bench.take(SendFrame)
    bench.join(BEN, window=2)
    bench.take(SendFrame)
    bench.tell(ResultsOffered(BEN, JOB, slow.tasks))
    frames = bench.take(SendFrame)
    assert [(frame.peer, frame.tasks) for frame in frames] == [(BEN, slow.tasks)]
    bench.answer(frames[0], compute_s=0.0)
    assert [(cancel.peer, cancel.frame) for cancel in bench.take(CancelFrame)] == [(ADA, slow.frame)]


@pytest.mark.parametrize("tasks", [(), (1, 1), (99,), tuple(range(2000))], ids=["none", "twice", "unknown", "too-many"])
def test_an_offer_that_makes_no_sense_gives_nothing(bench, tasks):
    bench.join(ADA)
    accept(bench)
    bench.tell(ResultsOffered(ADA, JOB, tasks))
    assert bench.take(SendFrame) == []


def test_an_offer_of_what_is_answered_already_in_part_gives_nothing_more(bench):
    bench.join(ADA, window=1)
    accept(bench, settles_s=0.0, tasks=2)
    bench.work_off()
    bench.tell(ResultsOffered(ADA, JOB, (0, 1)))
    assert bench.take(SendFrame) == []


def test_offers_wait_for_room_and_go_with_their_worker_and_their_job(bench):
    bench.join(ADA, window=1)
    accept(bench)
    bench.tell(*(ResultsOffered(ADA, JOB, (task,)) for task in range(4)))
    (frame,) = bench.take(SendFrame)
    bench.answer(frame, compute_s=0.0)
    assert [frame.tasks for frame in bench.take(SendFrame)] == [(1,)]
    bench.tell(WorkerLost(ADA, "gone"))
    bench.join(ADA, window=1)
    assert bench.take(SendFrame) == []
    bench.tell(ResultsOffered(ADA, JOB, (3,)), ResultsOffered(ADA, JOB, (2,)), JobDropped(JOB, "the lease is over"))
    assert len(bench.take(SendFrame)) == 1
    bench.pass_time(1.0)
    assert bench.take(SendFrame) == []


def test_no_worker_may_fill_the_memory_with_offers(bench):
    bench.join(ADA, window=0)
    accept(bench, tasks=3 * OFFERS_MAX)
    bench.tell(*(ResultsOffered(ADA, JOB, (task,)) for task in range(3 * OFFERS_MAX)))
    assert bench.machine._dispatch._known.of(ADA) == OFFERS_MAX


def test_a_worker_that_offers_does_not_seem_fast_for_what_it_did_not_compute(bench):
    bench.join(ADA, BEN, CAL)
    accept(bench, tasks=100)
    before = bench.machine.estimates.known(ADA, spec_of().model)
    bench.tell(ResultsOffered(ADA, JOB, tuple(range(50))))
    (frame,) = bench.take(SendFrame)
    bench.answer(frame, compute_s=0.0)
    assert bench.machine.estimates.known(ADA, spec_of().model) == before is False


def test_the_own_device_waits_too(bench):
    bench.join(OWN, offer=LOCAL)
    accept(bench)
    assert bench.take(SendFrame) == []
    bench.pass_time(SETTLES_S)
    assert bench.take(SendFrame) != []


def test_tasks_that_were_claimed_out_of_turn_are_taken_once_however_often_they_come_back():
    ledger = Ledger(6, retries=3)
    for _ in range(3):
        assert ledger.claim([4, 1, 99]) == [4, 1]
        assert ledger.claim([1]) == []
        assert ledger.waiting == 4
        ledger.check()
        ledger.give_back([4, 1])
        ledger.check()
    assert ledger.failed_at(ledger.claim([2])[0], ADA, "no", crashed=False, retry_at_s=5.0)
    assert ledger.claim([2]) == [2]
    ledger.wake(10.0)
    ledger.check()
    assert sorted(ledger.take(10, ADA, [ADA])) == [0, 1, 3, 4, 5]
    assert ledger.state(2) == TaskState.ASSIGNED
    ledger.check()


def test_a_claim_is_forgotten_where_the_queue_is_gone_through():
    ledger = Ledger(5, retries=3)
    ledger.claim([3])
    ledger.give_back([3])
    ledger.claim([0])
    assert ledger.adopt([1, 3]) == [1, 3]
    ledger.check()
    assert ledger.withdraw(2, "nobody wants it")
    ledger.check()
    assert ledger.take(9, ADA, [ADA]) == [4]
