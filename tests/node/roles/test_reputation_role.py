"""Evidence across restarts, and against hands that edit it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from peerinfer.assignment import WorkerJoined, WorkerOffer
from peerinfer.coordination import Coordination
from peerinfer.ids import PeerId
from peerinfer.reputation import PEERS_MAX
from peerinfer.whitewashing import NEW_NAMES_PER_DAY_MAX
from peerinfer_node.clock import SystemClock
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.peer_rows import ReputationRow
from peerinfer_node.roles.reputation import ReputationRole
from peerinfer_node.store import SqliteStore

ANN, EVE = PeerId("ann"), PeerId("eve")


def role_over(store: SqliteStore, key: bytes = b"me") -> ReputationRole:
    clock = SystemClock()
    machine = Coordination(random.Random(1), wall_offset_s=clock.wall_s() - clock.now_s())
    return ReputationRole(machine=machine, store=store, keys=MemoryKeys(key), clock=clock, log=Log())


def see(role: ReputationRole) -> None:
    wall_s = SystemClock().wall_s()
    for _ in range(25):
        role._machine.reputation.passed(ANN, wall_s)
    role._machine.reputation.caught(EVE, wall_s, "task 7: 3 where 4 is right")


async def test_what_was_seen_survives_a_restart(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        see(role)
        await role.save()
    with SqliteStore.open(tmp_path / "state.db") as store:
        again = role_over(store)
        await again.restore()
        now_s = SystemClock().wall_s()
        assert 24.9 < again._machine.reputation.standing(ANN, now_s).audits <= 25
        assert again._machine.is_barred(EVE)
        assert "task 7: 3 where 4 is right" in again._machine.caught[EVE]
        assert not again._machine.is_barred(ANN)


async def test_networks_in_which_somebody_was_caught_let_in_few_new_names_after_a_restart_too(tmp_path: Path) -> None:
    here = WorkerOffer(False, ("cpu",), 1 << 33, groups=("9.9.9.0/24",))
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        role._machine.reputation.caught(EVE, SystemClock().wall_s(), "wrong", here.groups)
        await role.save()
    with SqliteStore.open(tmp_path / "state.db") as store:
        again = role_over(store)
        await again.restore()
        names = [PeerId(f"name {number}") for number in range(NEW_NAMES_PER_DAY_MAX + 2)]
        for name in names:
            again._machine.handle(WorkerJoined(name, here), SystemClock().now_s())
        assert [again._machine.is_kept_out(name) for name in names] == [False] * NEW_NAMES_PER_DAY_MAX + [True] * 2


async def test_new_names_of_today_count_over_restarts_however_many_there_are(tmp_path: Path) -> None:
    here = WorkerOffer(False, ("cpu",), 1 << 33, groups=("9.9.9.0/24",))
    let_in = []
    for life in range(4):
        with SqliteStore.open(tmp_path / "state.db") as store:
            role = role_over(store)
            await role.restore()
            if not life:
                role._machine.reputation.caught(EVE, SystemClock().wall_s(), "wrong", here.groups)
                role._machine.recall(SystemClock().now_s())
            name = PeerId(f"name {life}")
            role._machine.handle(WorkerJoined(name, here), SystemClock().now_s())
            let_in += [name] if not role._machine.is_kept_out(name) else []
            await role.save()
    assert let_in == ["name 0", "name 1"]
    assert len(let_in) == NEW_NAMES_PER_DAY_MAX


@pytest.mark.parametrize(
    "edit", [lambda text: text[:-2] + " ]", lambda text: "x" + text, lambda text: "[]", lambda text: " "]
)
async def test_newcomers_that_were_edited_by_hand_are_forgotten_and_said_to_be(
    tmp_path: Path, edit: Callable[[str], str]
) -> None:
    lines: list[str] = []
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        role._machine.whitewashing.caught(("9.9.9.0/24",), SystemClock().wall_s())
        assert role._machine.whitewashing.admits(ANN, ("9.9.9.0/24",), SystemClock().wall_s())
        await role.save()
        text = await store.setting("newcomers")
        await store.set_setting("newcomers", edit(text))
        again = role_over(store)
        again._log = Log(lines.append)
        await again.restore()
        assert again._machine.whitewashing.newcomers(SystemClock().wall_s()) == []
        assert any("newcomers of today are forgotten" in line for line in lines)
        await again.save()
        assert (await store.setting("newcomers") or "").endswith(" []"), "it is written anew"


async def test_evidence_of_a_version_that_knew_no_networks_is_read(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        see(role)
        await role.save()
        for row in await store.reputation():
            values = json.loads(row.evidence)
            del values["networks"]
            old = json.dumps(values, sort_keys=True)
            mac = role._mark.of(f"{row.peer} {old}".encode())
            await store.save_reputation([replace(row, evidence=old, mac=mac)], [])
        again = role_over(store)
        await again.restore()
        assert again._machine.is_barred(EVE)
        assert len(again._machine.reputation.rows()) == 2


async def test_rows_that_were_edited_by_hand_are_refused(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        see(role)
        await role.save()
        for row in await store.reputation():
            better = json.dumps(json.loads(row.evidence) | {"audits": 5000.0, "faults": 0, "bad": 1.0})
            await store.save_reputation([replace(row, evidence=better)], [])
        again = role_over(store)
        await again.restore()
        assert again._machine.reputation.rows() == []


async def test_rows_of_another_node_are_refused(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store, b"somebody else")
        see(role)
        await role.save()
        again = role_over(store)
        await again.restore()
        assert again._machine.reputation.rows() == []


async def test_the_table_keeps_its_limit_and_forgets_cheats_last(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        see(role)
        for number in range(PEERS_MAX + 50):
            role._machine.reputation.passed(PeerId(f"peer {number}"), SystemClock().wall_s())
        await role.save()
        rows = await store.reputation()
        assert len(rows) == PEERS_MAX
        kept = {row.peer for row in rows}
        assert EVE in kept
        assert ANN not in kept


async def test_nothing_is_written_where_nothing_was_seen(tmp_path: Path) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        await role.save()
        assert await store.reputation() == []


EDITS = {
    "another peer's evidence": lambda row: replace(row, peer=PeerId("eve")),
    "more work": lambda row: replace(row, evidence=json.dumps(json.loads(row.evidence) | {"units": 1e20})),
    "no numbers": lambda row: replace(row, evidence=json.dumps(dict.fromkeys(json.loads(row.evidence), "x"))),
    "no table": lambda row: replace(row, evidence="[]"),
    "no JSON": lambda row: replace(row, evidence="{"),
    "nothing": lambda row: replace(row, evidence=""),
    "a code of nothing": lambda row: replace(row, mac=b""),
    "a code of zeros": lambda row: replace(row, mac=bytes(16)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_whatever_a_hand_does_to_a_row_it_is_refused_and_the_node_lives(
    tmp_path: Path, edit: Callable[[str], str]
) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        for _ in range(25):
            role._machine.reputation.passed(ANN, SystemClock().wall_s())
        await role.save()
        (row,) = await store.reputation()
        await store.save_reputation([edit(row)], [ANN])
        again = role_over(store)
        await again.restore()
        assert again._machine.reputation.rows() == []


@pytest.mark.parametrize(
    "written", ["[]", "{", '{"at_s": "x"}', '{"later": 1}', '{"at_s": NaN}', '{"at_s": 1, "units": -5}']
)
async def test_a_row_of_another_version_under_this_nodes_own_code_is_refused_as_well(
    tmp_path: Path, written: str
) -> None:
    with SqliteStore.open(tmp_path / "state.db") as store:
        role = role_over(store)
        row = ReputationRow(ANN, written, role._mark.of(f"{ANN} {written}".encode()), 1.0)
        await store.save_reputation([row], [])
        await role.restore()
        assert role._machine.reputation.rows() == []
