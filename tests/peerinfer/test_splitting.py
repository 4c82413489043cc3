"""Items become tasks that can be lost cheaply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import SAME_EVERY_TIME

from peerinfer.limits import MIB
from peerinfer.splitting import (
    TASK_BYTES_TARGET,
    TASK_ITEMS_MAX,
    TASK_SECONDS_TARGET,
    TASKS_WANTED,
    split_items,
)


def split(items, *, bytes_per_item=1, seconds_per_item=1e-6, block=1, batch=None):
    return split_items(
        items, bytes_per_item=bytes_per_item, seconds_per_item=seconds_per_item, block=block, batch=batch
    )


@SAME_EVERY_TIME
@given(
    runs=st.integers(0, 10_000),
    block=st.integers(1, 64),
    bytes_per_item=st.integers(0, 100 * MIB),
    seconds_per_item=st.floats(0, 100),
    batch=st.none() | st.integers(1, 1_000_000),
)
def test_every_item_is_in_exactly_one_task_of_whole_blocks(runs, block, bytes_per_item, seconds_per_item, batch):
    items = runs * block
    cut = split(items, block=block, bytes_per_item=bytes_per_item, seconds_per_item=seconds_per_item, batch=batch)
    assert cut.items_per_task % block == 0 or not items
    covered = 0
    for task in range(cut.tasks):
        assert cut.first_item(task) == covered
        assert 1 <= cut.items_of(task) <= cut.items_per_task
        assert cut.items_of(task) % block == 0
        covered += cut.items_of(task)
    assert covered == items


@pytest.mark.parametrize(
    ("given_values", "items_per_task"),
    [
        ({}, TASK_ITEMS_MAX),
        ({"seconds_per_item": 0.01}, round(TASK_SECONDS_TARGET / 0.01)),
        ({"seconds_per_item": 60.0}, 1),
        ({"bytes_per_item": TASK_BYTES_TARGET // 4}, 4),
        ({"bytes_per_item": 16 * TASK_BYTES_TARGET}, 1),
        ({"batch": 7}, 7),
        ({"batch": 7, "block": 4}, 4),
        ({"batch": 2, "block": 4}, 4),
        ({"seconds_per_item": 60.0, "block": 8}, 8),
    ],
)
def test_a_task_is_as_large_as_time_and_bytes_allow(given_values, items_per_task):
    assert split(1_000_000, **given_values).items_per_task == items_per_task


def test_few_items_are_spread_over_many_tasks():
    assert split(TASKS_WANTED).tasks == TASKS_WANTED
    assert split(10 * TASKS_WANTED).items_per_task == 10


def test_a_batch_larger_than_the_job_is_one_task():
    assert split(5, batch=1000).tasks == 1
