"""Who elects, of every job that this node has to do with: by its elector's seat, or by its own word as the owner."""

from __future__ import annotations

from peerinfer.committees import Seated, committees_of
from peerinfer.elector import Elector
from peerinfer.ids import JobId
from peerinfer.messages import Manifest

Changes = tuple[bytes, ...]


class KnownCommittees:
    def __init__(self, elector: Elector) -> None:
        self._elector = elector
        self._named: dict[JobId, Changes] = {}
        """Of this node's own jobs: the generation that it has begun."""

    def name(self, job: JobId, changes: Changes) -> None:
        self._named[job] = changes

    def changes(self, job: JobId, manifest: Manifest) -> Changes:
        """What leads to the newest committee."""
        known = (self._elector.changes(job), self._named.get(job, ()))
        return max(known, key=lambda changes: committees_of(job, manifest, changes)[0][-1].epoch)

    def seated(self, job: JobId, manifest: Manifest) -> Seated:
        return committees_of(job, manifest, self.changes(job, manifest))[0][-1]
