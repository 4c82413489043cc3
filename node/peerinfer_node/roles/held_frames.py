"""What a worker holds for its coordinators: a stream to each, the jobs they introduced, the frames not answered yet."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

import trio

from peerinfer.certified_term import check_lease
from peerinfer.committees import candidates_in, committees_of
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import Cid, JobId, PeerId, digest_of_cid, is_job_id
from peerinfer.limits import TASK_TIMEOUT_MAX_S
from peerinfer.messages import Frame, JobBrief, Refused, ResultsHeld, Window
from peerinfer_node.network.framing import MessageStream
from peerinfer_node.ports import Executor
from peerinfer_node.roles.work_stream import Conversation

BRIEFS_PER_STREAM_MAX = 64


@dataclass(frozen=True, slots=True)
class Introduced:
    """A job, as a coordinator has introduced it."""

    brief: JobBrief
    submitter: str
    """Who signed its manifest, if the coordinator could show that; else the coordinator."""
    due_s: float | None
    candidates: frozenset[str]
    """Who else may coordinate the job; nobody, where that was not shown or there is nobody."""


@dataclass(slots=True)
class Link:
    """One coordinator's stream, as this side sees it."""

    stream: MessageStream
    conversation: Conversation
    outbox: trio.MemorySendChannel[Window | Refused | ResultsHeld]
    """One after the other: of two windows the later one must be the last to arrive."""
    scope: trio.CancelScope
    briefs: OrderedDict[str, Introduced] = field(default_factory=OrderedDict)
    frames: int = 0
    revision: int = 0
    is_gone: bool = False
    outputs: list[Cid] = field(default_factory=list)
    """Blobs that were made for it."""
    end: str = "the node stops"

    def break_off(self, reason: str) -> None:
        """Ends the stream without another word."""
        self.end = reason
        self.scope.cancel()

    def introduce(self, brief: JobBrief, now_s: float) -> Introduced:
        """Remembers the job, under the name that its coordinator can show. Raises `ProtocolError`."""
        introduced = _introduced(self.stream.peer, brief, now_s)
        known = self.briefs.get(brief.job)
        if known is not None and known.brief.deadline_s == brief.deadline_s:
            # Introduced again, since something else has changed: it is due when it was.
            introduced = replace(introduced, due_s=known.due_s)
        self.briefs[brief.job] = introduced
        self.briefs.move_to_end(brief.job)
        if len(self.briefs) > BRIEFS_PER_STREAM_MAX:
            self.briefs.popitem(last=False)
        return introduced


@dataclass(slots=True)
class Held:
    """A frame that has arrived and is not answered yet."""

    link: Link
    brief: JobBrief
    frame: Frame
    body: bytes
    scope: trio.CancelScope
    candidates: frozenset[str]
    is_wanted: bool = True
    """Its coordinator waits for the answer."""
    executor: Executor | None = None
    """The device that it runs on."""


def _introduced(peer: PeerId, brief: JobBrief, now_s: float) -> Introduced:
    try:
        digest_of_cid(brief.model)
    except ValueError as error:
        raise ProtocolError(f"{peer} names a model that is no cid: {error}") from None
    if not is_job_id(brief.job):
        raise ProtocolError(f"{peer} names a job that is no job id")
    if not 0 < brief.timeout_s <= TASK_TIMEOUT_MAX_S:
        raise ProtocolError(f"{peer} allows {brief.timeout_s} s for a task")
    if brief.term.candidate != peer:
        raise ProtocolError(f"{peer} brings the term of another coordinator")
    submitter, candidates = str(peer), frozenset[str]()
    if brief.certificate:
        try:
            manifest = check_lease(JobId(brief.job), brief.term, brief.manifest, brief.certificate, brief.changes)
            if manifest.model != brief.model:
                raise DecodeError("its manifest names another model")
            submitter = manifest.submitter
            if len(manifest.committee) > 1:
                committees, _ = committees_of(JobId(brief.job), manifest, brief.changes)
                candidates = frozenset(candidates_in(manifest, committees[-1]))
        except DecodeError as error:
            raise ProtocolError(f"{peer} has no such lease: {error}") from None
    return Introduced(brief, submitter, now_s + brief.deadline_s if brief.deadline_s > 0 else None, candidates)
