"""A job, a worker that signs for a frame of it, and somebody who brings the evidence."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from peerinfer.blobs import chunks_of, index_of
from peerinfer.codec import encode
from peerinfer.envelope import seal
from peerinfer.evidence_messages import FaultProof
from peerinfer.fault_proofs import PROOF_LASTS_S, commitment, deflated, digest_of_inputs, pack_evidence, work_of
from peerinfer.ids import Cid, job_id_of
from peerinfer.limits import INLINE_BYTES_MAX
from peerinfer.messages import Manifest, OutputGroup, Receipt, Term
from peerinfer.tensors import FREE, Port, TensorSpec
from peerinfer_node.keys import MemoryKeys

NOW_S = 1_800_000_000.0
LIAR, TELLER, ME = MemoryKeys(b"liar"), MemoryKeys(b"teller"), MemoryKeys(b"me")
WIDTH = 4
MODEL = b"y = 2 x + 1"
TASKS = (3, 4, 5)
X = np.arange(1, 1 + len(TASKS) * WIDTH, dtype=np.float32).reshape(len(TASKS), WIDTH)
RIGHT = 2 * X + 1
LIE = RIGHT.copy()
LIE[1] += 9


def name_of(data: bytes) -> Cid:
    return index_of(chunks_of(data)).cid


MANIFEST = Manifest(
    submitter=TELLER.peer_id,
    created_at_s=NOW_S,
    nonce=bytes(16),
    model=name_of(MODEL),
    model_sha256=hashlib.sha256(MODEL).digest(),
    inputs=(Port("x", "float32", (FREE, WIDTH)),),
    outputs=(Port("y", "float32", (FREE, WIDTH)),),
    given=(TensorSpec("x", "float32", (100, WIDTH)),),
    items=100,
    tasks=100,
    items_per_task=1,
    inputs_digest=bytes(32),
    verify="spot",
    compare="allclose",
    rtol=-1.0,
    atol=-1.0,
    committee=(TELLER.peer_id,),
    byzantine=0,
)


class Lie:
    """What a worker signed, and what somebody brings to show it. Fields may be bent before either."""

    def __init__(self, y: np.ndarray = LIE, x: np.ndarray = X) -> None:
        self.inputs, self.outputs = x.tobytes(), np.ascontiguousarray(y).tobytes()
        self.items = (1,) * len(x)
        self.tensors = (TensorSpec("x", "float32", x.shape),)
        self.groups = (OutputGroup(tuple(range(len(x))), (TensorSpec("y", "float32", y.shape),)),)
        self.manifest = encode(MANIFEST)
        self.work = work_of(self.items, self.tensors, digest_of_inputs(self.inputs), self.groups)
        self.tasks = TASKS if len(x) == len(TASKS) else tuple(range(len(x)))
        self.task = self.tasks[1]

    @classmethod
    def large(cls, *, is_right: bool = False) -> Lie:
        """Of inputs that a message would not hold, in more tasks than one statement would name."""
        x = 1 + np.arange(500 * 2200, dtype=np.float32).reshape(500, 2200) % 7
        return cls(2 * x + (1 if is_right else 9), x)

    def receipt(self, keys: MemoryKeys = LIAR, **changes: Any) -> bytes:
        digest = digest_of_inputs(self.inputs)
        values: dict[str, Any] = {
            "job": job_id_of(encode(MANIFEST)),
            "term": Term(1, TELLER.peer_id),
            "frame": 7,
            "tasks": self.tasks,
            "attempts": (0,) * len(self.tasks),
            "outputs_digest": hashlib.sha256(self.outputs).digest(),
            "compute_s": 0.1,
            "device": "NumPy",
            "work": commitment(self.items, self.tensors, digest, self.groups),
        }
        return seal(Receipt(**(values | changes)), keys.peer_id, keys.sign)

    def receipt_told(self) -> bytes:
        return deflated(self.receipt()) if len(self.inputs) > INLINE_BYTES_MAX else self.receipt()

    def packed(self) -> bytes:
        return pack_evidence(self.manifest, self.work, self.inputs, self.outputs)

    def proof(self, receipt: bytes | None = None, keys: MemoryKeys = TELLER, **changes: Any) -> bytes:
        packed = self.packed()
        values: dict[str, Any] = {
            "issued_at_s": NOW_S,
            "until_s": NOW_S + PROOF_LASTS_S,
            "receipt": receipt or self.receipt_told(),
            "task": self.task,
            "evidence": name_of(packed),
            "evidence_bytes": len(packed),
        }
        return seal(FaultProof(**(values | changes)), keys.peer_id, keys.sign)
