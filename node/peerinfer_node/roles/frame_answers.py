"""What a worker answers: the outputs of a frame, beside the message where they are large, and its receipt for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from peerinfer.envelope import seal
from peerinfer.fault_proofs import commitment
from peerinfer.limits import INLINE_BYTES_MAX, REASON_CHARS_MAX
from peerinfer.messages import Frame, JobBrief, OutputGroup, Receipt, Results, TaskFailure
from peerinfer_node.ports import BatchResult, BlobStore, Device, Keys
from peerinfer_node.roles.frames import inputs_digest_of

Body = Sequence[bytes | memoryview]


def commitment_to(frame: Frame, body: bytes, result: BatchResult) -> bytes:
    """What a receipt says of the work: only where the job's manifest is known, which names the model."""
    groups = [OutputGroup(group.positions, group.tensors) for group in result.groups]
    return commitment(frame.items, frame.tensors, inputs_digest_of(frame.inputs, [body]), groups)


def receipt_for(
    frame: Frame,
    body: Body,
    compute_s: float,
    device: Device,
    energy_j: float,
    *,
    keys: Keys,
    wall_s: float,
    work: bytes,
) -> bytes:
    """`work` is what it commits to beside the bytes of its outputs, if it does."""
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    receipt = Receipt(
        frame.job,
        frame.term,
        frame.frame,
        frame.tasks,
        frame.attempts,
        digest.digest(),
        compute_s,
        device.name,
        energy_j,
        wall_s,
        device.kind,
        device.provider,
        work,
    )
    return seal(receipt, keys.peer_id, keys.sign)


async def results_of(
    frame: Frame, brief: JobBrief, result: BatchResult, compute_s: float, receipt: bytes, blobs: BlobStore
) -> tuple[Results, Body]:
    """The answer, and its body unless that became a blob."""
    body: Body = [group.body for group in result.groups]
    body_bytes = sum(len(part) for part in body)
    outputs: str | None = None
    if body_bytes > INLINE_BYTES_MAX:
        outputs = await blobs.put(b"".join(body))
        body = []
    results = Results(
        frame=frame.frame,
        groups=tuple(OutputGroup(group.positions, group.tensors) for group in result.groups),
        failures=tuple(
            TaskFailure(position, kind, reason[:REASON_CHARS_MAX]) for position, kind, reason in result.failures
        ),
        compute_s=compute_s,
        receipt=receipt,
        outputs=outputs,
        outputs_bytes=body_bytes,
        executions=() if brief.receipts else result.executions,
    )
    return results, body
