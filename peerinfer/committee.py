"""Who elects a job's coordinator: proposed by rendezvous hashing, fixed by the signed manifest.

Views of an open network differ from node to node, so a committee that everyone computed from its own view could elect
two coordinators. Here the view only proposes; the manifest, signed by the submitter, decides.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.errors import ProtocolError
from peerinfer.ids import PeerId, public_key_of
from peerinfer.limits import COMMITTEE_MAX

ELIGIBLE_AFTER_S = 2.0
"""A peer must have been here this long: one that flaps makes a poor elector."""


@dataclass(frozen=True, slots=True)
class Eligible:
    """A peer that may sit in a committee."""

    peer: PeerId
    up_s: float
    subnets: tuple[str, ...]
    """Public networks that it is reachable in; private addresses do not count."""


def quorum(electors: int, byzantine: int) -> int:
    """How many electors must agree: any two quorums share more than `byzantine` of them (Malkhi and Reiter 1998)."""
    return -(-(electors + byzantine + 1) // 2)


def committee_size(eligible: int) -> int:
    """1 where fewer than three peers are eligible, else 3, 5 or 7."""
    if eligible < 3:
        return 1
    if eligible < 8:
        return 3
    return 5 if eligible < 30 else 7


def propose(seed: bytes, own: PeerId, eligible: Sequence[Eligible]) -> tuple[PeerId, ...]:
    """A committee for the job whose random seed is `seed`, in rank order; `own` alone where there are too few peers.

    Highest random weight first, at most one from each public subnet while that leaves enough.
    """
    seen = {candidate.peer: candidate for candidate in eligible if candidate.up_s >= ELIGIBLE_AFTER_S}
    ready = list(seen.values())
    size = committee_size(len(ready))
    if size == 1:
        return (own,)
    ranked = sorted(ready, key=lambda candidate: rank_score(seed, candidate.peer), reverse=True)
    chosen: list[Eligible] = []
    used: set[str] = set()
    for candidate in ranked:
        if len(chosen) < size and not used.intersection(candidate.subnets):
            chosen.append(candidate)
            used.update(candidate.subnets)
    if len(chosen) < size:
        chosen += [candidate for candidate in ranked if candidate not in chosen][: size - len(chosen)]
    return tuple(candidate.peer for candidate in chosen)


def rank_score(seed: bytes, peer: PeerId) -> bytes:
    return hashlib.blake2b(seed + b"\0" + peer.encode(), digest_size=16).digest()


def subnets_of(addresses: Sequence[str]) -> tuple[str, ...]:
    """The public /24 (IPv4) and /48 (IPv6) networks among multiaddrs."""
    found = []
    for address in addresses:
        parts = address.split("/")
        if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
            continue
        try:
            ip = ipaddress.ip_address(parts[2])
        except ValueError:
            continue
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if ip.is_global:
            prefix = 24 if ip.version == 4 else 48
            found.append(str(ipaddress.ip_network(f"{ip}/{prefix}", strict=False)))
    return tuple(dict.fromkeys(found))


def check_committee(committee: Sequence[str], byzantine: int) -> None:
    """Raises `ProtocolError` unless this is a committee: distinct peer ids, of a size that tolerates `byzantine`."""
    if not 1 <= len(committee) <= COMMITTEE_MAX:
        raise ProtocolError(f"a committee of {len(committee)} electors; 1 to {COMMITTEE_MAX} are allowed")
    if len(set(committee)) != len(committee):
        raise ProtocolError("a committee names an elector twice")
    for elector in committee:
        try:
            public_key_of(PeerId(elector))
        except ValueError as error:
            raise ProtocolError(f"a committee names {elector[:60]!r}: {error}") from None
    if quorum(len(committee), byzantine) + byzantine > len(committee):
        raise ProtocolError(f"{len(committee)} electors cannot tolerate {byzantine} liars and go on without them")
