"""`ports.Store` in memory, under the same contract as `SqliteStore`: no threads, so it runs under a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peerinfer.errors import LimitExceeded, StateUnusable
from peerinfer.ids import JobId, PeerId, is_job_id
from peerinfer.limits import JOBS_KEPT_MAX, PEERS_REMEMBERED_MAX
from peerinfer_node.ports import Buffer, JobRow, PeerRow, ReceiptRow, ResultRow
from peerinfer_node.spool import HEADER_BYTES, RECORD_BYTES_MAX


class MemoryStore:
    """A simulated crash keeps the object and builds the node anew around it: what was acknowledged is still there."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, JobRow] = {}
        self._results: dict[JobId, dict[int, ResultRow]] = {}
        self._receipts: dict[JobId, dict[tuple[int, PeerId], ReceiptRow]] = {}
        self._records: dict[JobId, dict[int, bytes]] = {}
        self._ends: dict[JobId, int] = {}
        self._keys: dict[bytes, dict[tuple[JobId, int], ResultRow]] = {}
        self._peers: dict[PeerId, PeerRow] = {}
        self._settings: dict[str, str] = {}

    async def add_job(self, row: JobRow) -> None:
        """Inserts or replaces; see `SqliteStore.add_job`."""
        if not is_job_id(row.job):
            raise ValueError(f"not a job id: {row.job[:64]!r}")
        if row.job not in self._jobs and len(self._jobs) >= JOBS_KEPT_MAX:
            ended = [(kept.ended_at_s, kept.job) for kept in self._jobs.values() if kept.ended_at_s is not None]
            if not ended:
                raise LimitExceeded("jobs kept", current=len(self._jobs), attempted=1, limit=JOBS_KEPT_MAX, unit="jobs")
            await self.forget_job(min(ended, key=lambda pair: pair[0])[1])
        self._jobs[row.job] = row
        self._results.setdefault(row.job, {})
        self._receipts.setdefault(row.job, {})

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
        await self.void_results(job, list(self._results.get(job, ())))
        for table in (self._jobs, self._results, self._receipts, self._records, self._ends):
            table.pop(job, None)

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

    async def add_results(self, rows: Sequence[ResultRow], receipts: Sequence[ReceiptRow]) -> None:
        """Inserts or replaces. Raises `StateUnusable` if a job is not known."""
        for job in [row.job for row in rows] + [row.job for row in receipts]:
            if job not in self._jobs:
                raise StateUnusable(f"job {job} is not known")
        for row in rows:
            self._drop_key(row.job, row.task)
            self._results[row.job][row.task] = row
            self._keys.setdefault(row.task_key, {})[row.job, row.task] = row
        for receipt in receipts:
            self._receipts[receipt.job][receipt.frame, receipt.peer] = receipt

    async def results_of(self, job: JobId) -> list[ResultRow]:
        return [row for _, row in sorted(self._results.get(job, {}).items())]

    async def find_results(self, task_keys: Sequence[bytes]) -> dict[bytes, ResultRow]:
        """Those that there are; of several with the same key, the one of the job added last."""
        order = {job: position for position, job in enumerate(self._jobs)}
        return {
            key: max(self._keys[key].values(), key=lambda row: (order[row.job], -row.task))
            for key in task_keys
            if key in self._keys
        }

    async def void_results(self, job: JobId, tasks: Sequence[int]) -> None:
        for task in tasks:
            self._drop_key(job, task)
            self._results.get(job, {}).pop(task, None)

    async def receipts_of(self, job: JobId) -> list[ReceiptRow]:
        """By frame, then by peer."""
        return [row for _, row in sorted(self._receipts.get(job, {}).items())]

    async def remember_peers(self, rows: Sequence[PeerRow]) -> None:
        for row in rows:
            self._peers[row.peer] = row
        if len(self._peers) > PEERS_REMEMBERED_MAX:
            self._peers = {row.peer: row for row in (await self.peers())[:PEERS_REMEMBERED_MAX]}

    async def peers(self) -> list[PeerRow]:
        return sorted(self._peers.values(), key=lambda row: (-row.last_seen_s, row.peer))

    async def setting(self, key: str) -> str | None:
        return self._settings.get(key)

    async def set_setting(self, key: str, value: str | None) -> None:
        if value is None:
            self._settings.pop(key, None)
        else:
            self._settings[key] = value

    def _drop_key(self, job: JobId, task: int) -> None:
        old = self._results.get(job, {}).get(task)
        if old is not None:
            same = self._keys[old.task_key]
            del same[job, task]
            if not same:
                del self._keys[old.task_key]
