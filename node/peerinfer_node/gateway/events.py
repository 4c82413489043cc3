"""`/api/v1/events`: one picture of the node, then what changes in it, over a WebSocket.

Every message is one JSON object in a text frame.

    {"event": "snapshot", "node": {…}, "devices": […], "peers": […], "jobs": […]}      the first one
    {"event": "changes", …}                     only what changed since the message before:
        "node": {…}, "devices": […]             whole, as in the snapshot
        "peers": {"changed": […], "gone": [peer id, …]}
        "jobs": {"changed": […], "gone": [job id, …]}
        "log": [{"number": …, "level": …, "event": …, …}]       lines since; in a snapshot the last ones

`node` is `GET /api/v1/node` without its devices; the other three are lists as their own routes give them, a job's
`failed` cut to its first tasks. What changes by itself all the time (how long a job has run, when a peer was heard) is told
with the next change of something else.

One task looks at the node, once a second, and only while somebody reads. Readers get the same bytes. A reader that
does not keep up is dropped with a reason and never waited for: it may connect again and begin with a new picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from peerinfer.control import Control, Json
from peerinfer_node.gateway.refusals import Note
from peerinfer_node.log import Log

INTERVAL_S = 1.0
LOOKING_SHARE_MAX = 0.05
"""Of one core. A node with so many peers that looking at them takes longer is looked at more seldom."""

INTERVAL_MAX_S = 5.0
"""But so often at least: on a machine that is busy with other things looking takes long, and costs no more."""

READERS_MAX = 200
MESSAGES_WAITING_MAX = 32
"""For one reader. Half a minute of changes; the bytes are shared by all readers."""

SAID_MAX = 64
"""Messages that a reader may send. None is expected."""

FAILED_SHOWN_MAX = 20

GOING_AWAY = 1001
TRY_AGAIN_LATER = 1013
POLICY_VIOLATION = 1008

CLOSE_TIMEOUT_S = 1.0

_VOLATILE = frozenset({"last_seen_s", "elapsed_s"})

_Picture = dict[str, Any]


class Feed:
    """The picture of a node as it changes, for any number of readers."""

    def __init__(self, control: Control, note: Note, *, log: Log | None = None, interval_s: float = INTERVAL_S) -> None:
        self._control = control
        self._note = note
        self._log = log or Log()
        self._interval_s = interval_s
        self._readers: dict[_Reader, None] = {}
        self._picture: _Picture | None = None
        self._wanted = trio.Event()

    @property
    def readers(self) -> int:
        return len(self._readers)

    def add(self) -> _Reader:
        """A reader that will get a picture first. Call `remove` when it has gone."""
        reader = _Reader()
        self._readers[reader] = None
        if self._picture is not None:
            reader.give(_snapshot(self._picture))
        else:
            self._wanted.set()
        return reader

    def remove(self, reader: _Reader) -> None:
        self._readers.pop(reader, None)
        if not self._readers:
            self._picture = None

    def end(self) -> None:
        """Sends the readers away."""
        for reader in self._readers:
            reader.drop(GOING_AWAY, "the node ends")

    async def run(self) -> None:
        while True:
            self._wanted = trio.Event()
            if not self._readers:
                self._picture = None
                await self._wanted.wait()
                self._wanted = trio.Event()
            started_s = trio.current_time()
            try:
                jobs = {
                    str(job["job_id"]): _shortened(job) for job in await self._control.jobs()
                }  # may wait for others
                started_s = trio.current_time()
                self._tell({**await self._look(), "jobs": jobs, "log": list(self._log.recent)})
            except Exception as error:
                # A picture that cannot be had now must end neither the readers nor the node.
                self._note(f"no picture for the readers of events: {type(error).__name__}: {error}")
            spent_s = trio.current_time() - started_s
            pause_s = max(self._interval_s, min(spent_s / LOOKING_SHARE_MAX, INTERVAL_MAX_S))
            with trio.move_on_after(pause_s):
                await self._wanted.wait()  # for a first reader, who need not wait for the next look

    async def _look(self) -> _Picture:
        node = dict(await self._control.status())
        devices = node.pop("devices", None)
        return {
            "node": node,
            "devices": devices if devices is not None else await self._control.devices(),
            "peers": {str(peer["peer_id"]): peer for peer in await self._control.peers()},
        }

    def _tell(self, picture: _Picture) -> None:
        before, self._picture = self._picture, picture
        message = _snapshot(picture) if before is None else _changes(before, picture)
        if message is not None:
            for reader in self._readers:
                reader.give(message)


class _Reader:
    """Messages for one WebSocket, as many as may wait."""

    def __init__(self) -> None:
        self._send, self.messages = trio.open_memory_channel[str](MESSAGES_WAITING_MAX)
        self.dropped = trio.Event()
        self.why = (GOING_AWAY, "")

    def give(self, message: str) -> None:
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self.drop(TRY_AGAIN_LATER, f"too slow: {MESSAGES_WAITING_MAX} messages wait; connect again")

    def drop(self, code: int, reason: str) -> None:
        if not self.dropped.is_set():
            self.why = (code, reason)
            self.dropped.set()


class EventRoutes:
    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def routes(self) -> list[BaseRoute]:
        return [WebSocketRoute("/api/v1/events", self.events)]

    async def events(self, socket: WebSocket) -> None:
        """One picture of the node, then what changes in it."""
        await socket.accept()
        if self._feed.readers >= READERS_MAX:
            await socket.close(TRY_AGAIN_LATER, f"there are {READERS_MAX} readers already")
            return
        reader = self._feed.add()
        try:
            async with trio.open_nursery() as nursery:

                async def listen() -> None:
                    for _ in range(SAID_MAX):
                        if (await socket.receive())["type"] == "websocket.disconnect":
                            nursery.cancel_scope.cancel()
                            return
                    reader.drop(POLICY_VIOLATION, "this stream is for reading")

                async def speak() -> None:
                    async for message in reader.messages:
                        await socket.send({"type": "websocket.send", "text": message})

                nursery.start_soon(listen)
                nursery.start_soon(speak)
                await reader.dropped.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._feed.remove(reader)
        if reader.dropped.is_set():
            with trio.move_on_after(CLOSE_TIMEOUT_S):
                await socket.close(*reader.why)


def _shortened(job: Json) -> Json:
    failed = job.get("failed")
    return {**job, "failed": failed[:FAILED_SHOWN_MAX]} if failed else job


def _snapshot(picture: _Picture) -> str:
    whole = {**picture, "peers": list(picture["peers"].values()), "jobs": list(picture["jobs"].values())}
    return _text({"event": "snapshot", **whole})


def _changes(before: _Picture, now: _Picture) -> str | None:
    found: Json = {name: now[name] for name in ("node", "devices") if _steady(now[name]) != _steady(before[name])}
    for name in ("peers", "jobs"):
        changed = [each for key, each in now[name].items() if _differ(before[name].get(key), each)]
        gone = [key for key in before[name] if key not in now[name]]
        if changed or gone:
            found[name] = {"changed": changed, "gone": gone}
    last = before["log"][-1]["number"] if before["log"] else 0
    lines = [line for line in now["log"] if line["number"] > last]
    if lines:
        found["log"] = lines
    return _text({"event": "changes", **found}) if found else None


def _steady(told: Any) -> Any:
    """Without the moment at which the node counted what it gave, which is another one each time."""
    given = told.get("contribution") if isinstance(told, dict) else None
    if not isinstance(given, dict):
        return told
    return {**told, "contribution": {name: value for name, value in given.items() if name != "until"}}


def _differ(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    if before is None or before.keys() != now.keys():
        return True
    return any(before[name] != value for name, value in now.items() if name not in _VOLATILE)


def _text(message: Json) -> str:
    return json.dumps(message, allow_nan=False, separators=(",", ":"))
