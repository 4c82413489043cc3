"""How much this node sent and received today, by local time, across restarts."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from peerinfer_node.log import Log
from peerinfer_node.ports import Store
from peerinfer_node.saving import save_every, was_saved

SAVE_EVERY_S = 30.0
"""A node that is killed forgets at most this much of its traffic."""

_KEY = "traffic_today"


class Traffic:
    """Counts towards the daily quota. `date` says which day it is here."""

    def __init__(self, store: Store, log: Log, date: Callable[[], str] = lambda: time.strftime("%Y-%m-%d")) -> None:
        self._store = store
        self._log = log
        self._date = date
        self._day = date()
        self._bytes = 0
        self._saved = 0

    def count(self, count: int) -> None:
        self._bytes += count

    @property
    def bytes_today(self) -> int:
        today = self._date()
        if today != self._day:
            self._day, self._bytes = today, 0
        return self._bytes

    async def restore(self) -> None:
        """What was counted earlier today. What is not ours is forgotten."""
        stored = await self._store.setting(_KEY)
        try:
            day, count = json.loads(stored or "null")
        except (ValueError, TypeError):
            return
        if day == self._day and isinstance(count, int) and count >= 0:
            self._bytes += count

    async def save(self) -> None:
        count = self.bytes_today
        text = json.dumps([self._day, count])
        if count != self._saved and await was_saved(
            "the traffic of today", lambda: self._store.set_setting(_KEY, text), self._log
        ):
            self._saved = count


@asynccontextmanager
async def kept(traffic: Traffic) -> AsyncIterator[None]:
    """Saves what is counted, now and then and at the end."""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save_every, SAVE_EVERY_S, traffic.save)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await traffic.save()
