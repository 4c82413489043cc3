"""What this node computed for others, counted over restarts: in state.db, signed by the node itself."""

from __future__ import annotations

from dataclasses import replace

from peerinfer.contribution import Contribution, check_sense
from peerinfer.envelope import seal, unseal
from peerinfer.errors import DecodeError, InputError
from peerinfer_node.log import Log
from peerinfer_node.ports import Keys, LocalClock, Store
from peerinfer_node.roles.worker import WorkerRole
from peerinfer_node.saving import save_every, was_saved

SAVED_EVERY_S = 10.0
_SETTING = "contribution"


class ContributionRole:
    """A count that was edited by hand, or comes from another node's file, is not gone on with."""

    def __init__(self, *, worker: WorkerRole, store: Store, keys: Keys, clock: LocalClock, log: Log) -> None:
        self._worker = worker
        self._store, self._keys, self._clock, self._log = store, keys, clock, log
        now_s = clock.wall_s()
        self._before = Contribution(now_s, now_s, 0, 0, 0.0, 0.0, 0.0)
        """As of when this process began."""
        self._saved = -1

    @property
    def total(self) -> Contribution:
        before = self._before
        found = before.plus(self._worker.computing.given)
        return replace(found, until_s=max(self._clock.wall_s(), before.since_s))

    async def restore(self) -> None:
        text = await self._store.setting(_SETTING)
        if text is None:
            return
        try:
            _, found = unseal(Contribution, bytes.fromhex(text), signer=self._keys.peer_id)
            check_sense(found)
        except (DecodeError, InputError, ValueError) as error:
            self._log.warning("the count of what was given starts anew: it was not this node's", reason=str(error))
        else:
            self._before = found
            self._saved = self.total.tasks

    async def run(self) -> None:
        await save_every(SAVED_EVERY_S, self.save)

    async def save(self) -> None:
        total = self.total
        signed = seal(total, self._keys.peer_id, self._keys.sign).hex()
        if total.tasks != self._saved and await was_saved(
            "what was given", lambda: self._store.set_setting(_SETTING, signed), self._log
        ):
            self._saved = total.tasks
