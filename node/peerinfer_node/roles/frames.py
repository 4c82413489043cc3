"""What a frame must be before a worker takes it, and what its answer says when nothing of it could be run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from peerinfer.errors import AttemptTimeout, ExecutionError, OutOfMemory, ProtocolError, WorkerDied
from peerinfer.ids import digest_of_cid
from peerinfer.limits import BODY_BYTES_MAX, FRAME_BLOB_BYTES_MAX, INLINE_BYTES_MAX
from peerinfer.messages import Frame, JobBrief
from peerinfer.tensors import Buffer
from peerinfer_node.ports import BatchResult


def check_frame(frame: Frame, brief: JobBrief, body_bytes: int) -> None:
    """Raises `ProtocolError` unless the frame's numbers agree with each other and with its body."""
    tasks = len(frame.tasks)
    if not tasks or len(set(frame.tasks)) != tasks:
        raise ProtocolError(f"frame {frame.frame} holds no tasks, or one twice")
    if len(frame.attempts) != tasks or len(frame.items) != tasks or 0 in frame.items:
        raise ProtocolError(f"frame {frame.frame} has {tasks} tasks but not as many attempts and items")
    if not frame.tensors or len({spec.name for spec in frame.tensors}) != len(frame.tensors):
        raise ProtocolError(f"frame {frame.frame} holds no tensors, or two of one name")
    rows = sum(frame.items)
    for spec in frame.tensors:
        if spec.shape and spec.shape[0] != rows:
            raise ProtocolError(f"frame {frame.frame}: {spec.name} has {spec.shape[0]} items, its tasks have {rows}")
    claimed = sum(spec.size_bytes for spec in frame.tensors)
    if frame.inputs is None:
        if claimed != body_bytes or claimed > BODY_BYTES_MAX:
            raise ProtocolError(f"frame {frame.frame} claims {claimed} bytes of tensors and carries {body_bytes}")
    else:
        if body_bytes or claimed != frame.inputs_bytes or claimed > FRAME_BLOB_BYTES_MAX:
            raise ProtocolError(
                f"frame {frame.frame} claims {claimed} bytes of tensors in a blob of {frame.inputs_bytes}"
            )
        if claimed <= INLINE_BYTES_MAX:
            # A receipt says how its inputs came by their size alone: these would have two meanings (`fault_proofs`).
            raise ProtocolError(f"frame {frame.frame} has a blob for {claimed} bytes, which a message would hold")
        try:
            digest_of_cid(frame.inputs)
        except ValueError as error:
            raise ProtocolError(f"frame {frame.frame} names inputs that are no cid: {error}") from None
    if frame.term.candidate != brief.term.candidate:
        raise ProtocolError(f"frame {frame.frame} has another coordinator's term")
    if frame.term.order < brief.term.order:
        raise ProtocolError(f"frame {frame.frame} has an older term than its job's brief")


def inputs_digest_of(cid: str | None, body: Sequence[Buffer]) -> bytes:
    """What a receipt says of a frame's inputs: SHA-256 over them, or the digest in the name of their blob."""
    if cid is not None:
        return digest_of_cid(cid)
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
    return digest.digest()


def all_failed(tasks: int, error: ExecutionError) -> BatchResult:
    kinds: dict[type[ExecutionError], str] = {AttemptTimeout: "timeout", OutOfMemory: "memory", WorkerDied: "crash"}
    kind = kinds.get(type(error), "internal")
    return BatchResult((), tuple((position, kind, str(error)) for position in range(tasks)))
