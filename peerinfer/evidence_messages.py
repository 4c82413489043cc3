"""What nodes tell the whole swarm of each other, as statements that spread: tags 45–49.

The kinds of `Statement.kind`: `attestation`, a `Signed` `Attestation`; `fault`, a `Signed` `FaultProof`.
"""

from __future__ import annotations

from peerinfer.codec import blob, listed, message, number, part, record, uint, wire
from peerinfer.limits import ATTESTED_MAX


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
