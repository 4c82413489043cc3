"""The node's identity: one Ed25519 key. The peer id follows from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from peerinfer.errors import StateUnusable
from peerinfer.ids import PeerId, peer_id_of

_FILE_BYTES_MAX = 4096
"""A PEM file with an Ed25519 key has 119 bytes; anything much larger is something else."""


class Ed25519Keys:
    """Signs with one Ed25519 key."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._peer_id = peer_id_of(private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._private_key.sign(data)

    def private_bytes_for_transport(self) -> bytes:
        """The raw private key (32 bytes). For the libp2p adapter's handshake alone: whoever holds it is this node."""
        return self._private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


class MemoryKeys(Ed25519Keys):
    """An identity that follows from `seed` and is never stored: for simulations and embedded nodes without a home."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest()))


class FileKeys(Ed25519Keys):
    """The identity in a file that only its owner may read."""

    @classmethod
    def load_or_create(cls, path: Path) -> FileKeys:
        """The key in `path` (PEM, PKCS #8), made on first use with mode 0600.

        Raises `StateUnusable` if the file cannot be read or written, belongs to another user, can be read by others
        or holds anything but an Ed25519 key.
        """
        try:
            if not path.exists():
                _create(path)
            return cls(_load(path))
        except IsADirectoryError:
            raise StateUnusable(f"{path} is not a file; move it aside") from None
        except OSError as error:
            raise StateUnusable(
                f"cannot use {path}: {error.strerror or error}; mend that, or choose another home with PEERINFER_HOME"
            ) from error


def _create(path: Path) -> None:
    """Puts a whole, durable key in place, or leaves the one that another process put there first."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces an identity that appeared in between.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _load(path: Path) -> Ed25519PrivateKey:
    # O_NONBLOCK: a fifo in the file's place must not hang the start.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise StateUnusable(f"{path} is not a file; move it aside")
        if status.st_uid != os.geteuid():
            raise StateUnusable(f"{path.name} belongs to another user; run as that user, or use a home of your own")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StateUnusable(f"{path.name} can be read by others; run chmod 600 {path}")
        pem = file.read(_FILE_BYTES_MAX)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise StateUnusable(f"{path} holds no Ed25519 private key; restore it, or move it aside for a new identity")
    return key
