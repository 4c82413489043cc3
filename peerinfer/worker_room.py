"""Which workers have room for a frame, and which have nothing to do at all."""

from __future__ import annotations

from peerinfer.alarms import Alarms
from peerinfer.ids import PeerId
from peerinfer.placement_table import CandidateTable
from peerinfer.workforce import Worker


class WorkerRoom:
    """Follows windows, breakers and rests; a worker whose rest ends is rung for as ("again", peer)."""

    def __init__(self, table: CandidateTable, alarms: Alarms[tuple[str, str]]) -> None:
        self._table = table
        self._alarms = alarms
        self.roomy: dict[PeerId, None] = {}
        """Workers with room."""
        self.idle: dict[PeerId, None] = {}
        """Those of them that have nothing at all."""

    def left(self, peer: PeerId) -> None:
        self.roomy.pop(peer, None)
        self.idle.pop(peer, None)
        self._alarms.clear(("again", peer))

    def note(self, worker: Worker, now_s: float) -> None:
        held, peer, table = len(worker.frames), worker.peer, self._table
        allowed = worker.breaker.allows(now_s, held)
        rests_until_s = max(worker.rests_until_s, worker.breaker.opens_until_s)
        room = 0
        if now_s < worker.rests_until_s or not allowed:
            if rests_until_s > now_s:
                self._alarms.set(("again", peer), rests_until_s)
        else:
            room = max(worker.window - held, 0)
            if room > 1 and worker.breaker.state(now_s) != "closed":
                room = 1
        table.rest(peer, now_s < rests_until_s and not (allowed and now_s >= worker.rests_until_s))
        if room != worker.room:
            worker.room = room
            table.update(peer, room=room)
        self.file(worker)

    def file(self, worker: Worker) -> None:
        if worker.room:
            self.roomy[worker.peer] = None
        else:
            self.roomy.pop(worker.peer, None)
        if worker.room and not worker.frames:
            self.idle[worker.peer] = None
        else:
            self.idle.pop(worker.peer, None)

    def check(self, worker: Worker) -> None:
        assert (worker.peer in self.roomy) == (worker.room > 0), f"{worker.peer} has room for {worker.room} frames"
        assert (worker.peer in self.idle) == (worker.room > 0 and not worker.frames)
        assert worker.room <= max(worker.window - len(worker.frames), 0)
