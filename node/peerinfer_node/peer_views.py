"""Peers as people see them: who is there, who may run a model and why, and what is believed of whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peerinfer.blobs import index_of
from peerinfer.breaker import FAILURES_MAX
from peerinfer.contribution import CONFIRMATIONS_MAX
from peerinfer.control import Json
from peerinfer.errors import InputError, LimitExceeded, UsageError
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import CHUNK_BYTES
from peerinfer.membership_events import Member
from peerinfer.reputation_words import own_words, words_of
from peerinfer.units import format_count, format_duration, format_size
from peerinfer.vouching import VOUCHERS_SHOWN_MAX
from peerinfer.whitewashing import KEPT_OUT
from peerinfer_node.roles.recruiting import offer_of

if TYPE_CHECKING:
    from peerinfer_node.node import Node

PEER_CHARS_MIN = 4


class PeerViews:
    """Every answer is made of the node's own pictures; nothing is kept here."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def all(self) -> list[Json]:
        return [self._picture(member) for member in self._node.members.machine.members()]

    async def why(self, model: str) -> list[Json]:
        """Of each peer whether it may run this model file, and what speaks for or against it."""
        cid, size = await self._node.ports.in_thread(lambda: _named(model))
        answers = []
        for member in self._node.members.machine.members():
            picture, offer = self._picture(member), offer_of(member)
            reason = picture["why_not"]
            if not reason and offer is not None and 0 < offer.memory_bytes < size:
                reason = f"has {format_size(offer.memory_bytes)} of device memory, less than the model alone takes"
            said = self._against(member.peer, reason) if reason else self._for(member, cid, size)
            answers.append({**picture, "eligible": not reason, "why": said})
        return answers

    def why_not(self, member: Member) -> str:
        """Which requirement rules a peer out, whatever the model; the same words for all whom it rules out."""
        advert = member.advert
        if member.peer in self._node.coordinator.machine.caught:
            return CAUGHT
        if self._node.coordinator.machine.is_kept_out(member.peer):
            return KEPT_OUT
        if member.state != "alive":
            return f"is {member.state}: there is no connection to it"
        if advert is None:
            return "has not said yet what it offers"
        if not advert.devices:
            return "lends no device"
        if advert.state != "running":
            reasons = "; ".join(advert.reasons)
            return reasons if reasons.startswith(advert.state) else f"is {advert.state}{reasons and ': '}{reasons}"
        return ""

    def _breaker(self, peer: PeerId) -> tuple[str, float]:
        return self._node.coordinator.machine.breaker(peer, self._node.ports.clock.now_s())

    def _resting(self, peer: PeerId) -> str:
        """Why it gets nothing for a while, where its breaker is open."""
        state, rest_s = self._breaker(peer)
        if state != "open":
            return ""
        return f"failed {FAILURES_MAX} frames in a row or more, and gets nothing for {format_duration(rest_s)}"

    def _against(self, peer: PeerId, reason: str) -> str:
        if reason != CAUGHT:
            return reason
        machine, wall_s = self._node.coordinator.machine, self._node.ports.clock.wall_s()
        row, standing = machine.reputation.evidence(peer, wall_s), machine.reputation.standing(peer, wall_s)
        return words_of(row, standing, wall_s)[0] if standing.is_barred else machine.caught[peer]

    def _for(self, member: Member, model: Cid, size: int) -> str:
        """What speaks for a peer that can run a model, and what is not known of it."""
        machine, wall_s, peer = self._node.coordinator.machine, self._node.ports.clock.wall_s(), member.peer
        row, standing = machine.reputation.evidence(peer, wall_s), machine.reputation.standing(peer, wall_s)
        said = words_of(row, standing, wall_s, machine.vouching.opinion(peer, wall_s))
        estimates = machine.estimates
        if estimates.known(peer, model):
            pace = 1 / max(estimates.seconds_per_item(peer, model, 1.0), 1e-9)
            here = f"does {format_count(round(pace)) if pace >= 10 else f'{pace:.2g}'} items of it each second"
        elif member.advert is not None and model in member.advert.models:
            here = "has this model"
        else:
            here = f"would fetch this model first, {format_size(size)}"
        return "; ".join([here, *said])

    def _picture(self, member: Member) -> Json:
        node, advert = self._node, member.advert
        return {
            "peer_id": member.peer,
            "name": advert.name if advert else "",
            "state": member.state,
            "lends": advert.state if advert else "unknown",
            "path": member.path,
            "rtt_ms": None if member.rtt_s is None else round(member.rtt_s * 1000, 2),
            "addresses": list(member.addresses),
            "devices": [
                {
                    "name": device.name,
                    "kind": device.kind,
                    "provider": device.provider,
                    "vram_bytes": device.memory_bytes,
                    "gemm_gflops": device.gemm_gflops,
                }
                for device in (advert.devices if advert else ())
            ],
            "reputation": self._standing(member.peer),
            "why_not": self.why_not(member) or self._resting(member.peer),
            "breaker": self._breaker(member.peer)[0],
            "queue": node.coordinator.machine.in_flight(member.peer),
            "last_seen_s": round(node.ports.clock.now_s() - member.heard_s, 1),
            "agent": advert.agent if advert else "",
            "sandbox": advert.sandbox if advert else "unknown",
        }

    def _standing(self, peer: PeerId) -> Json:
        reputation, wall_s = self._node.coordinator.machine.reputation, self._node.ports.clock.wall_s()
        standing = reputation.standing(peer, wall_s)
        return {
            "integrity": round(standing.integrity, 4),
            "reliability": round(standing.reliability, 4),
            "evidence": round(reputation.evidence(peer, wall_s).seen, 2),
        }

    def reputation(self, peer: str | None = None) -> list[Json]:
        node, machine = self._node, self._node.coordinator.machine
        known, wall_s = machine.reputation, node.ports.clock.wall_s()
        if peer == node.peer_id:
            return [self._own_standing()]
        members = {member.peer: member.advert.name for member in node.members.machine.members() if member.advert}
        peers = list(dict.fromkeys([*(name for name, _ in reversed(known.rows())), *members]))
        if peer is not None:
            wanted = [name for name in peers if name == peer or (len(peer) >= PEER_CHARS_MIN and name.endswith(peer))]
            if len(wanted) != 1:
                how_many = f"{len(wanted)} peers end with" if wanted else "nothing is known of"
                raise UsageError(f"{how_many} {peer[:64]!r}; `peerinfer reputation` lists all that this node has seen")
            peers = wanted
        found = []
        for name in peers:
            row, standing = known.evidence(name, wall_s), known.standing(name, wall_s)
            opinion = machine.vouching.opinion(name, wall_s)
            found.append(
                {
                    "peer_id": name,
                    "name": members.get(name, ""),
                    **self._standing(name),
                    "checks_passed": round(standing.audits, 2),
                    "faults": standing.faults,
                    "barred": standing.is_barred,
                    "expected_error": float(f"{standing.epsilon:.3g}"),
                    "flops": round(row.units),
                    "energy_j": round(row.energy_j, 3),
                    "trust": float(f"{opinion.trust:.3g}"),
                    "vouched_checks": float(f"{opinion.audits:.3g}"),
                    "probation": opinion.probation,
                    "vouchers": [
                        {
                            "peer_id": voucher.peer,
                            "name": members.get(voucher.peer, ""),
                            "trust": float(f"{voucher.trust:.3g}"),
                            "checks": voucher.audits,
                            "counted": float(f"{voucher.counted:.3g}"),
                            "flops": round(voucher.units),
                        }
                        for voucher in opinion.vouchers[:VOUCHERS_SHOWN_MAX]
                    ],
                    "words": words_of(row, standing, wall_s, opinion),
                }
            )
        return found

    def _own_standing(self) -> Json:
        """What this node gave, and who confirms it: nobody believes a node itself."""
        node = self._node
        confirmed = node.coordinator.machine.vouching.confirmations(node.ports.clock.wall_s())
        return {
            "peer_id": node.peer_id,
            "name": node.settings.name,
            "contribution": self.contribution(),
            "confirmations": [signed.hex() for _, _, signed in confirmed[:CONFIRMATIONS_MAX]],
            "words": own_words(self.contribution()),
        }

    def contribution(self) -> Json:
        node = self._node
        confirmed = node.coordinator.machine.vouching.confirmations(node.ports.clock.wall_s())
        return {
            **node.contribution.total.shown(),
            "confirmed_flops": round(sum(units for _, units, _ in confirmed)),
            "confirmed_by": len(confirmed),
        }


CAUGHT = "gave a wrong result before"


def _named(path: str) -> tuple[Cid, int]:
    """The name and the size of the model in a file. Raises `InputError`."""
    try:
        if not Path(path).is_file():
            raise InputError(f"there is no model file {path}; check the path")
        with open(path, "rb") as file:
            index = index_of(iter(lambda: file.read(CHUNK_BYTES), b""))
    except LimitExceeded as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read the model {path}: {error.strerror}") from None
    return index.cid, index.size
