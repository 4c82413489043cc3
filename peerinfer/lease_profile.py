"""The times of a lease: how long, how often renewed, and how far clocks are trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DRIFT = 0.01
"""Clocks may run this much faster or slower than time; quartz is a hundred times better."""

LEASE_S_MIN = 0.1
LEASE_S_MAX = 60.0
"""A longer lease would keep a job from being taken over for as long."""

RESTARTS_WITHIN_S = 60.0
"""A machine that is started again within this time is an elector as before."""


@dataclass(frozen=True, slots=True)
class LeaseProfile:
    """Times of a lease, in seconds. The holder's share must leave room for several renewals."""

    lease_s: float
    renew_s: float
    answer_s: float
    """An elector that has not answered after this time is not waited for."""
    margin_s: float
    slot_s: float
    """Candidates follow each other at this distance, by rank."""

    def __post_init__(self) -> None:
        if self.renew_s * 3 > self.held_s:
            raise ValueError(
                f"a lease held for {self.held_s:g} s leaves no three renewals, one each {self.renew_s:g} s"
            )

    @property
    def held_s(self) -> float:
        """How long the holder counts on it, from sending: `L·(1−ρ)/(1+ρ) − margin`."""
        return self.lease_s * (1 - DRIFT) / (1 + DRIFT) - self.margin_s

    @property
    def gone_s(self) -> float:
        """An elector that the holder has not heard for so long is replaced: three renewals, and time to start again."""
        return 3 * self.renew_s + RESTARTS_WITHIN_S


LAN = LeaseProfile(lease_s=3.0, renew_s=0.75, answer_s=0.7, margin_s=0.1, slot_s=0.15)
WAN = LeaseProfile(lease_s=12.0, renew_s=3.0, answer_s=2.0, margin_s=0.5, slot_s=0.7)

LAN_RTT_S_MAX = 0.15
"""Electors that are all answered within this time take the short lease: a campaign is three round trips, and candidates
follow each other at `LAN.slot_s`."""

STATED = {LAN.lease_s: LAN, WAN.lease_s: WAN}
"""By the length that a manifest states. All candidates of a job go by it, whatever they measure themselves."""

SOLO = LeaseProfile(lease_s=30.0, renew_s=7.0, answer_s=10.0, margin_s=0.5, slot_s=0.05)
"""For a committee of the coordinator alone: nobody could take over, so a slow disk must not cost it the lease."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far an elector is from the submitter."""

    rtt_s: float | None
    """None where it was not measured yet."""
    is_public: bool
    """It is reachable at a public address."""


def choose_profile(electors: Sequence[Distance]) -> LeaseProfile:
    """For a job with these electors beside the submitter. One that was not measured counts as far if it is public."""
    far = (one.is_public if one.rtt_s is None else one.rtt_s > LAN_RTT_S_MAX for one in electors)
    return WAN if any(far) else LAN
