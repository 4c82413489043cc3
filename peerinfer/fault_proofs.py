"""Proofs that a peer lied, which nobody need believe: whoever cares computes the task again.

Theory of operation. A worker signs a receipt before it can know what will be checked. The receipt commits to the bytes of
its outputs, and by a digest (`WorkDone`) to what they are: which inputs, cut how, of which job. The job's id is the hash
of its manifest, which names the model. So receipt, manifest, inputs and outputs together are a claim that stands or falls
with a computation, whoever brings them: who has caught a liar spreads the receipt and the name of a blob with the rest,
and whoever has to do with the liar fetches it and looks for itself (`roles/proving`).

**Against slander.** Signatures and digests keep anybody from claiming what was not signed. What is left is a model made
for the purpose: one whose result hangs on chance, or on the last bits of its inputs, so that honest devices differ. So a
proof counts only if the result computed here is the same twice, hardly moves when the inputs are nudged by a thousandth
(`NUDGE`), and is far from what was signed: by more than five times what half precision would explain. Whole numbers and
strings count only where there are inputs to nudge. Whoever spreads a proof that does not hold is not listened to again.

**Large frames.** Proofs of the kind `LARGE_KIND` carry the receipt deflated, so that it fits one statement, and are about
inputs that came as a blob; then the receipt commits to the blob's name. Which of the two a digest is follows from the
inputs' size alone, as the receipt commits to it: else small inputs that came as a blob, and the bytes of that blob's index,
would be two things that one receipt names. Workers take no inputs as a blob that fit into a message (`roles/frames`).

No pairs of different receipts for the same work are used as proof: two honest runs may differ in their last bits.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from peerinfer.binding import Binding, bind
from peerinfer.blobs import chunks_of, index_of
from peerinfer.calibration import moved
from peerinfer.codec import decode_as, encode
from peerinfer.comparison import HALF_ATOL, HALF_RTOL, disagreement
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, InputError
from peerinfer.evidence_messages import FaultEvidence, FaultProof, WorkDone
from peerinfer.ids import JobId, PeerId, digest_of_cid, job_id_of
from peerinfer.limits import (
    CLOCK_SKEW_MAX_S,
    EVIDENCE_BYTES_MAX,
    EVIDENCE_LARGE_BYTES_MAX,
    FAULT_RECEIPT_BYTES_MAX,
    INLINE_BYTES_MAX,
    RECEIPT_BYTES_MAX,
)
from peerinfer.messages import Manifest, OutputGroup, Receipt
from peerinfer.tensors import TensorSpec

KIND, LARGE_KIND = "fault", "large-fault"
PROOF_LASTS_S = 86_400.0
"""Who made a proof says it again while it holds the evidence."""

NUDGE = 1e-3
"""Of the inputs, by so much of themselves; honest devices differ by less."""

PROOF_RTOL, PROOF_ATOL = 5 * HALF_RTOL, 5 * HALF_ATOL
"""A result that is off by less proves nothing to others."""

_LENGTH = struct.Struct("<I")

Rows = Mapping[str, NDArray[Any]]


def commitment(
    items: Sequence[int], tensors: Sequence[TensorSpec], inputs_digest: bytes, groups: Sequence[OutputGroup]
) -> bytes:
    """What a receipt says of the work; empty where that is too much for one message."""
    try:
        return hashlib.sha256(encode(work_of(items, tensors, inputs_digest, groups))).digest()
    except ValueError:
        return b""


def work_of(
    items: Sequence[int], tensors: Sequence[TensorSpec], inputs_digest: bytes, groups: Sequence[OutputGroup]
) -> WorkDone:
    return WorkDone(tuple(items), tuple(tensors), inputs_digest, tuple(groups))


@dataclass(frozen=True, slots=True)
class Accusation:
    """A proof whose signatures are good, and that is worth looking at."""

    issuer: PeerId
    accused: PeerId
    proof: FaultProof
    receipt: Receipt
    signed: bytes
    kind: str = KIND


@dataclass(frozen=True, slots=True)
class Case:
    """The evidence, all of which is what the receipt commits to."""

    manifest: Manifest
    binding: Binding
    work: WorkDone
    inputs: bytes
    outputs: bytes
    position: int
    """Of the task in the frame."""


def digest_of_inputs(inputs: bytes) -> bytes:
    """As receipts name them: by their hash; by that of their blob's index where a message would not hold them."""
    if len(inputs) > INLINE_BYTES_MAX:
        return digest_of_cid(index_of(chunks_of(inputs)).cid)
    return hashlib.sha256(inputs).digest()


def kind_for(receipt: bytes, inputs_bytes: int, evidence_bytes: int) -> str:
    """Of which kind a proof is; "" where none can be made."""
    is_small = inputs_bytes <= INLINE_BYTES_MAX and evidence_bytes <= EVIDENCE_BYTES_MAX
    if is_small and len(receipt) <= FAULT_RECEIPT_BYTES_MAX:
        return KIND
    fits = len(deflated(receipt)) <= FAULT_RECEIPT_BYTES_MAX and evidence_bytes <= EVIDENCE_LARGE_BYTES_MAX
    return LARGE_KIND if fits else ""


def deflated(receipt: bytes) -> bytes:
    return zlib.compress(receipt, 9)


def _inflated(data: bytes) -> bytes:
    try:
        inflater = zlib.decompressobj()
        receipt = inflater.decompress(data, RECEIPT_BYTES_MAX)
    except zlib.error:
        raise DecodeError("a receipt that cannot be inflated") from None
    if not inflater.eof or inflater.unused_data:
        raise DecodeError("a receipt that is too large, or is cut off")
    return receipt


def check_proof(signed: bytes, wall_s: float, *, kind: str = KIND) -> Accusation:
    """Raises `DecodeError` for what no honest node passes on: whether the accusation is true is another question."""
    is_large = kind == LARGE_KIND
    issuer, proof = unseal(FaultProof, signed)
    accused, receipt = unseal(Receipt, _inflated(proof.receipt) if is_large else proof.receipt)
    if not 0 < proof.until_s - proof.issued_at_s <= PROOF_LASTS_S or proof.issued_at_s > wall_s + CLOCK_SKEW_MAX_S:
        raise DecodeError("a proof lasts longer than a day, or is from the future")
    if accused == issuer:
        raise DecodeError("a proof against its own author")
    if len(receipt.work) != 32 or proof.task not in receipt.tasks:
        raise DecodeError("a proof about work that its receipt does not commit to")
    if not 0 < proof.evidence_bytes <= (EVIDENCE_LARGE_BYTES_MAX if is_large else EVIDENCE_BYTES_MAX):
        raise DecodeError("a proof whose evidence is too large")
    try:
        digest_of_cid(proof.evidence)
    except ValueError:
        raise DecodeError("a proof whose evidence has no name") from None
    return Accusation(issuer, accused, proof, receipt, signed, kind)


def pack_evidence(manifest: bytes, work: WorkDone, inputs: bytes, outputs: bytes) -> bytes:
    """The blob. `manifest` is the encoded message. Raises ValueError if it does not fit."""
    header = encode(FaultEvidence(manifest, encode(work), len(inputs)))
    packed = b"".join((_LENGTH.pack(len(header)), header, inputs, outputs))
    if len(packed) > EVIDENCE_LARGE_BYTES_MAX:
        raise ValueError(f"evidence of {len(packed)} bytes")
    return packed


def open_evidence(data: bytes, accusation: Accusation) -> Case:
    """Raises `DecodeError` unless everything in it is what the accused has signed."""
    receipt = accusation.receipt
    try:
        (length,) = _LENGTH.unpack_from(data)
        header = decode_as(FaultEvidence, data[4 : 4 + length])
        manifest, work = decode_as(Manifest, header.manifest), decode_as(WorkDone, header.work)
        binding = bind(manifest.inputs, manifest.given)
    except (struct.error, InputError) as error:
        raise DecodeError(f"evidence that cannot be read: {error}") from None
    inputs = data[4 + length : 4 + length + header.inputs_bytes]
    outputs = data[4 + length + header.inputs_bytes :]
    if job_id_of(header.manifest) != JobId(receipt.job):
        raise DecodeError("evidence of another job")
    if hashlib.sha256(header.work).digest() != receipt.work:
        raise DecodeError("evidence of other work than was signed")
    if digest_of_inputs(inputs) != work.inputs_digest:
        raise DecodeError("evidence with other inputs than were signed")
    if hashlib.sha256(outputs).digest() != receipt.outputs_digest:
        raise DecodeError("evidence with other outputs than were signed")
    if sum(spec.size_bytes for spec in work.tensors) != len(inputs) or len(work.items) != len(receipt.tasks):
        raise DecodeError("evidence whose inputs are no frame")
    if sum(spec.size_bytes for group in work.groups for spec in group.tensors) != len(outputs):
        raise DecodeError("evidence whose outputs do not add up")
    return Case(manifest, binding, work, inputs, outputs, receipt.tasks.index(accusation.proof.task))


def nudged(case: Case, seed: int) -> bytes | None:
    """The inputs, each moved by a little of itself; None where none of them can be."""
    return moved(case.inputs, case.work.tensors, NUDGE, seed)


def ruling(claimed: Rows, here: Rows, again: Rows, nudge: Rows | None) -> str:
    """How the claim is wrong, in one line; "" if that is not proven.

    `here` and `again` are the same task computed twice, `nudge` the same with its inputs nudged.
    """
    if disagreement(again, here, compare="allclose", rtol=HALF_RTOL, atol=HALF_ATOL):
        return ""  # It is not even the same twice.
    if nudge is not None and disagreement(nudge, here, compare="allclose", rtol=PROOF_RTOL, atol=PROOF_ATOL):
        return ""  # It hangs on the last bits of its inputs.
    if nudge is None:
        here = {name: values for name, values in here.items() if values.dtype.kind == "f"}
    return disagreement(claimed, here, compare="allclose", rtol=PROOF_RTOL, atol=PROOF_ATOL)
