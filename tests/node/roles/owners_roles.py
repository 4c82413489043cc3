"""The roles of an owner's node that tell a job's electors what it wants, among stand-ins of electors and elections."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from lease_setting import PEERS, Setting, keys

from peerinfer_node.log import Log
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import JobRow
from peerinfer_node.roles.cancelling import Cancelling
from peerinfer_node.roles.priorities import Priorities

OWNER = 7
JOB = Setting(submitter=OWNER)


def priorities_of(elections: Any, returning: Any) -> Priorities:
    return Priorities(
        own=PEERS[OWNER],
        sign=keys(OWNER).sign,
        wall_s=lambda: 1e9,
        elections=elections,
        coordinator=None,
        returning=returning,
    )


async def cancelling_of(lives: Any, elections: Any, returning: Any) -> Cancelling:
    store = MemoryStore()
    await store.add_job(JobRow(JOB.job, JOB.signed, "{}", "running", 0.0, None, "{}"))
    return Cancelling(
        own=PEERS[OWNER],
        store=store,
        clock=SimpleNamespace(wall_s=trio.current_time),
        live=lives,
        elections=elections,
        coordinator=None,
        returning=returning,
        forget=None,
        log=Log(),
    )
