import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from peerinfer.errors import StateUnusable
from peerinfer.ids import public_key_of
from peerinfer_node import keys as keys_module
from peerinfer_node.keys import FileKeys, MemoryKeys


def test_a_key_is_created_once_and_read_back(tmp_path):
    path = tmp_path / "home" / "identity.key"
    first = FileKeys.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert FileKeys.load_or_create(path).peer_id == first.peer_id
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"], "no draft is left behind"


def test_two_homes_have_two_identities(tmp_path):
    assert FileKeys.load_or_create(tmp_path / "a").peer_id != FileKeys.load_or_create(tmp_path / "b").peer_id


def test_the_peer_id_is_the_one_that_libp2p_derives_from_the_same_key(tmp_path):
    for keys in (FileKeys.load_or_create(tmp_path / "identity.key"), MemoryKeys(b"seed")):
        pair = create_new_key_pair(keys.private_bytes_for_transport())
        assert keys.peer_id == str(ID.from_pubkey(pair.public_key))
        assert public_key_of(keys.peer_id) == pair.public_key.to_bytes()


def test_a_signature_stands_under_the_key_in_the_peer_id():
    keys = MemoryKeys(b"seed")
    Ed25519PublicKey.from_public_bytes(public_key_of(keys.peer_id)).verify(keys.sign(b"data"), b"data")


def test_memory_keys_follow_from_their_seed():
    assert MemoryKeys(b"one").peer_id == MemoryKeys(b"one").peer_id != MemoryKeys(b"two").peer_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601])
def test_a_key_that_others_can_touch_is_refused_with_the_command_that_mends_it(tmp_path, mode):
    path = tmp_path / "identity.key"
    FileKeys.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(StateUnusable) as caught:
        FileKeys.load_or_create(path)
    assert str(caught.value) == f"identity.key can be read by others; run chmod 600 {path}"


def rsa_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"\0" * 32, b"not a key", b"x" * 100_000, rsa_pem()])
def test_a_file_that_holds_no_ed25519_key_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StateUnusable, match="no Ed25519 private key"):
        FileKeys.load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_of_another_user_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "identity.key"
    FileKeys.load_or_create(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(StateUnusable, match="belongs to another user"):
        FileKeys.load_or_create(path)


def test_a_directory_or_a_fifo_in_its_place_is_refused_without_hanging(tmp_path):
    (tmp_path / "directory").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("directory", "fifo"):
        with pytest.raises(StateUnusable):
            FileKeys.load_or_create(tmp_path / name)


def test_a_home_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "home").write_text("a file where the directory should be")
    with pytest.raises(StateUnusable) as caught:
        FileKeys.load_or_create(tmp_path / "home" / "identity.key")
    assert "\n" not in str(caught.value)


def test_of_two_that_create_at_once_the_first_wins(tmp_path, monkeypatch):
    path = tmp_path / "identity.key"
    real_fsync = os.fsync
    winner = []

    def fsync_while_another_process_creates(descriptor):
        if not winner:
            winner.append(None)
            winner[0] = FileKeys.load_or_create(path).peer_id
        real_fsync(descriptor)

    monkeypatch.setattr(keys_module.os, "fsync", fsync_while_another_process_creates)
    assert FileKeys.load_or_create(path).peer_id == winner[0]
