"""New names from networks in which somebody was caught: so many in a day.

Names cost nothing, so newcomers pay in work (Friedman and Resnick, 2001): theirs is doubled or checked until it has stood
up to `NEWCOMER_AUDITS` checks. Whoever was caught could go on under a new name at once, and with each of them cost others
those checks. So its network is remembered, and lets in few new names for a while. Where nobody was caught everybody may
come: a class shares one network.

Names that this node knows are not new. Networks are public ones alone: whoever hides behind a relay has none, and pays in
work like all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from peerinfer.ids import PeerId
from peerinfer.reputation import DAY_S

NEW_NAMES_PER_DAY_MAX = 2
"""From one /24 or /48 in which somebody was caught."""

REMEMBERED_S = 60 * DAY_S
"""Since the last time that somebody was caught there."""

SUBNETS_MAX = 4096
"""The one in which somebody was caught longest ago goes first."""

KEPT_OUT = f"is one of more than {NEW_NAMES_PER_DAY_MAX} new names today from a network in which a peer was caught"


Newcomer = tuple[str, PeerId, float]
"""The network, the name, and when it was let in."""


@dataclass(slots=True)
class _Network:
    caught_s: float
    """When somebody was caught there last."""
    names: dict[PeerId, float] = field(default_factory=dict)
    """Those that came since, and when; of the last day."""


class Whitewashing:
    """Which names may come in."""

    def __init__(self) -> None:
        self._networks: dict[str, _Network] = {}

    def caught(self, subnets: Sequence[str], now_s: float) -> None:
        for subnet in subnets:
            network = self._networks.pop(subnet, None) or _Network(now_s)
            self._networks[subnet] = network
            network.caught_s = now_s
            if len(self._networks) > SUBNETS_MAX:
                del self._networks[next(iter(self._networks))]

    def admits(self, name: PeerId, subnets: Sequence[str], now_s: float) -> bool:
        """Whether a name that is new to this node may come in. Counts it if so."""
        networks = [self._networks[subnet] for subnet in subnets if subnet in self._networks]
        networks = [network for network in networks if now_s < network.caught_s + REMEMBERED_S]
        for network in networks:
            network.names = {other: at_s for other, at_s in network.names.items() if now_s < at_s + DAY_S}
            if name not in network.names and len(network.names) >= NEW_NAMES_PER_DAY_MAX:
                return False
        for network in networks:
            network.names.setdefault(name, now_s)
        return True

    def newcomers(self, now_s: float) -> list[Newcomer]:
        """Who was let in during the last day: to be remembered over a restart, which lets in nobody."""
        return [
            (subnet, name, at_s)
            for subnet, network in self._networks.items()
            for name, at_s in network.names.items()
            if now_s < at_s + DAY_S
        ]

    def restore(self, newcomers: Iterable[Newcomer], now_s: float) -> None:
        """After the networks of those that were caught; of others nobody is remembered."""
        for subnet, name, at_s in newcomers:
            network = self._networks.get(subnet)
            if network is not None and len(network.names) < NEW_NAMES_PER_DAY_MAX and now_s < at_s + DAY_S:
                network.names.setdefault(name, min(at_s, now_s))

    def check(self) -> None:
        assert len(self._networks) <= SUBNETS_MAX
        assert all(len(network.names) <= NEW_NAMES_PER_DAY_MAX for network in self._networks.values())
