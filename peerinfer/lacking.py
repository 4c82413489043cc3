"""What an elector says that it lacks of a journal, answer by answer: whether it is getting on with what it is given.

An elector is given what it says that it lacks, which is up to half a megabyte for a few bytes of an answer. So its answers
must lead somewhere: first it may say from further and further back where the journals part, then every answer is a step
ahead. One that says one thing and another is left alone until it is asked anew.
"""

from __future__ import annotations

Lack = tuple[int, int]
"""The first batch that it lacks, and how many bytes of a snapshot it has."""


class Lacking:
    """One elector, since it was asked last."""

    def __init__(self) -> None:
        self._lacks: Lack | None = None
        self._is_forward = False
        """It has lacked less than before."""

    def is_getting_on(self, lacks: Lack) -> bool:
        """False where it did not take what it was given, or lacks more again."""
        before = self._lacks
        if before is not None:
            if lacks == before or (self._is_forward and lacks < before):
                return False
            self._is_forward = lacks > before
        self._lacks = lacks
        return True
