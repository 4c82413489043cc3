"""Evidence of a lie, out of what a job keeps: the receipt of the frame, its inputs and outputs as they were signed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from peerinfer.codec import encode
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError
from peerinfer.fault_proofs import pack_evidence, work_of
from peerinfer.limits import FAULT_RECEIPT_BYTES_MAX
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


def receipt_in(record: OpenRecord) -> Receipt | None:
    """The receipt of a record, if a proof can be made of it."""
    try:
        _, receipt = unseal(Receipt, record.header.receipt, signer=record.peer)
    except DecodeError:  # a record from before receipts were kept
        return None
    return receipt if receipt.work and len(record.header.receipt) <= FAULT_RECEIPT_BYTES_MAX else None


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
    inputs = b"".join(given.body)
    work = work_of(given.items, given.tensors, hashlib.sha256(inputs).digest(), groups)
    try:
        if hashlib.sha256(encode(work)).digest() != receipt.work:
            return None  # Its inputs came as a blob.
        packed = pack_evidence(encode(manifest), work, inputs, record.outputs)
    except ValueError:
        return None
    return Evidence(record.header.receipt, task, packed, manifest.model)
