"""Noise for a private swarm: the handshake `XXpsk0`, whose first message already needs the swarm's key.

Part of the libp2p adapter (see `libp2p_network`). libp2p has pnet for this, a stream cipher under everything else. It
is not used: py-libp2p's has an 8-byte nonce and another cipher than the specification, so that it talks to nobody else
either; it costs a second pass over every byte; and where keys differ, both sides hang until a timeout. The Noise
protocol's own way (section 9 of its specification) mixes the key into the handshake's keys: who does not have it cannot
write a first message that decrypts, and is refused for the price of two hashes, before any signature, without having
learned who is there. After the handshake nothing costs more than without a key.

The protocol has a name of its own, so that a node of the open swarm is refused with a word instead of a broken handshake.
"""

from __future__ import annotations

from typing import Any

from libp2p.crypto.keys import KeyPair, PrivateKey
from libp2p.custom_types import TProtocol
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.patterns import PatternXX

from peerinfer_node.network.libp2p_session import NoiseOverSocket, NoiseSession

KEYED_NOISE_PROTOCOL = TProtocol("/peerinfer/noise-psk/1")

WRONG_KEY = "it is not in this node's private swarm: the swarm keys differ; check the invite"
"""A peer that breaks off the handshake can hardly say why. Where nothing else is known, this is the reason."""


class _KeyedXX(PatternXX):  # type: ignore[misc]
    def __init__(self, *parts: Any, swarm_key: bytes) -> None:
        super().__init__(*parts)
        self.protocol_name = b"Noise_XXpsk0_25519_ChaChaPoly_SHA256"
        self._swarm_key = swarm_key

    def create_noise_state(self, prologue: bytes | None = None) -> Any:
        state = super().create_noise_state(prologue)
        state.set_psks(psk=self._swarm_key)
        return state


class KeyedNoiseOverSocket(NoiseOverSocket):
    """The handshake of a private swarm; a peer without its key does not get past the first message."""

    def __init__(self, key_pair: KeyPair, noise_key: PrivateKey, swarm_key: bytes) -> None:
        super().__init__(key_pair, noise_privkey=noise_key)
        self._swarm_key = swarm_key

    def get_pattern(self) -> _KeyedXX:
        return _KeyedXX(self.local_peer, self.libp2p_privkey, self.noise_privkey, swarm_key=self._swarm_key)

    async def secure_inbound(self, conn: RawConnection) -> NoiseSession:
        try:
            return await super().secure_inbound(conn)
        except Exception as error:
            raise HandshakeFailure("it does not hold this swarm's key") from error

    async def secure_outbound(self, conn: RawConnection, peer_id: Any) -> NoiseSession:
        try:
            return await super().secure_outbound(conn, peer_id)
        except PeerIDMismatchesPubkey:
            raise
        except Exception as error:
            raise HandshakeFailure(WRONG_KEY) from error
