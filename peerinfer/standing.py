"""Who elects now, epoch after epoch, and this node's place among the candidates."""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer.committees import Seated, candidates_in, committees_of, follow_all, is_generation, records_after
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.messages import Manifest


class Standing:
    """Of one candidate of one job."""

    def __init__(self, own: PeerId, job: JobId, manifest: Manifest, changes: Sequence[bytes]) -> None:
        """`changes`: what is known of later committees. Raises `DecodeError` or `ProtocolError` if they do not follow."""
        self._own = own
        self._job = job
        self._manifest = manifest
        self.changes = tuple(changes)
        self.committees, self.start = committees_of(job, manifest, self.changes)
        """Of every epoch; and how the last of them began, where it is not the first."""
        self._take_places()

    def _take_places(self) -> None:
        candidates = candidates_in(self._manifest, self.seated)
        self.electors = tuple(PeerId(elector) for elector in self.seated.electors)
        self.is_candidate = self._own in candidates
        self.rank = candidates.index(self._own) if self.is_candidate else 0

    @property
    def former(self) -> tuple[PeerId, ...]:
        """Electors of generations that are over, and of none that goes on."""
        return tuple(PeerId(one) for one in self.committees[0].before if one not in self.seated.electors)

    @property
    def seated(self) -> Seated:
        return self.committees[-1]

    @property
    def epoch(self) -> int:
        return self.seated.epoch

    @property
    def quorum(self) -> int:
        return self.seated.quorum

    def follow(self, records: Sequence[bytes]) -> bool:
        """On to a later epoch; False if these records do not lead there."""
        committees, start, used = follow_all(self._job, self._manifest, self.committees, records)
        if start is None:
            return False
        led = tuple(records[:used])
        self.changes = led if is_generation(led[0]) else (*self.changes, *led)
        self.committees, self.start = committees, start
        self._take_places()
        return True

    def follow_whole(self, changes: Sequence[bytes]) -> bool:
        """The same, where the records begin with the job's, or its newest generation's, first committee."""
        try:
            seated, _ = committees_of(self._job, self._manifest, changes)
        except ProtocolError:
            return False
        return self.follow(records_after(seated, changes, self.epoch))
