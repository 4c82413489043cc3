"""What an owner does when a job's committee has lost its quorum for good: a new generation, and what it begins with.

The journals of electors that are left may lack what the lost ones acknowledged, so none of them is taken for the truth:
the new generation begins with an empty journal. A result is carried over where a journal that is left names it *and* its
outputs are still at hand with that very digest. What is only named, or only at hand, is not accepted: the one is computed
again, the other goes through the job's verification again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from peerinfer.committees import Seated
from peerinfer.errors import LimitExceeded
from peerinfer.ids import JobId
from peerinfer.journal import Chain
from peerinfer.lease_messages import Generation
from peerinfer.limits import ELECTORS_BEFORE_MAX, GENERATIONS_MAX
from peerinfer.register import Entry


@dataclass(frozen=True, slots=True)
class Standings:
    """Who of a committee still serves, as far as the owner can tell."""

    seated: Seated
    answering: tuple[str, ...]
    """Electors that may yet grant a lease."""

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(elector for elector in self.seated.electors if elector not in self.answering)

    @property
    def is_lost(self) -> bool:
        return len(self.answering) < self.seated.quorum

    @property
    def words(self) -> str:
        count = len(self.seated.electors)
        return f"{len(self.answering)} of {count} electors answer, {self.seated.quorum} are needed"


def next_generation(
    job: JobId, committees: Sequence[Seated], committee: Sequence[str], created_at_s: float
) -> Generation:
    """After these committees, all that are known. Raises `LimitExceeded` where there were too many."""
    number = committees[-1].generation + 1
    if number > GENERATIONS_MAX:
        raise LimitExceeded(
            "GENERATIONS_MAX", current=number - 1, attempted=1, limit=GENERATIONS_MAX, unit="generations"
        )
    former: dict[str, None] = {}
    for seated in reversed(committees):
        former.update(dict.fromkeys((*seated.electors, *seated.before)))
    return Generation(job, number, tuple(committee), tuple(former)[:ELECTORS_BEFORE_MAX], created_at_s)


def longest(journals: Iterable[Chain]) -> Chain:
    """The one that holds all that was committed, if any of them does."""
    return max(journals, key=lambda chain: (chain.last_term.order, len(chain)), default=Chain())


def carried(journal: Chain, is_held: Callable[[int, bytes], bool]) -> tuple[Entry, ...]:
    """What the new generation begins with. `is_held`: whether outputs of the task with this digest are at hand."""
    return tuple(entry for entry in journal.register.entries() if entry.worker and is_held(entry.task, entry.digest))
