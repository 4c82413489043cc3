"""What a node gave is counted over restarts, and a count that is not its own is not gone on with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peerinfer.cost import Given
from peerinfer_node.clock import SystemClock
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.roles.contribution import ContributionRole
from peerinfer_node.store import SqliteStore


def role_over(store: SqliteStore, tasks: int, key: bytes = b"me") -> ContributionRole:
    worker: Any = SimpleNamespace(
        computing=SimpleNamespace(given=Given(tasks, 2 * tasks, 0.5 * tasks, 3.0 * tasks, 1e9 * tasks))
    )
    return ContributionRole(worker=worker, store=store, keys=MemoryKeys(key), clock=SystemClock(), log=Log())


async def test_what_was_given_is_counted_over_restarts(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        first = role_over(store, 4)
        await first.restore()
        await first.save()
    with SqliteStore.open(tmp_path / "state.db") as store:
        again = role_over(store, 3)
        await again.restore()
        total = again.total
        assert (total.tasks, total.items, total.compute_s, total.energy_j, total.flops) == (7, 14, 3.5, 21.0, 7e9)
        assert total.since_s == first.total.since_s <= total.until_s


@pytest.mark.parametrize("damage", ["", "zz", "00", "edited", "another's"])
async def test_a_count_that_is_not_this_nodes_is_not_gone_on_with(tmp_path: Path, damage: str) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        await role_over(store, 1000, b"another" if damage == "another's" else b"me").save()
        kept = await store.setting("contribution")
        assert kept
        if damage == "edited":
            await store.set_setting("contribution", kept[:-2] + ("00" if kept[-2:] != "00" else "01"))
        elif damage != "another's":
            await store.set_setting("contribution", damage)
        again = role_over(store, 1)
        await again.restore()
        assert again.total.tasks == 1
