"""What must never happen, looked at from outside, after every step.

I1  no two nodes have the lease at the same time (true time, while clocks keep to the bounds);
I2  terms of those who come to coordinate grow, and none is used twice;
I3  what was committed stays as it is, and whoever comes to coordinate has all of it;
I5  nothing new is committed under a term that is older than one that has committed already;
and a register is written once, an honest elector's disk never goes back, and nobody coordinates a job that is over.

All this holds within each generation of the job. Between them: terms of a later generation are above all of an older one,
so that whoever fences by terms fences by generations; and once so many electors of a committee have a later generation on
disk that no quorum is left, nothing that is written after that moment is committed in the older one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from peerinfer.committee import quorum
from peerinfer.elector_events import SeatRow
from peerinfer.ids import PeerId
from peerinfer.journal import Chain, entries_of
from peerinfer.journal_rules import NO_TERM
from peerinfer.limits import EPOCHS_MAX, GENERATION_ROUNDS
from peerinfer.messages import Term
from peerinfer_sim.watch import Violation


def generation_of(term: Term) -> int:
    return term.round // GENERATION_ROUNDS


class Checks:
    """Believes no machine. `clocks_are_sound`: whether I1 and I2 may be expected to hold."""

    def __init__(self, clocks_are_sound: bool, numbers_of: Mapping[PeerId, int]) -> None:
        self._clocks_are_sound = clocks_are_sound
        self._numbers_of = numbers_of
        self._generations: dict[int, _Generation] = {}
        self._committees: dict[int, tuple[str, ...]] = {}
        self._later_s: dict[int, list[tuple[int, float]]] = {}
        """Of each node's disk: from when on it has held which generation."""

    def _of(self, generation: int) -> _Generation:
        return self._generations.setdefault(generation, _Generation(self._clocks_are_sound))

    def end_of(self, generation: int) -> int:
        """How many batches the generation had when the job was over; 0 while it is not."""
        return self._of(generation).end

    def leases(self, holders: Sequence[tuple[Term, int]]) -> None:
        for generation in {generation_of(term): None for term, _ in holders}:
            self._of(generation).leases([node for term, node in holders if generation_of(term) == generation])

    def won(self, node: int, term: Term, chain: Chain) -> None:
        generation = generation_of(term)
        if chain.epoch_at(0) // EPOCHS_MAX != generation:
            raise Violation(f"node {node} coordinates in {term}, with the journal of another generation", [])
        self._of(generation).won(node, term, chain)

    def committed(self, node: int, term: Term, chain: Chain, first: int, last: int) -> None:
        fresh = self._of(generation_of(term)).committed(node, term, chain, first, last)
        for sequence in fresh:
            batch = chain.batch(sequence)
            fenced_s = self._fenced_s(batch.epoch)
            if batch.at_s > fenced_s:
                raise Violation(
                    f"batch {sequence} of epoch {batch.epoch} is written after its generation was fenced", []
                )

    def _fenced_s(self, epoch: int) -> float:
        """Since when no quorum of this committee can serve its generation."""
        committee = self._committees[epoch]
        left_s = sorted(
            min((at_s for other, at_s in self._later_s.get(number, ()) if other > epoch // EPOCHS_MAX), default=inf)
            for number in (self._numbers_of[PeerId(elector)] for elector in committee)
        )
        return left_s[len(committee) - quorum(len(committee), 0)]

    def changed(self, node: int, epoch: int, committee: Sequence[str]) -> None:
        known = self._committees.setdefault(epoch, tuple(committee))
        if known != tuple(committee):
            raise Violation(f"node {node} follows to epoch {epoch} with a committee that another one has not", [])

    def over(self, node: int, chain: Chain, tasks: int) -> None:
        self._of(chain.epoch_at(0) // EPOCHS_MAX).over(node, chain, tasks)

    def kept(self, node: int, before: SeatRow | None, after: SeatRow, now_s: float) -> None:
        """An honest elector's seat goes to disk."""
        if before is not None and after.promised.order < before.promised.order:
            raise Violation(f"node {node} takes a promise back: {before.promised}, then {after.promised}", [])
        if before is not None and after.epoch < before.epoch:
            raise Violation(f"node {node} goes back to epoch {after.epoch} from {before.epoch}", [])
        self._later_s.setdefault(node, []).append((after.epoch // EPOCHS_MAX, now_s))


class _Generation:
    """What must hold within one."""

    def __init__(self, clocks_are_sound: bool) -> None:
        self._clocks_are_sound = clocks_are_sound
        self._final: list[bytes] = []
        """Hash of every committed batch."""
        self._digests: dict[int, bytes] = {}
        self._newest = NO_TERM
        """The highest term under which something was committed."""
        self._won: dict[Term, int] = {}
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

    def committed(self, node: int, term: Term, chain: Chain, first: int, last: int) -> range:
        """The batches that nobody had committed before."""
        self._holds_all(node, chain, up_to=last)
        fresh = range(len(self._final), last)
        if not fresh:
            return fresh
        if term.order < self._newest.order:
            raise Violation(f"I5: node {node} commits something new in {term}, after {self._newest}", [])
        self._newest = term
        for sequence in fresh:
            self._final.append(chain.link(sequence).hash)
            for entry in entries_of(chain.batch(sequence)):
                if entry.task in self._digests:
                    raise Violation(f"task {entry.task} is committed twice", [])
                self._digests[entry.task] = entry.digest
        return fresh

    def over(self, node: int, chain: Chain, tasks: int) -> None:
        if not 0 < chain.end <= len(self._final):
            raise Violation(f"node {node} says that the job is over, and its end is not committed", [])
        if self.end not in (0, chain.end):
            raise Violation(f"node {node} says that the job ended with batch {chain.end - 1}, not {self.end - 1}", [])
        self.end = chain.end
        self._holds_all(node, chain)
        if chain.ended == "done" and len(self._digests) != tasks:
            raise Violation(f"the job is done with {len(self._digests)} of {tasks} tasks", [])

    def _holds_all(self, node: int, chain: Chain, up_to: int | None = None) -> None:
        known = len(self._final) if up_to is None else min(up_to, len(self._final))
        if len(chain) < known:
            raise Violation(f"I3: node {node} has {len(chain)} batches, and {known} were committed", [])
        # Hashes chain: the last one stands for all before it.
        at = max(known, chain.base)
        if known and at <= len(self._final) and chain.hash_before(at) != self._final[at - 1]:
            raise Violation(f"I3: batch {at - 1} of node {node} is not the one that was committed", [])
        if chain.base > len(self._final):
            raise Violation(f"node {node} has given up {chain.base} batches, and {len(self._final)} were committed", [])
        if up_to is None:
            for task, digest in self._digests.items():
                entry = chain.register.get(task)
                if entry is None or entry.digest != digest:
                    raise Violation(f"I3: node {node} does not know task {task} as it was committed", [])
