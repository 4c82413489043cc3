"""What an elector says that it lacks of a journal, answer by answer: whether it is getting on with what it is given.

An elector is given what it says that it lacks, which is up to half a megabyte for a few bytes of an answer. So its answers
must lead somewhere: first it may say from further and further back where the journals part, a few times, then it must have
taken each time all batches that it was given. So it is given the journal once, whatever it says, and a few messages more.
One that says anything else is left alone until it is asked anew. Of snapshots, `SnapshotInHand` counts the bytes.
"""

from __future__ import annotations

Lack = tuple[int, int]
"""The first batch that it lacks, and how many bytes of a snapshot it has."""

STEPS_BACK_MAX = 16
"""As `replication.GAPS_PER_RENEWAL_MAX`: each leads to where a term began."""


class Lacking:
    """One elector, since it was asked last."""

    def __init__(self) -> None:
        self._lacks: Lack | None = None
        self._given = 0
        """The first batch that it lacks if it took those that it was given last."""
        self._is_forward = False
        """It has lacked less than before."""
        self._steps_back = 0

    def is_getting_on(self, lacks: Lack) -> bool:
        """False where it did not take what it was given, or lacks more again, or too often."""
        if self._lacks is not None and lacks <= self._lacks:
            if lacks == self._lacks or self._is_forward or self._steps_back == STEPS_BACK_MAX:
                return False
            self._steps_back += 1
        elif self._lacks is not None:
            if lacks[0] < self._given:
                return False
            self._is_forward = True
        self._lacks = lacks
        return True

    def give(self, end: int) -> None:
        """It is sent batches up to this one, which is the first that it lacks then."""
        self._given = end
