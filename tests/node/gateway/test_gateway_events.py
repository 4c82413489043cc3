"""`/api/v1/events`: a picture, then what changes, for readers who keep up."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from doors import Door, eventually, open_door, read_to_end
from fake_control import OTHER, PEER, FakeControl
from trio_websocket import ConnectionClosed, WebSocketConnection

from peerinfer.control import JobRequest
from peerinfer_node.gateway import events
from peerinfer_node.gateway.events import Feed


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feed.__init__, "__kwdefaults__", {"log": None, "interval_s": 0.02})


@pytest.fixture
def request_here(tmp_path: Path) -> JobRequest:
    (tmp_path / "model.onnx").write_bytes(b"m")
    return JobRequest(str(tmp_path / "model.onnx"), (str(tmp_path / "model.onnx"),))


async def message_from(socket: WebSocketConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await socket.get_message())
    return found


async def test_the_first_message_is_the_whole_picture(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        door.log.info("something happened", job="j", tasks=3, peer=None)
        async with door.events() as socket:
            first = await message_from(socket)
        assert first["event"] == "snapshot"
        assert first["node"]["peer_id"] == PEER
        assert "devices" not in first["node"]
        assert [peer["peer_id"] for peer in first["peers"]] == [OTHER]
        assert first["devices"] == await door.fake.devices()
        assert first["jobs"] == []
        assert first["log"] == [
            {"number": 1, "level": "info", "event": "something happened", "job": "j", "tasks": 3, "peer": None}
        ]


async def test_the_time_at_which_a_node_counted_what_it_gave_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeControl()
    asked = 0
    status = fake.status

    async def counted() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {**await status(), "contribution": {"tasks": asked // 20, "until": asked}}

    monkeypatch.setattr(fake, "status", counted)
    async with open_door(tmp_path, fake) as door, door.events() as socket:
        await message_from(socket)
        change = await message_from(socket)
        assert change["node"]["contribution"]["tasks"] == 1
        assert asked >= 20


async def test_then_only_what_changes_is_told(tmp_path: Path, request_here: JobRequest) -> None:
    fake = FakeControl(task_s=3600)
    async with open_door(tmp_path, fake) as door, door.events() as socket:
        await message_from(socket)
        await fake.pause(until_s=None)
        change = await message_from(socket)
        assert change.keys() <= {"event", "node", "devices"}
        assert change["node"]["state"] == "paused"
        job = await fake.submit(request_here)
        change = await message_from(socket)
        while "jobs" not in change:
            change = await message_from(socket)
        assert change["event"] == "changes"
        assert [each["job_id"] for each in change["jobs"]["changed"]] == [job]
        assert change["jobs"]["gone"] == []
        door.log.warning("volunteer lost", peer="p")
        change = await message_from(socket)
        while "log" not in change:
            change = await message_from(socket)
        assert [line["event"] for line in change["log"]] == ["volunteer lost"]
        del fake.held_jobs[job]
        change = await message_from(socket)
        while "jobs" not in change:
            change = await message_from(socket)
        assert change["jobs"] == {"changed": [], "gone": [job]}


async def test_a_picture_and_its_changes_give_what_a_later_reader_is_told(
    tmp_path: Path, request_here: JobRequest
) -> None:
    fake = FakeControl(task_s=3600)
    async with open_door(tmp_path, fake) as door, door.events() as early:
        jobs = {job["job_id"]: job for job in (await message_from(early))["jobs"]}
        wanted = [await fake.submit(request_here) for _ in range(5)]
        while jobs.keys() != set(wanted):
            change = (await message_from(early)).get("jobs", {"changed": [], "gone": []})
            jobs.update({job["job_id"]: job for job in change["changed"]})
        async with door.events() as late:
            assert {job["job_id"] for job in (await message_from(late))["jobs"]} == set(wanted)


async def test_nobody_looks_at_the_node_while_nobody_reads(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        async with door.events() as socket:
            await message_from(socket)
        asked = -1
        while len(door.fake.calls) != asked:  # until the reader's end has come through
            asked = len(door.fake.calls)
            await trio.sleep(0.2)
        async with door.events() as socket:
            assert (await message_from(socket))["event"] == "snapshot"


async def test_a_node_that_cannot_be_looked_at_ends_no_reader(tmp_path: Path) -> None:
    fake = FakeControl()
    fake.errors["peers"] = RuntimeError("broken")
    async with open_door(tmp_path, fake) as door, door.events() as socket:
        await eventually(lambda: door.notes)
        fake.errors.clear()
        assert (await message_from(socket))["event"] == "snapshot"


async def test_a_reader_that_does_not_keep_up_is_dropped_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MESSAGES_WAITING_MAX", 2)
    monkeypatch.setattr(events, "LOOKING_SHARE_MAX", 1e6)
    monkeypatch.setattr(events, "CLOSE_TIMEOUT_S", 60.0)
    drop, was_dropped, told = events._Reader.drop, trio.Event(), 0

    def noted(reader: events._Reader, code: int, reason: str) -> None:
        drop(reader, code, reason)
        was_dropped.set()

    monkeypatch.setattr(events._Reader, "drop", noted)
    fake = FakeControl()
    blob = "x" * 1_000_000
    async with open_door(tmp_path, fake) as door, door.events(message_queue_size=0) as socket:
        # What it does not take fills the pipe, then its queue.
        while not was_dropped.is_set():
            door.log.recent.clear()
            door.log.info("much", text=blob)
            told += 1
            assert (await door.ask("GET", "/api/v1/node")).status_code == 200
            await trio.sleep(0.02)
        taken, code, reason = await read_to_end(socket)
        assert code == events.TRY_AGAIN_LATER
        assert "too slow" in reason
        assert len(taken) < told


async def test_readers_beyond_the_limit_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "READERS_MAX", 2)
    async with open_door(tmp_path) as door, door.events() as first, door.events():
        await message_from(first)
        async with door.events() as third:
            _, code, reason = await read_to_end(third)
        assert code == events.TRY_AGAIN_LATER
        assert "2 readers" in reason


async def test_a_reader_that_talks_without_end_is_sent_away(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.events() as socket:
        with suppress(ConnectionClosed):
            for _ in range(2 * events.SAID_MAX):
                await socket.send_message("hello")
        _, code, _ = await read_to_end(socket)
        assert code in (None, 1006, events.POLICY_VIOLATION)
        assert (await door.ask("GET", "/api/v1/node")).status_code == 200


async def test_a_huge_message_of_a_reader_ends_its_connection_alone(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.events() as quiet:
        await message_from(quiet)
        with trio.CancelScope() as scope:
            async with door.events() as loud:
                with suppress(ConnectionClosed):
                    await loud.send_message("x" * 1_000_000)
                await read_to_end(loud)
                scope.cancel()  # the client's library waits for a goodbye of who has cut it off
        await door.fake.pause(until_s=None)
        assert (await message_from(quiet))["node"]["state"] == "paused"


async def test_readers_are_told_when_the_node_ends(tmp_path: Path) -> None:
    ends: list[Any] = []
    async with trio.open_nursery() as nursery:

        async def read(door: Door, begun: trio.Event) -> None:
            async with door.events() as socket:
                await message_from(socket)
                begun.set()
                ends.append(await read_to_end(socket))

        async with open_door(tmp_path) as door:
            begun = trio.Event()
            nursery.start_soon(read, door, begun)
            await begun.wait()
    (end,) = ends
    assert end[1:] == (events.GOING_AWAY, "the node ends")
