"""What this node says of the peers that worked for it, and what it hears of others' peers. What counts is `vouching`'s."""

from __future__ import annotations

import trio

from peerinfer.envelope import seal, unseal
from peerinfer.evidence_messages import Attestation, Attested
from peerinfer.vouching import Vouching
from peerinfer_node.log import Log
from peerinfer_node.ports import Keys, LocalClock
from peerinfer_node.roles.statements import StatementsRole

KIND = "attestation"
LOOK_EVERY_S = 60.0
CHANGED_EVERY_S = 600.0
"""What has changed is said anew so often at most."""

RENEWED_EVERY_S = 6 * 3600.0
"""And what has not, so often: an attestation counts for a day."""


class AttestingRole:
    """Takes and passes on attestations, and makes this node's own."""

    def __init__(
        self, *, vouching: Vouching, statements: StatementsRole, keys: Keys, clock: LocalClock, log: Log
    ) -> None:
        self._vouching = vouching
        self._statements = statements
        self._keys = keys
        self._clock = clock
        self._log = log
        self._said: tuple[Attested, ...] = ()
        self._said_s = 0.0
        statements.accept(KIND, self._take)

    def _take(self, signed: bytes) -> float:
        """Raises `DecodeError` for what no honest node passes on."""
        author, attestation = unseal(Attestation, signed)
        return self._vouching.hear(author, attestation, signed, self._clock.wall_s())

    async def run(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self.say()

    def say(self) -> bool:
        """Tells the swarm whose work stood up to its checks here, if there is something new to say."""
        wall_s = self._clock.wall_s()
        attestation = self._vouching.attestation(wall_s)
        if attestation is None:
            return False
        apart_s = RENEWED_EVERY_S if attestation.peers == self._said else CHANGED_EVERY_S
        if self._said and wall_s < self._said_s + apart_s:
            return False
        signed = seal(attestation, self._keys.peer_id, self._keys.sign)
        if not self._statements.spread(KIND, signed, attestation.until_s):
            return False
        self._said, self._said_s = attestation.peers, wall_s
        self._log.info("attested", peers=len(attestation.peers))
        return True
