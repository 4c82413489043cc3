"""The contract between a decision and the world.

A *machine* is told what happened and what time it is, and answers with what should be done. It does none of it: it owns
no clock, no dice, no socket and no task. One driver waits for an event or for the machine's deadline, calls `handle`,
and performs the effects in the order given; where an effect must be durable before another is sent, it stands first.

(The shape follows h11's and iroh-gossip's state machines and etcd raft's `Ready`.)
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

NEVER = math.inf
"""The deadline of a machine that waits for events only."""

E_contra = TypeVar("E_contra", contravariant=True)
F = TypeVar("F")


class Tick:
    """The machine's deadline has come."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Tick()"


class Machine(Protocol[E_contra, F]):
    """A pure decision-maker. `E_contra` is the union of its events (`Tick` apart), `F` of its effects."""

    @property
    def deadline_s(self) -> float:
        """When it wants a `Tick`, on the clock of `now_s`; `NEVER` if it does not."""

    def handle(self, event: E_contra | Tick, now_s: float) -> list[F]:
        """The only door: takes one event, returns the effects in the order in which they must happen."""

    def snapshot(self) -> object:
        """A frozen picture for people."""

    def check(self) -> None:
        """Asserts the invariants; the message carries the history of what failed."""
