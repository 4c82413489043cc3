"""Messages that keep a job alive beside its submitter: copies of its inputs and results, and questions about it.

Tags 79–89, protocol `/peerinfer/journal/1`. Every request is answered once, in order, on the stream that carried it;
`RecordsWanted` by any number of `RecordCopy` and then `RecordsEnd`.
"""

from __future__ import annotations

from peerinfer.codec import blob, message, optional, packed_u32, record, text, uint, wire
from peerinfer.limits import FRAME_TASKS_MAX, REASON_CHARS_MAX
from peerinfer.messages import Term

REQUEST_CHARS_MAX = 65_536
STATE_CHARS_MAX = 262_144

_id = text(64)


PRIORITY_REVISION = 2
"""Of the protocol: the first that has `JobPriorityWanted`."""


@message(79)
class JobPriorityWanted:
    """From the submitter to whoever coordinates. Each elector answers with what its journal says, in a `JobState`."""

    job: str = wire(_id)
    statement: bytes = wire(blob(4096))
    """A `Signed` `JobPriority`."""


@message(80)
class ReplicaOffered:
    """From the submitter to an elector: fetch this job's model and inputs, and be ready to coordinate it."""

    job: str = wire(_id)
    request: str = wire(text(REQUEST_CHARS_MAX))
    """What the user asked for, as JSON; its paths mean nothing here."""
    model_bytes: int = wire(uint(48))
    inputs: str = wire(_id)
    """The blob that holds the inputs, encrypted."""
    inputs_bytes: int = wire(uint(48))
    key: bytes = wire(blob(32, exactly=32))
    """Of the inputs. It is told to the committee only, over encrypted streams."""
    seconds_per_item: int = wire(uint(48))
    """What an item took on the submitter's device, in nanoseconds."""


@message(81)
class ReplicaHeld:
    job: str = wire(_id)


@message(82)
class RecordCopy:
    """From the holder: keep this record of the job's spool. It is the body, or the blob that `record` names."""

    job: str = wire(_id)
    term: Term = wire(record(Term))
    number: int = wire(uint(48))
    tasks: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    """Those that it counts for. A record may hold more: another worker was first, or an audit has voided them."""
    record: str | None = wire(optional(_id), default=None)
    record_bytes: int = wire(uint(48), default=0)
    """How large that blob is: who has no room for it need not fetch it. 0: the sender does not say."""


@message(83)
class RecordHeld:
    job: str = wire(_id)
    number: int = wire(uint(48))


@message(84)
class RecordsWanted:
    """The results of these tasks, from whoever holds them."""

    job: str = wire(_id)
    tasks: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))


@message(85)
class RecordsEnd:
    job: str = wire(_id)


@message(86)
class JobStateWanted:
    job: str = wire(_id)


@message(87)
class JobState:
    """A job as the node that answers sees it, as the JSON of the control API; empty if it knows nothing."""

    job: str = wire(_id)
    state: str = wire(text(STATE_CHARS_MAX))


@message(88)
class JobCancelWanted:
    """From the submitter to whoever coordinates. Answered by `JobState`."""

    job: str = wire(_id)


@message(89)
class ReplicaRefused:
    """Why a request about a job was not met."""

    job: str = wire(_id)
    reason: str = wire(text(REASON_CHARS_MAX))


@message(94)
class JobAtHome:
    """From the submitter: every result of the job is at home to stay. Answered by `JobState`."""

    job: str = wire(_id)
