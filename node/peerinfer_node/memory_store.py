"""`ports.Store` in memory, under the same contract as `SqliteStore`: no threads, so it runs under a virtual clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from peerinfer.errors import LimitExceeded, StateUnusable
from peerinfer.ids import JobId, PeerId, is_job_id
from peerinfer.limits import JOBS_KEPT_MAX, PEERS_REMEMBERED_MAX
from peerinfer.tensors import Buffer
from peerinfer_node.peer_rows import PeerRow, ReputationRow, StatementRow
from peerinfer_node.ports import JobRow
from peerinfer_node.record_rows import RecordRow, counting, in_order, with_keys
from peerinfer_node.spool import HEADER_BYTES, RECORD_BYTES_MAX


class MemoryStore:
    """A simulated crash keeps the object and builds the node anew around it: what was acknowledged is still there."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, JobRow] = {}
        self._rows: dict[JobId, list[RecordRow]] = {}
        self._records: dict[JobId, dict[int, bytes]] = {}
        self._ends: dict[JobId, int] = {}
        self._peers: dict[PeerId, PeerRow] = {}
        self._settings: dict[str, str] = {}
        self._reputation: dict[PeerId, ReputationRow] = {}
        self._statements: dict[bytes, StatementRow] = {}

    async def add_job(self, row: JobRow) -> None:
        """Inserts or replaces; see `SqliteStore.add_job`."""
        if not is_job_id(row.job):
            raise ValueError(f"not a job id: {row.job[:64]!r}")
        if row.job not in self._jobs and len(self._jobs) >= JOBS_KEPT_MAX:
            ended = [kept for kept in self._jobs.values() if kept.ended_at_s is not None]
            if not ended:
                raise LimitExceeded("jobs kept", current=len(self._jobs), attempted=1, limit=JOBS_KEPT_MAX, unit="jobs")
            await self.forget_job(min(ended, key=_worth).job)
        self._jobs[row.job] = row
        self._rows.setdefault(row.job, [])

    async def set_job_state(self, job: JobId, state: str, *, ended_at_s: float | None, summary: str) -> None:
        """No effect on a job that is not known."""
        if job in self._jobs:
            self._jobs[job] = replace(self._jobs[job], state=state, ended_at_s=ended_at_s, summary=summary)

    async def job(self, job: JobId) -> JobRow | None:
        return self._jobs.get(job)

    async def jobs(self, *, limit: int = 1000) -> list[JobRow]:
        order = {job: position for position, job in enumerate(self._jobs)}
        rows = sorted(self._jobs.values(), key=lambda row: (row.created_at_s, order[row.job]), reverse=True)
        return rows[: max(0, limit)]

    async def forget_job(self, job: JobId) -> None:
        for table in (self._jobs, self._rows, self._records, self._ends):
            table.pop(job, None)

    async def drop_results(self, job: JobId) -> None:
        for table in (self._records, self._ends):
            table.pop(job, None)
        if job in self._rows:
            self._rows[job] = []

    async def results_bytes(self, job: JobId) -> int:
        return self._ends.get(job, 0)

    async def settle(self, job: JobId) -> None:
        pass

    async def append_results(self, job: JobId, record: Sequence[Buffer]) -> int:
        if not is_job_id(job):
            raise ValueError(f"not a job id: {job[:64]!r}")
        payload = b"".join(record)
        if len(payload) > RECORD_BYTES_MAX:
            raise ValueError(f"a record of {len(payload)} bytes passes the limit of {RECORD_BYTES_MAX}")
        offset = self._ends.get(job, 0)
        self._records.setdefault(job, {})[offset] = payload
        self._ends[job] = offset + HEADER_BYTES + len(payload)
        return offset

    async def read_results(self, job: JobId, offset: int) -> bytes:
        try:
            return self._records[job][offset]
        except KeyError:
            raise StateUnusable(f"there is no record of job {job} at {offset}; run the job again") from None

    async def add_record(self, row: RecordRow) -> None:
        if row.job not in self._jobs:
            raise StateUnusable(f"job {row.job} is not known")
        self._rows[row.job].append(row)

    async def records_of(self, job: JobId) -> list[RecordRow]:
        return counting(self._rows.get(job, []))

    async def find_records(self, keys: Iterable[bytes]) -> list[RecordRow]:
        missing = set(keys)
        return [row for job in reversed(self._jobs) for row in with_keys(counting(self._rows[job]), missing)]

    async def void_results(self, job: JobId, tasks: Sequence[int]) -> None:
        void = set(tasks)
        if job in self._rows:
            self._rows[job] = [row.with_tasks(lambda task, _: task not in void) for row in self._rows[job]]

    async def receipts_of(self, job: JobId) -> list[RecordRow]:
        return in_order(self._rows.get(job, []))

    async def remember_peers(self, rows: Sequence[PeerRow]) -> None:
        for row in rows:
            self._peers[row.peer] = row
        if len(self._peers) > PEERS_REMEMBERED_MAX:
            self._peers = {row.peer: row for row in (await self.peers())[:PEERS_REMEMBERED_MAX]}

    async def peers(self) -> list[PeerRow]:
        return sorted(self._peers.values(), key=lambda row: (-row.last_seen_s, row.peer))

    async def save_reputation(self, rows: Sequence[ReputationRow], gone: Sequence[PeerId]) -> None:
        self._reputation |= {row.peer: row for row in rows}
        for peer in gone:
            self._reputation.pop(peer, None)

    async def reputation(self) -> list[ReputationRow]:
        return sorted(self._reputation.values(), key=lambda row: (row.at_s, row.peer))

    async def save_statements(self, rows: Sequence[StatementRow], gone: Sequence[bytes]) -> None:
        for signed in (*gone, *(row.signed for row in rows)):
            self._statements.pop(signed, None)
        self._statements |= {row.signed: row for row in rows}

    async def statements(self) -> list[StatementRow]:
        return list(self._statements.values())

    async def setting(self, key: str) -> str | None:
        return self._settings.get(key)

    async def set_setting(self, key: str, value: str | None) -> None:
        if value is None:
            self._settings.pop(key, None)
        else:
            self._settings[key] = value


def _worth(row: JobRow) -> tuple[bool, bool, float]:
    """Of an ended job: the least goes first."""
    return (
        "results_gone" not in json.loads(row.summary),
        "replica" not in json.loads(row.request),
        row.ended_at_s or 0.0,
    )
