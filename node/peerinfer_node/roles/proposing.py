"""Whom this node proposes as electors: daemons that live, can be dialled, say that they elect and were not caught lying."""

from __future__ import annotations

import math
from collections.abc import Collection

from peerinfer.committee import Eligible, propose, rank_score, subnets_of
from peerinfer.control import JobRequest
from peerinfer.coordination import Coordination
from peerinfer.errors import NoSuitablePeer, TooFewElectors
from peerinfer.ids import JobId, PeerId
from peerinfer.lease_profile import LAN, Distance, LeaseProfile, choose_profile
from peerinfer.membership_events import Member
from peerinfer_node.ports import LocalClock, Network
from peerinfer_node.roles.members import MembersRole


class Proposing:
    """`elects` says whether this node is an elector itself."""

    def __init__(
        self,
        *,
        own: PeerId,
        elects: bool,
        members: MembersRole,
        coordination: Coordination,
        network: Network,
        clock: LocalClock,
    ) -> None:
        self._own = own
        self.elects = elects
        self._members = members
        self._coordination = coordination
        self._network = network
        self._clock = clock

    def electing(self) -> list[Member]:
        return [
            member
            for member in self._members.machine.members()
            if member.state == "alive"
            and member.path == "direct"
            and member.advert is not None
            and member.advert.elects
            and not self._coordination.is_barred(member.peer)
        ]

    def elector(self, job: JobId, committee: tuple[PeerId, ...]) -> PeerId | None:
        """Who should elect for the job beside these."""
        free = [member.peer for member in self.electing() if member.peer not in committee]
        if self.elects and self._own not in committee:
            free.append(self._own)
        return max(free, key=lambda peer: rank_score(job.encode(), peer), default=None)

    def committee(
        self, seed: bytes, request: JobRequest, without: Collection[str] = ()
    ) -> tuple[tuple[PeerId, ...], LeaseProfile]:
        """Who should elect the coordinator of a job that this node submits, and for how long at once; none of `without`.

        This node alone where it must do.
        """
        wanted = request.detach or self.elects
        if not wanted or request.local_only:
            return (self._own,), LAN
        wall_s = self._clock.wall_s()
        electing = [member for member in self.electing() if member.peer not in without]
        eligible = [
            Eligible(member.peer, wall_s - member.advert.incarnation / 1000, subnets_of(member.addresses))
            for member in electing
            if member.advert is not None
        ]
        if self.elects:
            eligible.append(Eligible(self._own, math.inf, subnets_of(self._network.addresses())))
        committee = propose(seed, self._own, eligible)
        if request.detach and len(committee) == 1 and self._members.clock_words:
            raise NoSuitablePeer(
                f"--detach needs three daemons that can take the job over; {self._members.clock_words}"
            )
        if committee == (self._own,) and not self.elects:
            raise TooFewElectors(
                f"--detach needs three daemons that can take the job over, {len(eligible)} can be reached; "
                "start a daemon here with `peerinfer join` and submit to it"
            )
        distances = [
            Distance(member.rtt_s, bool(subnets_of(member.addresses)))
            for member in electing
            if member.peer in committee
        ]
        return committee, choose_profile(distances)
