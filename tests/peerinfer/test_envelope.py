"""A signed statement is believed if its author signed exactly this, as this kind of statement; nothing else is."""

import pytest

from peerinfer.codec import decode_as, encode, registered
from peerinfer.envelope import seal, unseal
from peerinfer.errors import DecodeError
from peerinfer.messages import Goodbye, JobDone, Receipt, Refused, Signed, Term, Window
from peerinfer_node.keys import MemoryKeys

ALICE, BOB = MemoryKeys(b"alice"), MemoryKeys(b"bob")
RECEIPT = Receipt("job", Term(1, ALICE.peer_id), 7, (1, 2), (0, 1), bytes(32), 0.5, "CPU")


def sealed(message, keys=ALICE):
    return seal(message, keys.peer_id, keys.sign)


def test_a_statement_says_who_signed_it_and_what():
    assert unseal(Receipt, sealed(RECEIPT)) == (ALICE.peer_id, RECEIPT)
    assert unseal(Receipt, sealed(RECEIPT), signer=ALICE.peer_id) == (ALICE.peer_id, RECEIPT)


def test_somebody_elses_statement_is_refused_where_one_author_is_due():
    with pytest.raises(DecodeError, match=r"signed by \w+, not by"):
        unseal(Receipt, sealed(RECEIPT, BOB), signer=ALICE.peer_id)


def test_a_statement_under_another_name_is_refused():
    forged = Signed(ALICE.peer_id, encode(RECEIPT), decode_as(Signed, sealed(RECEIPT, BOB)).signature)
    with pytest.raises(DecodeError, match=f"not {ALICE.peer_id}'s"):
        unseal(Receipt, encode(forged))


@pytest.mark.parametrize("name", ["", "nobody", "1" * 52, "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "é" * 52])
def test_a_signer_whose_name_holds_no_key_is_refused(name):
    original = decode_as(Signed, sealed(RECEIPT))
    with pytest.raises(DecodeError):
        unseal(Receipt, encode(Signed(name, original.payload, original.signature)))


def test_a_signature_over_the_bare_payload_is_refused():
    payload = encode(RECEIPT)
    with pytest.raises(DecodeError, match="signature"):
        unseal(Receipt, encode(Signed(ALICE.peer_id, payload, ALICE.sign(payload))))


def test_a_signature_for_one_kind_of_statement_never_passes_for_another():
    """JobDone and Goodbye have the same fields; only the names differ."""
    payload = encode(Goodbye("x"))
    as_job_done = decode_as(Signed, sealed(JobDone("x"))).signature
    with pytest.raises(DecodeError, match="signature"):
        unseal(Goodbye, encode(Signed(ALICE.peer_id, payload, as_job_done)))


def test_a_well_signed_payload_of_another_class_is_refused():
    """The signer signs a Goodbye in the domain of JobDone: the domain fits, the payload does not."""
    payload = encode(Goodbye("x"))
    signature = ALICE.sign(b"peerinfer/1/JobDone\0" + payload)
    with pytest.raises(DecodeError, match="expected JobDone, got Goodbye"):
        unseal(JobDone, encode(Signed(ALICE.peer_id, payload, signature)))


def test_unsealing_as_any_other_class_is_refused():
    data = sealed(RECEIPT)
    for cls in registered().values():
        if cls is not Receipt:
            with pytest.raises(DecodeError):
                unseal(cls, data)


def test_a_change_at_any_byte_is_noticed():
    data = sealed(Refused(5, "busy", False))
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[at] ^= flip
            with pytest.raises(DecodeError):
                unseal(Refused, bytes(changed))


def test_a_statement_cut_anywhere_is_noticed():
    data = sealed(Window(2, ""))
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            unseal(Window, data[:length])


def test_bytes_that_are_signed_but_no_message_are_refused():
    payload = b"\xc1garbage"
    signature = ALICE.sign(b"peerinfer/1/Receipt\0" + payload)
    with pytest.raises(DecodeError):
        unseal(Receipt, encode(Signed(ALICE.peer_id, payload, signature)))


def test_a_newer_peers_statement_is_read_with_the_fields_that_are_known_here():
    """The signature covers the bytes as they were sent, so what is not understood does not break it."""
    payload = encode(Window(3, "x"))
    newer = b"\x94" + payload[1:] + b"\xa4more"
    signature = ALICE.sign(b"peerinfer/1/Window\0" + newer)
    assert unseal(Window, encode(Signed(ALICE.peer_id, newer, signature))) == (ALICE.peer_id, Window(3, "x"))
