"""Samples of what workers answered, computed again on this node's own device, those of one job together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import trio

from peerinfer.assignment import Audit, AuditDone, Event
from peerinfer.errors import PeerinferError
from peerinfer.ids import JobId, PeerId
from peerinfer_node.log import Log
from peerinfer_node.ports import LocalClock
from peerinfer_node.roles.answers import Answer, Rows
from peerinfer_node.roles.evidence import Evidence
from peerinfer_node.roles.job_body import JobBody, Verdict
from peerinfer_node.stages import Stages

AUDITS_TOGETHER_MAX = 64


class Auditing:
    """For the jobs in `bodies`; what is found goes to `post`. What shows others that somebody lied goes to `on_lie`."""

    def __init__(
        self,
        bodies: Mapping[JobId, JobBody],
        *,
        post: Callable[[Event], None],
        is_barred: Callable[[PeerId], bool],
        stages: Stages,
        clock: LocalClock,
        log: Log,
    ) -> None:
        self._bodies = bodies
        self._post = post
        self._is_barred = is_barred
        self._stages = stages
        self._clock = clock
        self._log = log
        self.on_lie: Callable[[Evidence], None] = lambda evidence: None
        """Called when a worker was caught and what it signed can be shown to others."""
        self._kept: Answer | None = None
        self._waiting: list[tuple[Audit, Rows | None]] = []
        """Each with its first answer if that was just kept."""
        self._drawn = trio.Event()

    def kept(self, answer: Answer) -> None:
        """The newest answer that a job took: what is drawn next is likely of it."""
        self._kept = answer

    def draw(self, audit: Audit) -> None:
        self._waiting.append((audit, self._claim(audit.peers[0], audit.task)))
        self._drawn.set()

    def forget(self, job: JobId, tasks: Sequence[int]) -> None:
        """Their results are void."""
        gone = set(tasks)
        self._waiting = [pair for pair in self._waiting if pair[0].job != job or pair[0].task not in gone]

    async def run(self) -> None:
        while True:
            if not self._waiting:
                self._drawn = trio.Event()
                await self._drawn.wait()
            job = self._waiting[0][0].job
            same = [pair for pair in self._waiting if pair[0].job == job]
            others = [pair for pair in self._waiting if pair[0].job != job]
            drawn, self._waiting = same[:AUDITS_TOGETHER_MAX], same[AUDITS_TOGETHER_MAX:] + others
            body = self._bodies.get(job)
            if body is None:
                continue
            started_s = self._clock.now_s()
            asked = {audit.task: audit.peers for audit, _ in drawn}
            fresh = {audit.task: (audit.peers[0], rows) for audit, rows in drawn if rows is not None}
            try:
                verdicts = await body.audit(asked, fresh)
            except PeerinferError as error:
                verdicts = {task: Verdict(None, (), str(error)) for task in asked}
            await self._accuse(body, verdicts)
            self._stages.checked(job, self._clock.now_s() - started_s, len(drawn))
            for task in asked:
                verdict = verdicts.get(task, Verdict(None, (), "its result is not kept any more"))
                self._post(AuditDone(job, task, verdict.right, verdict.wrong, verdict.detail, verdict.imprecise))

    async def _accuse(self, body: JobBody, verdicts: Mapping[int, Verdict]) -> None:
        """Keeps what shows others that somebody lied, before it is void."""
        for task, verdict in verdicts.items():
            for peer in verdict.wrong:
                if peer in verdict.imprecise or self._is_barred(peer):
                    continue
                try:
                    evidence = await body.evidence(task, peer)
                except PeerinferError as error:
                    self._log.debug("no evidence", peer=peer, reason=str(error))
                    continue
                if evidence is not None:
                    self.on_lie(evidence)

    def _claim(self, peer: PeerId, task: int) -> Rows | None:
        """What a worker has just answered of one task; copied, so that the answer itself can go."""
        answer = self._kept
        if answer is None or answer.peer != peer:
            return None
        try:
            rows = answer.rows(task)
        except KeyError:
            return None
        return {name: values.copy() for name, values in rows.items()}
