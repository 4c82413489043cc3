"""What no single node can see of a job: one coordinator at a time, in terms that grow, over a journal that forgets nothing.

The world looks into every node that is alive, whatever lies between them, whenever somebody begins to coordinate and
whenever a quorum has acknowledged something (invariants I1, I2 and I3 of the design).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from peerinfer.candidacy import Candidacy
from peerinfer.ids import JobId
from peerinfer.register import Entry


class Participant(Protocol):
    """A live node, as far as its part in elections goes."""

    def candidacy(self, job: JobId) -> Candidacy | None: ...

    def holder_s(self) -> float:
        """The clock by which it believes in its lease."""


class Oversight:
    """`alive` maps names to the nodes that run at this moment. Raises AssertionError at the first thing that is wrong."""

    def __init__(self, alive: Mapping[str, Participant]) -> None:
        self._alive = alive
        self._last_term: dict[JobId, tuple[int, str]] = {}
        self.terms: dict[JobId, list[str]] = {}
        """Who began to coordinate, in order."""
        self.final: dict[JobId, dict[int, Entry]] = {}
        """What a quorum has acknowledged."""

    def began(self, name: str, job: JobId) -> None:
        """`name` coordinates from now on."""
        machine = self._alive[name].candidacy(job)
        assert machine is not None, f"{name} coordinates a job for which it does not stand"
        self._check_alone(name, job)
        term = (machine.term.round, machine.term.candidate)
        last = self._last_term.get(job, (0, ""))
        assert term > last, f"{name} coordinates in term {term[0]}, and there was a coordinator in term {last[0]}"
        self._last_term[job] = term
        self.terms.setdefault(job, []).append(name)
        for task, entry in self.final.get(job, {}).items():
            found = machine.chain.register.get(task)
            assert found == entry, f"task {task} was final as {entry}; {name}, which took over, has {found}"

    def acknowledged(self, name: str, job: JobId, tasks: Iterable[int]) -> None:
        """`name` has a quorum's word that these entries are in the journal."""
        machine = self._alive[name].candidacy(job)
        if machine is None:
            return  # The same word ended the job, and its candidate with it.
        register = machine.chain.register
        final = self.final.setdefault(job, {})
        for task in tasks:
            entry = register.get(task)
            assert entry is not None, f"task {task} is acknowledged to {name}, whose journal lacks it"
            known = final.setdefault(task, entry)
            assert known == entry, f"task {task} was final as {known}, and {name} has it as {entry}"

    def check_alone(self, job: JobId) -> None:
        """At no moment do two nodes believe in their lease."""
        holders = [name for name in self._alive if self._holds(name, job)]
        assert len(holders) <= 1, f"{' and '.join(holders)} hold the lease of one job"

    def _check_alone(self, name: str, job: JobId) -> None:
        others = [other for other in self._alive if other != name and self._holds(other, job)]
        assert not others, f"{name} coordinates while {', '.join(others)} holds the lease"

    def _holds(self, name: str, job: JobId) -> bool:
        node = self._alive[name]
        machine = node.candidacy(job)
        return machine is not None and machine.holds(node.holder_s())
