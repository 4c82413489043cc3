"""The owner of the job, who may name a committee anew when it thinks that the quorum is lost, rightly or not.

It asks whom it can reach for their journals, writes its word down, and tells its own candidate; the machines do the rest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from peerinfer.committees import committees_of
from peerinfer.envelope import seal
from peerinfer.ids import JobId
from peerinfer.journal import Chain
from peerinfer.messages import Manifest
from peerinfer.register import Entry
from peerinfer.rescue import carried, longest, next_generation
from peerinfer_sim.lease.node import Node

HELD_SHARE = 0.7
"""Of the results that a journal names, so many are still at hand."""


class Owner:
    """What it remembers on its disk, and how it decides. Survives the crashes of its node."""

    def __init__(self, node: Node, job: JobId, manifest: Manifest, seed: int) -> None:
        self.node = node
        self._job = job
        self._manifest = manifest
        self._dice = random.Random(f"{seed}:owner")
        self.changes: tuple[bytes, ...] = ()
        self.generation = 0
        self.carried: tuple[Entry, ...] = ()

    def rescue(self, known: Sequence[bytes], reached: Sequence[Node], fit: Sequence[Node], now_s: float) -> None:
        """`known`: the changes that its candidate follows; `reached`: whom it can ask; `fit`: who may elect."""
        changes = known if known else self.changes
        committees, _ = committees_of(self._job, self._manifest, changes)
        electors = committees[-1].electors
        journals = [chain_of(node, self._manifest.tasks) for node in reached if node.peer in electors]
        assert self.node.candidate is not None
        journals.append(self.node.candidate.chain.copy())
        sizes = [size for size in (1, 3, 3, 5) if size <= len(fit)]
        committee = [node.peer for node in self._dice.sample(list(fit), self._dice.choice(sizes))]
        named = next_generation(self._job, committees, committee, now_s)
        self.generation = named.generation
        self.carried = carried(longest(journals), lambda task, digest: self._dice.random() < HELD_SHARE)
        self.changes = (seal(named, self.node.peer, self.node.sign),)


def chain_of(node: Node, tasks: int) -> Chain:
    """What its elector has on disk."""
    chain = Chain()
    if node.snapshot is not None:
        chain.restore(node.snapshot, tasks)
    for batch in node.batches:
        chain.take(batch)
    return chain
