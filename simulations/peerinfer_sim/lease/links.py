"""What the network does to a message: nothing, or it loses it, doubles it, or takes its time."""

from __future__ import annotations

import random

from peerinfer_sim.lease.scenario import Fault

KINDS = ("cut", "cut one way", "isolate", "slow", "loss", "doubling", "delay")
"""Faults of the network."""


class Links:
    """Every pair of nodes, both ways."""

    def __init__(self, latency_s: float, dice: random.Random) -> None:
        self._latency_s = latency_s
        self._dice = dice
        self._faults: list[tuple[float, int, Fault]] = []

    def add(self, fault: Fault, until_s: float, node: int) -> None:
        """`node`: whom the fault hits, where it hits one."""
        self._faults.append((until_s, node, fault))

    def heal(self) -> None:
        self._faults.clear()

    def delays_s(self, sender: int, receiver: int, now_s: float) -> list[float]:
        """How long each copy of a message takes; none if it is lost."""
        longer_s, copies = 0.0, 1
        for until_s, node, fault in self._faults:
            if now_s >= until_s:
                continue
            match fault.kind:
                case "isolate" if (node == sender and fault.amount != 2) or (node == receiver and fault.amount != 1):
                    return []
                case "cut" if {fault.groups[sender], fault.groups[receiver]} == {0, 1}:
                    return []
                case "cut one way" if (fault.groups[sender], fault.groups[receiver]) == (0, 1):
                    return []
                case "loss" if self._dice.random() < fault.amount:
                    return []
                case "doubling" if self._dice.random() < fault.amount:
                    copies = 2
                case "delay":
                    longer_s += fault.amount * self._dice.random() ** 2
                case "slow" if node == receiver:
                    longer_s += fault.amount
        return [self._latency_s * (0.5 + self._dice.random()) + longer_s for _ in range(copies)]
