"""Who is asked in the place of a worker that is held back, and how copies for comparison are gathered into frames."""

import random

import pytest
from coordination_bench import ADA, BEN, CAL, JOB, Bench, spec_of

from peerinfer.assignment import JobAccepted, SendFrame
from peerinfer.dispatch import COPIES_GATHER_S, HELD_ASKED_MAX, Dispatch, _Given
from peerinfer.ids import PeerId
from peerinfer.workforce import WorkerOffer, Workforce

LATER_S = 1e-6


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.machine.check()


class Links(Dispatch):
    """Each worker is held back for others, as the test says; one of none gets a frame."""

    def __init__(self, links):
        force = Workforce(random.Random(1))
        super().__init__(force, rng=random.Random(1), first_frame=1)
        self.links = links
        self.asked = []
        for peer in links:
            force.join(peer, WorkerOffer(local=False, kinds=("cpu",), memory_bytes=1), 0.0).room = 1

    def _ask(self, worker, jobs, now_s, unfit):
        self.asked.append(worker.peer)
        links = self.links[worker.peer]
        return (_Given.HELD, list(links)) if links else (_Given.FRAME, [])

    def give(self, peer):
        return self._give(self._force.workers[peer], [JOB], 0.0)


def test_whoever_is_held_back_for_somebody_held_back_is_not_waited_for():
    dispatch = Links({ADA: [BEN], BEN: [CAL], CAL: []})
    assert dispatch.give(ADA) is _Given.FRAME
    assert dispatch.asked == [ADA, BEN, CAL]


def test_workers_that_are_held_back_for_each_other_are_asked_once():
    dispatch = Links({ADA: [BEN, CAL], BEN: [ADA], CAL: [ADA, BEN]})
    assert dispatch.give(ADA) is _Given.HELD
    assert dispatch.asked == [ADA, BEN, CAL]


def test_no_more_than_a_few_are_asked_for_one_that_is_held_back():
    names = [PeerId(f"peer {number}") for number in range(2 * HELD_ASKED_MAX)]
    dispatch = Links({name: [after] for name, after in zip(names, [*names[1:], names[0]], strict=True)})
    assert dispatch.give(names[0]) is _Given.HELD
    assert dispatch.asked == names[: HELD_ASKED_MAX + 1]


# --- copies ----------------------------------------------------------------------------------------------------------


def _doubles(frames, answered):
    return [frame for frame in frames if answered & set(frame.tasks)]


def _answer_some(bench):
    """Ada and Ben answer their first frames of a job with far more tasks than these."""
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=4000, verify="quorum:2")))
    frames = bench.take(SendFrame)
    for frame in frames[:4]:
        bench.answer(frame, compute_s=0.2)
    return {task for frame in frames[:4] for task in frame.tasks}


def test_copies_wait_for_company_while_the_job_has_other_work(bench):
    answered = _answer_some(bench)
    assert _doubles(bench.take(SendFrame), answered) == []
    bench.pass_time(COPIES_GATHER_S - LATER_S)
    assert _doubles(bench.take(SendFrame), answered) == []


def test_gathered_copies_go_out_before_other_work(bench):
    answered = _answer_some(bench)
    bench.pass_time(COPIES_GATHER_S + LATER_S)
    for frame in bench.take(SendFrame):
        bench.answer(frame, compute_s=0.2)
    doubles = _doubles(bench.take(SendFrame), answered)
    assert {task for frame in doubles for task in frame.tasks} >= answered
    assert len(doubles) <= 4, "each of the two workers has room for two frames"


def test_copies_do_not_wait_when_nothing_else_is_to_be_done(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=2, verify="quorum:2")))
    frames = bench.take(SendFrame)
    for frame in frames:
        bench.answer(frame)
    answered = {task for frame in frames for task in frame.tasks}
    assert answered == {0, 1}
    assert {task for frame in bench.take(SendFrame) for task in frame.tasks} == answered
