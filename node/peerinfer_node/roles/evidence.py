"""Evidence of a lie, out of what a job keeps: the receipt of the frame, its inputs and outputs as they were signed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from peerinfer.codec import encode
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError
from peerinfer.fault_proofs import digest_of_inputs, kind_for, pack_evidence, work_of
from peerinfer.limits import EVIDENCE_LARGE_BYTES_MAX
from peerinfer.messages import Manifest, OutputGroup, Receipt
from peerinfer_node.roles.job_body import FrameInputs
from peerinfer_node.roles.result_records import OpenRecord


@dataclass(frozen=True, slots=True)
class Evidence:
    """What others need to see for themselves."""

    receipt: bytes
    task: int
    packed: bytes
    model: str
    kind: str
    """Of the proof that can be made of it."""


def receipt_in(record: OpenRecord) -> Receipt | None:
    """The receipt of a record, if a proof can be made of it."""
    try:
        _, receipt = unseal(Receipt, record.header.receipt, signer=record.peer)
    except DecodeError:  # a record from before receipts were kept
        return None
    return receipt if receipt.work else None


def evidence_in(
    record: OpenRecord, receipt: Receipt, given: FrameInputs, manifest: Manifest, task: int
) -> Evidence | None:
    """`given` are the inputs of all the receipt's tasks. None where what is kept is not what was signed, or too much."""
    positions = {name: position for position, name in enumerate(receipt.tasks)}
    if any(name not in positions for group in record.header.groups for name in group.tasks):
        return None  # The job was resumed, and its tasks have other numbers now.
    groups = tuple(
        OutputGroup(tuple(positions[name] for name in group.tasks), group.tensors) for group in record.header.groups
    )
    if sum(spec.size_bytes for spec in given.tensors) + len(record.outputs) > EVIDENCE_LARGE_BYTES_MAX:
        return None
    inputs = b"".join(given.body)
    work = work_of(given.items, given.tensors, digest_of_inputs(inputs), groups)
    try:
        if hashlib.sha256(encode(work)).digest() != receipt.work:
            return None  # Its inputs are others by now.
        packed = pack_evidence(encode(manifest), work, inputs, record.outputs)
    except ValueError:
        return None
    kind = kind_for(record.header.receipt, len(inputs), len(packed))
    return Evidence(record.header.receipt, task, packed, manifest.model, kind) if kind else None
