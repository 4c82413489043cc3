"""What the daemon's events add up to: one picture of everything, of which only what is told anew is read anew.

`/api/v1/events` begins with a snapshot and goes on with changes. How long a job has run and when a peer was heard change
all the time and are not told for that alone: they are reckoned here from when they were told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from peerinfer_tui.pictures import DevicePicture, JobPicture, LogLine, NodePicture, PeerPicture, Snapshot
from peerinfer_tui.snapshot import read_devices, read_job, read_log, read_node, read_peer
from peerinfer_tui.words import JOB_ENDED

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Told(Generic[T]):
    picture: T
    at_s: float


class Mirror:
    """Takes messages in their order. No message, however strange, is an error: what cannot be read reads as empty."""

    def __init__(self) -> None:
        self._node = NodePicture()
        self._devices: tuple[DevicePicture, ...] = ()
        self._peers: dict[str, _Told[PeerPicture]] = {}
        self._jobs: dict[str, _Told[JobPicture]] = {}
        self._log: list[LogLine] = []
        self._shown_peers: tuple[PeerPicture, ...] = ()
        self._all_live = True
        """Nobody among them whose silence grows."""

    def take(self, raw: Any, at_s: float) -> None:
        message = raw if isinstance(raw, Mapping) else {}
        is_whole = message.get("event") == "snapshot"
        if is_whole or "node" in message:
            self._node = read_node(message.get("node"))
        if is_whole or "devices" in message:
            self._devices = read_devices(message.get("devices"))
        if is_whole:
            self._peers, self._jobs = {}, {}
        if is_whole or "peers" in message:
            _merge(self._peers, message.get("peers"), lambda one: (one.peer_id, one), read_peer, at_s)
            self._shown_peers = tuple(told.picture for told in self._peers.values())
            self._all_live = all(peer.state == "alive" for peer in self._shown_peers)
        if is_whole or "jobs" in message:
            _merge(self._jobs, message.get("jobs"), lambda one: (one.job_id, one), read_job, at_s)
        self._log += read_log(message.get("log"))

    @property
    def node(self) -> NodePicture:
        return self._node

    def snapshot(self, now_s: float) -> Snapshot:
        """Everything as of now. Lines of the log come once."""
        log, self._log = tuple(self._log), []
        peers = self._shown_peers
        if not self._all_live:
            peers = tuple(_silent(told, now_s) for told in self._peers.values())
        jobs = tuple(_older(told, now_s) for told in self._jobs.values())
        return Snapshot(self._node, self._devices, peers, jobs, log)


def _merge(
    held: dict[str, _Told[T]],
    raw: Any,
    keyed: Callable[[T], tuple[str, T]],
    read: Callable[[Any], T],
    at_s: float,
) -> None:
    """A whole list, or what changed in it and what is gone."""
    changed, gone = raw, None
    if isinstance(raw, Mapping):
        changed, gone = raw.get("changed"), raw.get("gone")
    for each in changed if isinstance(changed, list) else ():
        key, picture = keyed(read(each))
        held[key] = _Told(picture, at_s)
    for key in gone if isinstance(gone, list) else ():
        if isinstance(key, str):
            held.pop(key, None)


def _silent(told: _Told[PeerPicture], now_s: float) -> PeerPicture:
    peer = told.picture
    if peer.state == "alive" or peer.last_seen_s is None:
        return peer
    return replace(peer, last_seen_s=peer.last_seen_s + max(0.0, now_s - told.at_s))


def _older(told: _Told[JobPicture], now_s: float) -> JobPicture:
    job = told.picture
    if job.state in JOB_ENDED or job.elapsed_s is None:
        return job
    return replace(job, elapsed_s=job.elapsed_s + max(0.0, now_s - told.at_s))
