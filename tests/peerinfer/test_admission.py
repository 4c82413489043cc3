"""What a coordinator takes on, at the edge of its limits."""

import pytest

from peerinfer.admission import RETRY_AFTER_MAX_S, RETRY_AFTER_MIN_S, Workload, check_room
from peerinfer.errors import Busy
from peerinfer.limits import JOBS_MAX, OPEN_TASKS_MAX


def refused(load, tasks):
    with pytest.raises(Busy) as caught:
        check_room(load, tasks)
    return caught.value


def test_an_idle_node_takes_the_largest_load():
    check_room([], OPEN_TASKS_MAX)


def test_the_last_task_fits_and_one_more_does_not():
    load = [Workload(OPEN_TASKS_MAX - 10, done_tasks=0, running_s=0.0)]
    check_room(load, 10)
    error = refused(load, 11)
    assert str(error) == (
        f"this node coordinates 1 job with {OPEN_TASKS_MAX - 10:,} open tasks, of at most {JOBS_MAX:,} and "
        f"{OPEN_TASKS_MAX:,}; try again in about 10m"
    )


def test_the_last_job_fits_and_one_more_does_not():
    load = [Workload(1, 0, 0.0)] * (JOBS_MAX - 1)
    check_room(load, 1)
    refused([*load, Workload(1, 0, 0.0)], 0)


def test_it_says_when_enough_tasks_will_be_done():
    half = Workload(OPEN_TASKS_MAX // 2, done_tasks=5_000, running_s=10.0)
    assert refused([half, half], 30_000).retry_after_s == 30.0


def test_it_says_when_the_first_job_will_be_done():
    slow = Workload(1_000, done_tasks=10, running_s=10.0)
    fast = Workload(1_000, done_tasks=1_000, running_s=10.0)
    assert refused([slow] * (JOBS_MAX - 1) + [fast], 1).retry_after_s == 10.0


@pytest.mark.parametrize(
    ("done_tasks", "after_s"), [(0, RETRY_AFTER_MAX_S), (1, RETRY_AFTER_MAX_S), (10**9, RETRY_AFTER_MIN_S)]
)
def test_nobody_is_sent_away_for_an_instant_or_for_hours(done_tasks, after_s):
    assert refused([Workload(OPEN_TASKS_MAX, done_tasks, 10.0)], 1_000).retry_after_s == after_s


def test_a_job_that_has_just_begun_has_no_speed():
    assert Workload(5, 0, 0.0).tasks_per_s == 0.0
