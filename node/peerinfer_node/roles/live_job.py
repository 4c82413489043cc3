"""A job that is not over, as far as this node knows, and what its journal says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from peerinfer.assignment import JobEnded, JobPicture
from peerinfer.committees import number_of
from peerinfer.control import JobRequest, Json
from peerinfer.ids import JobId, PeerId
from peerinfer.job_priority import JobPriority
from peerinfer.journal import Chain
from peerinfer.messages import Manifest, Term
from peerinfer.register import Entry
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.roles.job_views import EARLIER_TERM, handovers
from peerinfer_node.roles.stored_job import JobFiles, StoredJob


@dataclass(slots=True)
class LiveJob:
    """What this node keeps in mind of it."""

    job: JobId
    manifest: Manifest
    signed: bytes
    request: JobRequest
    started_s: float
    files: JobFiles | None = None
    """None until this node has to coordinate it."""
    seconds_per_item: float = 1e-3
    model_bytes: int = 0
    flops_per_item: float = 1.0
    body: StoredJob | None = None
    """While it coordinates."""
    scope: trio.CancelScope | None = None
    survives: bool = False
    """Copies of its inputs are on a quorum."""
    is_replicated_by_command: bool = False
    """Whoever submitted it waits until copies are on a quorum; otherwise they are made beside the work."""
    copied_bytes: int = 0
    copies_bytes: int = 0
    """What has been sent of its copies, and how much that will be."""
    copies_refused: Mapping[PeerId, str] = field(default_factory=dict)
    """Electors that take no copies of results now, and why, while this node coordinates."""
    carried: tuple[Entry, ...] = ()
    """What its owner carries over from a generation that is over, until it is in the journal of the new one."""
    history: Json | None = None
    """What its owner knows of generations that are over: their `handovers`; and `why` the new one, `generation`, began."""
    carried_priorities: tuple[str, ...] = ()
    """The owner's statements on its priority, as they stood there."""
    is_over: bool = False
    is_unwanted: bool = False
    """Its owner, this node, has cancelled it: it ends as soon as its journal can say so."""
    waiting: str = "its coordinator is being elected"
    going_on: str = ""
    """While a quorum is missing of a job that its owner, this node, watches over: who goes on without it, and how."""
    picture: JobPicture | None = None
    end: JobEnded | None = None
    priority: JobPriority | None = None
    """What its owner said of it since it was submitted."""
    accepted: trio.Event = field(default_factory=trio.Event)
    changes: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def prioritise(self, statement: JobPriority) -> None:
        self.priority = statement
        self.request = replace(self.request, priority=statement.word)

    def note_change(self) -> None:
        self.changes += 1
        self.changed.set()
        self.changed = trio.Event()

    async def wait_change(self, since: int) -> None:
        """Returns when there were more than `since` changes."""
        while self.changes == since:
            await self.changed.wait()


def plain(known: Json) -> Json:
    """What another node says of a job, as far as it belongs into a row: numbers, texts and lists of them."""
    kept = ("accepted", "final", "failed", "failed_tasks", "retried", "audited", "audits_failed", "verification")
    more = (
        "open",
        "assigned",
        "priority",
        "peers",
        "survives",
        "handovers",
        "coordinator",
        "term",
        "generation",
        "elapsed_s",
    )
    return {name: known[name] for name in (*kept, *more) if name in known}


def led(chain: Chain, manifest: Manifest, history: Json | None) -> Json:
    """Who coordinates, and who did; up to the job's end, which others may have read since under terms of their own.

    A generation has a journal of its own, which tells nothing of those before.
    """
    last = chain.link(chain.end - 1).term if chain.end else chain.last_term
    found = handovers(chain, manifest.created_at_s, last)
    if history is not None and (not found or found[0]["generation"] == history["generation"]):
        if found:
            found[0]["why"] = history["why"]
        found = [*history["handovers"], *found]
    return {"coordinator": last.candidate, "term": number_of(last), "handovers": found}


def history_before(generation: int, told: Json, missing: Sequence[str]) -> Json:
    """What its owner keeps of a job that goes on as this generation; `told`: who has led it so far."""
    why = f"its owner's node went on without these electors: {', '.join(missing)}"
    return {"generation": generation, "handovers": told["handovers"], "why": why}


def how_it_ended(chain: Chain) -> tuple[str, str, str]:
    """The state in which the journal ends, the reason, and its kind."""
    if not chain.end:
        return "failed", "", ""
    end = chain.batch(chain.end - 1)
    try:
        reason, kind = json.loads(end.detail)
    except (ValueError, TypeError):  # whoever coordinated wrote it
        reason, kind = end.detail, ""
    return end.event, str(reason), str(kind)


def in_journal(chain: Chain) -> tuple[dict[int, None], dict[int, str]]:
    """Tasks that the journal says are done, and those that it says failed."""
    final, failed = chain.register.tasks()
    return dict.fromkeys(final), dict.fromkeys(failed, EARLIER_TERM)


def tasks_of(rows: Sequence[RecordRow]) -> set[int]:
    return {task for row in rows for task in row.tasks}


def spent_s(chain: Chain) -> float:
    """For how long a job has been coordinated, as its journal shows: term by term, each by the clock of who held it.

    So clocks of different nodes are never compared. Of terms that only a snapshot tells of nothing is known.
    """
    opened_s = {term: opening.at_s for term, opening in chain.handovers()}
    last: dict[Term, int] = {}
    for sequence in range(chain.base, len(chain)):
        last[chain.link(sequence).term] = sequence
    return sum(
        max(chain.batch(sequence).at_s - opened_s[term], 0.0) for term, sequence in last.items() if term in opened_s
    )


Forget = Callable[[LiveJob, str, str, str], Awaitable[None]]
"""Ends a job on this node alone: state, reason, kind of error."""
