"""Our peer ids are libp2p's and our cids are IPFS's: each is compared with the package that others use."""

import hashlib

import cid as py_cid
import multihash
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from wire_strategies import SAME_EVERY_TIME

from peerinfer.ids import (
    base58_decode,
    base58_encode,
    cid_from_digest,
    cid_of,
    digest_of_cid,
    is_job_id,
    job_id_of,
    peer_id_of,
    public_key_of,
)

SEEDS = [bytes([number]) * 32 for number in range(8)]


def raw_public_key(seed):
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_id_is_the_one_that_libp2p_gives_the_same_key(seed):
    theirs = str(ID.from_pubkey(create_new_key_pair(seed).public_key))
    assert peer_id_of(raw_public_key(seed)) == theirs
    assert public_key_of(theirs) == raw_public_key(seed)


@SAME_EVERY_TIME
@given(st.binary(min_size=32, max_size=32))
def test_the_key_is_read_back_from_the_peer_id(key):
    assert public_key_of(peer_id_of(key)) == key
    assert ID.from_base58(peer_id_of(key)).to_bytes()[-32:] == key


@SAME_EVERY_TIME
@given(
    st.text(max_size=70) | st.text(alphabet="123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=70)
)
def test_any_other_text_is_no_peer_id(text):
    try:
        key = public_key_of(text)
    except ValueError:
        return
    assert peer_id_of(key) == text  # one key has one name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA key's hash
        "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY",  # secp256k1
        "1" * 46,
        "0" * 52,
        "12D3KooW" + "é" * 44,
    ],
)
def test_ids_of_other_kinds_are_refused(text):
    with pytest.raises(ValueError, match=r"Ed25519|base58"):
        public_key_of(text)


def test_one_more_leading_one_is_another_text_and_no_id():
    with pytest.raises(ValueError, match="not an Ed25519 peer id"):
        public_key_of("1" + peer_id_of(bytes(32)))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_has_32_bytes(size):
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        peer_id_of(bytes(size))


@SAME_EVERY_TIME
@given(st.binary(max_size=50))
def test_base58_goes_there_and_back(data):
    assert base58_decode(base58_encode(data)) == data


@pytest.mark.parametrize("block", [b"", b"block", bytes(100_000)])
def test_a_cid_is_the_one_that_ipfs_gives_the_same_block(block):
    theirs = py_cid.make_cid(1, "raw", multihash.digest(block, "sha2-256").encode())
    assert cid_of(block) == theirs.encode("base32").decode()
    assert digest_of_cid(cid_of(block)) == hashlib.sha256(block).digest()


@SAME_EVERY_TIME
@given(st.binary(min_size=32, max_size=32))
def test_the_digest_is_read_back_from_the_cid(digest):
    assert digest_of_cid(cid_from_digest(digest)) == digest


@SAME_EVERY_TIME
@given(st.integers(0, 58), st.characters())
def test_a_cid_with_one_character_changed_names_something_else_or_nothing(at, character):
    good = cid_of(b"block")
    changed = good[:at] + character + good[at + 1 :]
    if changed == good:
        return
    try:
        digest = digest_of_cid(changed)
    except ValueError:
        return
    assert digest != digest_of_cid(good)
    assert cid_from_digest(digest) == changed  # one digest has one name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        cid_of(b"").upper(),
        cid_of(b"")[:-1],
        cid_of(b"") + "a",
        "z" + cid_of(b"")[1:],
        "b" + "é" * 58,
        "b" + "=" * 58,
        py_cid.make_cid(1, "dag-pb", multihash.digest(b"", "sha2-256").encode()).encode("base32").decode(),
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    ],
)
def test_names_of_other_kinds_are_no_cids(text):
    with pytest.raises(ValueError, match=r"not"):
        digest_of_cid(text)


def test_a_job_id_is_32_small_hexadecimal_digits():
    job = job_id_of(b"manifest")
    assert is_job_id(job)
    assert job == hashlib.sha256(b"manifest").hexdigest()[:32]
    for text in ("", job.upper(), job[:-1], job + "0", job + "\n", "g" * 32, "٣" * 32):
        assert not is_job_id(text)
