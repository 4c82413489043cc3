"""Searches on the members' streams: this node's own, and answers to others'."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from peerinfer.errors import DecodeError
from peerinfer.ids import PeerId
from peerinfer.membership_events import MemberMessage, Send
from peerinfer.searching import Answered, Asked, Begun, Effect, Event, Gone, Learnt, Met
from peerinfer.spread_messages import Found, Search
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.ports import LocalClock

if TYPE_CHECKING:
    from peerinfer.searching import Searching


class SearchesRole:
    """Runs the searching machine. What is found becomes known to the membership like every other advert."""

    def __init__(
        self,
        *,
        machine: Searching,
        clock: LocalClock,
        log: Log,
        send: Callable[[PeerId, MemberMessage], None],
        learn: Callable[[bytes], None],
    ) -> None:
        """`learn` takes a signed advert and raises `DecodeError` if it is forged."""
        self.machine = machine
        self._log = log
        self._send = send
        self._learn = learn
        self._driver: Driver[Event, Effect] = Driver(machine, clock, self._perform)

    async def run(self) -> None:
        await self._driver.run()

    def begin(self, words: tuple[str, ...]) -> None:
        """Asks around for peers that all these words are true of (`peerinfer.classes`); they turn up as members."""
        self._driver.post(Begun(words))

    def met(self, peer: PeerId) -> None:
        self._driver.post(Met(peer))

    def gone(self, peer: PeerId) -> None:
        self._driver.post(Gone(peer))

    async def hear(self, peer: PeerId, message: Search | Found) -> None:
        self._driver.post(Asked(peer, message) if isinstance(message, Search) else Answered(peer, message))
        await self._driver.wait_room()

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                self._send(peer, message)
            case Learnt(by, adverts):
                try:
                    for advert in adverts:
                        self._learn(advert)
                except DecodeError as error:
                    # The liar may be behind the one who passed it on, who is no worse for it.
                    self._log.info("a search was answered with a forged advert", peer=by, reason=str(error))
