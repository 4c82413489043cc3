"""Proofs that a peer lied: what shows a lie to everybody, and what shows nothing."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from proof_setting import LIAR, LIE, MANIFEST, ME, NOW_S, RIGHT, TELLER, Lie, X, name_of

from peerinfer.blobs import chunks_of, index_of
from peerinfer.codec import encode
from peerinfer.errors import DecodeError
from peerinfer.fault_proofs import (
    KIND,
    LARGE_KIND,
    NUDGE,
    PROOF_LASTS_S,
    check_proof,
    deflated,
    digest_of_inputs,
    kind_for,
    nudged,
    open_evidence,
    pack_evidence,
    ruling,
)
from peerinfer.ids import digest_of_cid
from peerinfer.limits import (
    CLOCK_SKEW_MAX_S,
    EVIDENCE_BYTES_MAX,
    EVIDENCE_LARGE_BYTES_MAX,
    FAULT_RECEIPT_BYTES_MAX,
    INLINE_BYTES_MAX,
    RECEIPT_BYTES_MAX,
)
from peerinfer.messages import OutputGroup
from peerinfer.tensors import TensorSpec

Y = {"y": RIGHT}


def test_a_proof_names_who_says_it_and_who_signed() -> None:
    accusation = check_proof(Lie().proof(), NOW_S)
    assert (accusation.issuer, accusation.accused) == (TELLER.peer_id, LIAR.peer_id)
    case = open_evidence(Lie().packed(), accusation)
    assert case.position == 1
    assert case.manifest == MANIFEST
    assert np.array_equal(np.frombuffer(case.outputs, np.float32).reshape(X.shape), LIE)


NO_PROOFS: dict[str, Callable[[], bytes]] = {
    "a receipt signed by somebody else": lambda: Lie().proof(Lie().receipt()[:-1] + b"\x00"),
    "against oneself": lambda: Lie().proof(Lie().receipt(TELLER)),
    "a receipt that commits to nothing": lambda: Lie().proof(Lie().receipt(work=b"")),
    "a task that the receipt does not name": lambda: Lie().proof(task=99),
    "for ever": lambda: Lie().proof(until_s=NOW_S + PROOF_LASTS_S + 1),
    "backwards": lambda: Lie().proof(until_s=NOW_S - 1),
    "the future": lambda: Lie().proof(issued_at_s=NOW_S + CLOCK_SKEW_MAX_S + 1, until_s=NOW_S + CLOCK_SKEW_MAX_S + 2),
    "evidence without end": lambda: Lie().proof(evidence_bytes=EVIDENCE_BYTES_MAX + 1),
    "no evidence": lambda: Lie().proof(evidence_bytes=0),
    "evidence without a name": lambda: Lie().proof(evidence="../../etc"),
    "a bit turned": lambda: (good := Lie().proof())[:-1] + bytes([good[-1] ^ 1]),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("made", NO_PROOFS.values(), ids=NO_PROOFS)
def test_what_no_honest_node_passes_on_is_refused(made: Callable[[], bytes]) -> None:
    with pytest.raises(DecodeError):
        check_proof(made(), NOW_S)


def bent(**changes: Any) -> bytes:
    lie = Lie()
    for name, value in changes.items():
        setattr(lie, name, value)
    return lie.packed()


FALSE_EVIDENCE: dict[str, Callable[[], bytes]] = {
    "other outputs": lambda: bent(outputs=(RIGHT + 5).tobytes()),
    "other inputs": lambda: bent(inputs=(X + 1).tobytes()),
    "another model": lambda: bent(manifest=encode(replace(MANIFEST, model="b" * 59))),
    "another job": lambda: bent(manifest=encode(replace(MANIFEST, nonce=bytes(15) + b"1"))),
    "other shapes": lambda: bent(
        work=replace(Lie().work, groups=(OutputGroup((0, 1, 2), (TensorSpec("y", "int32", X.shape),)),))
    ),
    "inputs of another frame": lambda: bent(
        inputs=(X + 1).tobytes(), work=replace(Lie().work, inputs_digest=hashlib.sha256((X + 1).tobytes()).digest())
    ),
    "too little": lambda: Lie().packed()[:-4],
    "too much": lambda: Lie().packed() + b"0000",
    "nothing": lambda: b"",
    "a length that lies": lambda: b"\xff\xff\xff\xff" + Lie().packed()[4:],
}


@pytest.mark.parametrize("evidence", FALSE_EVIDENCE.values(), ids=FALSE_EVIDENCE)
def test_evidence_that_is_not_what_was_signed_is_none(evidence: Callable[[], bytes]) -> None:
    with pytest.raises(DecodeError):
        open_evidence(evidence(), check_proof(Lie().proof(), NOW_S))


def test_a_lie_is_proven_and_a_right_result_is_not() -> None:
    assert "9" in ruling({"y": LIE}, Y, Y, Y) or "right" in ruling({"y": LIE}, Y, Y, Y)
    assert ruling(Y, Y, Y, Y) == ""
    assert ruling({"y": RIGHT * 1.02}, Y, Y, Y) == "", "half precision and more is no lie to others"
    assert ruling({"y": np.full_like(RIGHT, np.nan)}, Y, Y, Y)
    assert ruling({}, Y, Y, Y)


def test_a_model_that_gives_something_else_each_time_proves_nothing() -> None:
    assert ruling({"y": LIE}, Y, {"y": RIGHT[::-1]}, Y) == ""


def test_a_model_that_hangs_on_the_last_bits_of_its_inputs_proves_nothing() -> None:
    """Honest devices differ there, whoever made it so."""
    assert ruling({"y": LIE}, Y, Y, {"y": RIGHT[::-1]}) == ""


def test_whole_numbers_count_only_where_inputs_could_be_nudged() -> None:
    classes, others = {"k": np.array([1, 2])}, {"k": np.array([1, 3])}
    assert ruling(others, classes, classes, classes)
    assert ruling(others, classes, classes, None) == ""


def test_inputs_are_nudged_a_little_and_whole_numbers_are_not() -> None:
    case = open_evidence(Lie().packed(), check_proof(Lie().proof(), NOW_S))
    body = nudged(case, 1)
    assert body is not None
    moved = np.frombuffer(body, np.float32).reshape(X.shape)
    assert np.allclose(np.abs(moved / X - 1), NUDGE, rtol=1e-2)
    whole = replace(case, work=replace(case.work, tensors=(TensorSpec("x", "int32", X.shape),)))
    assert nudged(whole, 1) is None


def test_the_index_of_a_small_blob_is_not_taken_for_the_inputs() -> None:
    """An honest worker that was sent 41 bytes as a blob would have signed for the index, 41 bytes too."""
    index = index_of(chunks_of(bytes(41))).encode()
    assert len(index) == 41
    assert digest_of_cid(name_of(bytes(41))) == hashlib.sha256(index).digest(), "this is why workers refuse such frames"
    assert digest_of_inputs(bytes(41)) != digest_of_cid(name_of(bytes(41)))
    large = bytes(INLINE_BYTES_MAX + 1)
    assert digest_of_inputs(large) == digest_of_cid(name_of(large))
    assert digest_of_inputs(large[1:]) == hashlib.sha256(large[1:]).digest()


def test_a_large_proof_carries_its_receipt_deflated_and_no_bomb() -> None:
    lie = Lie.large()
    assert len(lie.receipt()) > FAULT_RECEIPT_BYTES_MAX
    accusation = check_proof(lie.proof(), NOW_S, kind=LARGE_KIND)
    assert open_evidence(lie.packed(), accusation).inputs == lie.inputs
    bombs = (
        deflated(bytes(RECEIPT_BYTES_MAX + 1)),
        deflated(bytes(1 << 20)),
        lie.receipt_told()[:-5],
        lie.receipt()[:900],
    )
    for receipt in (*bombs, lie.receipt_told() + b"0"):
        with pytest.raises(DecodeError):
            check_proof(lie.proof(receipt), NOW_S, kind=LARGE_KIND)
    with pytest.raises(DecodeError):
        check_proof(lie.proof(), NOW_S)


def test_the_smallest_kind_that_fits_is_taken() -> None:
    small = Lie().receipt()
    assert kind_for(small, INLINE_BYTES_MAX, EVIDENCE_BYTES_MAX) == KIND
    assert kind_for(small, INLINE_BYTES_MAX + 1, EVIDENCE_BYTES_MAX) == LARGE_KIND
    assert kind_for(small, 1, EVIDENCE_BYTES_MAX + 1) == LARGE_KIND
    assert kind_for(Lie.large().receipt(), 1, 2) == LARGE_KIND
    assert kind_for(small, 1, EVIDENCE_LARGE_BYTES_MAX + 1) == ""
    assert kind_for(random.Random(1).randbytes(FAULT_RECEIPT_BYTES_MAX + 100), 1, 2) == "", "what cannot be deflated"


def test_what_would_not_fit_is_not_packed() -> None:
    with pytest.raises(ValueError, match="evidence of"):
        pack_evidence(encode(MANIFEST), Lie().work, bytes(EVIDENCE_LARGE_BYTES_MAX), b"")
    assert len(Lie().receipt()) <= FAULT_RECEIPT_BYTES_MAX
    with pytest.raises(DecodeError):
        check_proof(Lie().proof(bytes(FAULT_RECEIPT_BYTES_MAX + 1)), NOW_S)
    assert ME.peer_id != TELLER.peer_id
