"""A manifest comes from a stranger: nodes that count by it must be able to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lease_setting import PEERS, Setting, keys

from peerinfer.envelope import seal
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId
from peerinfer.limits import JOB_TASKS_MAX
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest

SUBMITTER = 7


def opened(**changes: Any) -> tuple[JobId, Manifest]:
    manifest = replace(Setting(submitter=SUBMITTER).manifest, **changes)
    return open_manifest(seal(manifest, PEERS[SUBMITTER], keys(SUBMITTER).sign))


@pytest.mark.parametrize(
    ("items", "tasks", "items_per_task"), [(0, 0, 1), (10, 10, 1), (10, 4, 3), (JOB_TASKS_MAX, JOB_TASKS_MAX, 1)]
)
def test_tasks_that_the_items_make_are_taken(items: int, tasks: int, items_per_task: int) -> None:
    assert opened(items=items, tasks=tasks, items_per_task=items_per_task)[1].tasks == tasks


@pytest.mark.parametrize(
    ("items", "tasks", "items_per_task"), [(10, 10, 0), (10, 3, 3), (1, 1000, 1), (1 << 31, 1, 1), (0, 1, 1)]
)
def test_tasks_that_the_items_do_not_make_are_refused(items: int, tasks: int, items_per_task: int) -> None:
    with pytest.raises(ProtocolError, match="tasks are not those that its items make"):
        opened(items=items, tasks=tasks, items_per_task=items_per_task)


def test_more_tasks_than_a_job_may_have_are_refused() -> None:
    with pytest.raises(ProtocolError, match=f"{JOB_TASKS_MAX} are possible"):
        opened(items=JOB_TASKS_MAX + 1, tasks=JOB_TASKS_MAX + 1)
