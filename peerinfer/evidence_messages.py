"""What nodes tell the whole swarm of each other, as statements that spread: tags 45–49.

The kinds of `Statement.kind`: `attestation`, a `Signed` `Attestation`; `fault`, a `Signed` `FaultProof`.
"""

from __future__ import annotations

from peerinfer.codec import blob, listed, message, number, packed_u32, part, record, text, uint, wire
from peerinfer.limits import ATTESTED_MAX, FAULT_RECEIPT_BYTES_MAX, FRAME_TASKS_MAX, TENSORS_MAX
from peerinfer.messages import OutputGroup
from peerinfer.tensors import TensorSpec


@part
class Attested:
    """Work of one peer that the signer received, and that stood up to its checks."""

    key: bytes = wire(blob(32, exactly=32))
    """Its Ed25519 public key, which its peer id is made of."""
    units: float = wire(number)
    """Operations, as the graphs of the models say."""
    audits: int = wire(uint(32))
    """Checks that it passed since it was last caught."""


@message(45)
class Attestation:
    """From whom the signer received verified work. Of one signer the newest counts, until it ends."""

    issued_at_s: float = wire(number)
    """Wall clock of the signer."""
    until_s: float = wire(number)
    """A day later at most."""
    peers: tuple[Attested, ...] = wire(listed(record(Attested), ATTESTED_MAX))


@message(46)
class WorkDone:
    """What a receipt commits to beside the bytes of the outputs. The model is that of the receipt's job."""

    items: tuple[int, ...] = wire(packed_u32(FRAME_TASKS_MAX))
    tensors: tuple[TensorSpec, ...] = wire(listed(record(TensorSpec), TENSORS_MAX))
    """As in the frame."""
    inputs_digest: bytes = wire(blob(32, exactly=32))
    """SHA-256 over the frame's body; of inputs that came as a blob, the digest in its cid."""
    groups: tuple[OutputGroup, ...] = wire(listed(record(OutputGroup), FRAME_TASKS_MAX))
    """As in the results."""


@message(48)
class FaultProof:
    """The signer has computed a task again that somebody signed a receipt for, and found another result.

    Nobody need believe that: whoever cares fetches the evidence from the signer and computes the task again.
    """

    issued_at_s: float = wire(number)
    """Wall clock of the signer."""
    until_s: float = wire(number)
    """A day later at most."""
    receipt: bytes = wire(blob(FAULT_RECEIPT_BYTES_MAX))
    """The `Signed` `Receipt` of whoever is accused."""
    task: int = wire(uint(32))
    """Which of the receipt's tasks is wrong."""
    evidence: str = wire(text(64))
    """A blob: the length of a `FaultEvidence` (u32, little-endian), the message, the frame's inputs, the outputs."""
    evidence_bytes: int = wire(uint(32))


@message(49)
class FaultEvidence:
    """The header of the evidence."""

    manifest: bytes = wire(blob(1 << 19))
    """The job's `Manifest`, whose hash is the job's id, so that it names the model."""
    work: bytes = wire(blob(1 << 18))
    """The `WorkDone` that the receipt commits to."""
    inputs_bytes: int = wire(uint(32))
