"""What must never happen, looked at from outside, after every step.

I1  no two nodes have the lease at the same time (true time, while clocks keep to the bounds);
I2  terms of those who come to coordinate grow, and none is used twice;
I3  what was committed stays as it is, and whoever comes to coordinate has all of it;
I5  nothing new is committed under a term that is older than one that has committed already;
and a register is written once, an honest elector's disk never goes back, and nobody coordinates a job that is over.
"""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer.elector_events import SeatRow
from peerinfer.journal import NO_TERM, Chain, entries_of
from peerinfer.messages import Term
from peerinfer_sim.watch import Violation


class Checks:
    """Believes no machine. `clocks_are_sound`: whether I1 and I2 may be expected to hold."""

    def __init__(self, clocks_are_sound: bool) -> None:
        self._clocks_are_sound = clocks_are_sound
        self._final: list[bytes] = []
        """Hash of every committed batch."""
        self._digests: dict[int, bytes] = {}
        self._newest = NO_TERM
        """The highest term under which something was committed."""
        self._won: dict[Term, int] = {}
        self._committees: dict[int, tuple[str, ...]] = {}
        self.end = 0
        """How many batches there are when the job is over."""

    def leases(self, holders: Sequence[int]) -> None:
        if len(holders) > 1 and self._clocks_are_sound:
            raise Violation(f"I1: nodes {holders} have the lease at the same time", [])

    def won(self, node: int, term: Term, chain: Chain) -> None:
        if term in self._won:
            raise Violation(f"I2: node {node} coordinates in {term}, which node {self._won[term]} had already", [])
        if self._clocks_are_sound and self._won and term.order <= max(self._won, key=lambda won: won.order).order:
            raise Violation(f"I2: node {node} coordinates in {term}, below one before", [])
        self._won[term] = node
        self._holds_all(node, chain)
        if self.end:
            raise Violation(f"node {node} coordinates a job that is over", [])

    def committed(self, node: int, term: Term, chain: Chain, first: int, last: int) -> None:
        self._holds_all(node, chain, up_to=last)
        if last <= len(self._final):
            return
        if term.order < self._newest.order:
            raise Violation(f"I5: node {node} commits something new in {term}, after {self._newest}", [])
        self._newest = term
        for sequence in range(len(self._final), last):
            self._final.append(chain.link(sequence).hash)
            for entry in entries_of(chain.batch(sequence)):
                if entry.task in self._digests:
                    raise Violation(f"task {entry.task} is committed twice", [])
                self._digests[entry.task] = entry.digest

    def changed(self, node: int, epoch: int, committee: Sequence[str]) -> None:
        known = self._committees.setdefault(epoch, tuple(committee))
        if known != tuple(committee):
            raise Violation(f"node {node} follows to epoch {epoch} with a committee that another one has not", [])

    def over(self, node: int, chain: Chain, tasks: int) -> None:
        if not 0 < chain.end <= len(self._final):
            raise Violation(f"node {node} says that the job is over, and its end is not committed", [])
        if self.end not in (0, chain.end):
            raise Violation(f"node {node} says that the job ended with batch {chain.end - 1}, not {self.end - 1}", [])
        self.end = chain.end
        self._holds_all(node, chain)
        if chain.ended == "done" and len(self._digests) != tasks:
            raise Violation(f"the job is done with {len(self._digests)} of {tasks} tasks", [])

    def kept(self, node: int, before: SeatRow | None, after: SeatRow) -> None:
        """An honest elector's seat goes to disk."""
        if before is not None and after.promised.order < before.promised.order:
            raise Violation(f"node {node} takes a promise back: {before.promised}, then {after.promised}", [])

    def _holds_all(self, node: int, chain: Chain, up_to: int | None = None) -> None:
        known = len(self._final) if up_to is None else min(up_to, len(self._final))
        if len(chain) < known:
            raise Violation(f"I3: node {node} has {len(chain)} batches, and {known} were committed", [])
        # Hashes chain: the last one stands for all before it.
        if known and chain.link(known - 1).hash != self._final[known - 1]:
            raise Violation(f"I3: batch {known - 1} of node {node} is not the one that was committed", [])
