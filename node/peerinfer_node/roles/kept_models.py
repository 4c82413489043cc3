"""Models that this node has run and keeps: told in its advert, and fetched from whoever else keeps them.

A model that many volunteers need at once would otherwise leave the coordinator as often as there are volunteers. The
advert is only a hint: who does not have the model any more says so, and another provider sends it.
"""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer.ids import Cid, PeerId
from peerinfer.limits import BLOB_PROVIDERS_MAX
from peerinfer_node.roles.blobs import BlobFetcher
from peerinfer_node.roles.members import MembersRole

TOLD_MAX = 16
"""The most recently used; each takes 60 bytes of the advert."""


class KeptModels:
    """What the worker fetches its models with."""

    def __init__(self, fetcher: BlobFetcher, members: MembersRole) -> None:
        self._fetcher = fetcher
        self._members = members
        self._used: dict[Cid, None] = {}

    @property
    def told(self) -> tuple[Cid, ...]:
        """For the advert; in an order that does not change with every use."""
        return tuple(sorted(self._used))

    async def fetch(self, model: Cid, providers: Sequence[PeerId]) -> None:
        """Returns when the store holds the model. Raises as `BlobFetcher.fetch` does."""
        others = [
            member.peer
            for member in self._members.machine.members()
            # A relay is not for models, and who is not connected would have to be dialled first.
            if member.path == "direct" and member.advert and model in member.advert.models
        ]
        everybody = dict.fromkeys((*providers, *others[:BLOB_PROVIDERS_MAX]))
        await self._fetcher.fetch(model, tuple(everybody))
        self._used.pop(model, None)
        self._used[model] = None
        while len(self._used) > TOLD_MAX:
            del self._used[next(iter(self._used))]
