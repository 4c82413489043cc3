"""Peers known from before: those that the owner or an invite named, and those remembered from the last run.

A home that once met somebody needs no invite again. All that were named are dialled, one a moment after the other: an
address of a machine that is off swallows what is sent there, and the one that lives may stand behind it in the invite.
Each is reached once, so that swarms which met elsewhere become one; all of them again by a node that is alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from peerinfer.errors import KeyRefused, NoSuitablePeer, PeerinferError, StateUnusable
from peerinfer_node.log import Log
from peerinfer_node.peer_rows import PeerRow
from peerinfer_node.ports import LocalClock, Network, Store
from peerinfer_node.roles.members import DIAL_STAGGER_S, MembersRole

AGAIN_S = 5.0
"""A node without any connection dials those that were named this often; with one, ever more seldom."""

AGAIN_MAX_S = 60.0

SAVED_FIRST_S = 2.0
SAVED_EVERY_S = 30.0
"""A node that is killed soon after its start finds its way back too; later, what changes is worth less."""

NOT_REACHED = "bootstrap peer not reached"
ALONE = (
    "none of the peers that were named answers, so this node is alone; it goes on trying. If they moved, "
    "ask a member for a new invite (peerinfer swarm invite) or give another --bootstrap"
)

SHUT_OUT_S = 3.0
"""So long a node may find others, remembered or near, if all refuse it that it was to ask."""

LOOK_S = 0.1

REMEMBERED_DIALLED_MAX = 128
"""Of the peers remembered, those seen last; the table of members has no room for the dead of months."""


class Acquaintances:
    def __init__(
        self,
        *,
        network: Network,
        members: MembersRole,
        store: Store,
        clock: LocalClock,
        log: Log,
        named: Sequence[str],
        remembers: bool,
    ) -> None:
        """`named` are addresses; without `remembers` nothing is read from the disk or written there."""
        self._network = network
        self._members = members
        self._store = store
        self._clock = clock
        self._log = log
        self._named = tuple(named)
        self._remembers = remembers
        self._waiting = dict.fromkeys(self._named)
        self._told: dict[str, str] = {}
        """Why each was not reached: the same news every few seconds would hide everything else."""
        self._refused: set[str] = set()
        """Of these, who do not let in who holds this node's key, or none."""
        self._is_tried = trio.Event()
        """Each that was named has been dialled once."""
        self._is_alone_told = False

    async def check_let_in(self) -> None:
        """Returns when somebody is met or all that were named were dialled.

        Raises `NoSuitablePeer` if all of these refuse this node, and nobody else is met within `SHUT_OUT_S`.
        """
        while self._named and not (self._is_tried.is_set() or self._network.connected()):  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        with trio.move_on_after(SHUT_OUT_S):
            while self._is_shut_out:  # noqa: ASYNC110  (connections come from many sides)
                await trio.sleep(LOOK_S)
        if self._is_shut_out:
            raise NoSuitablePeer("nobody can be asked")

    @property
    def _is_shut_out(self) -> bool:
        return bool(self._named) and self._refused.issuperset(self._named) and not self._network.connected()

    @property
    def unreached(self) -> dict[str, str]:
        """Of the addresses that were named those that do not lead to a peer now, and why."""
        return dict(self._told)

    async def run(self) -> None:
        if self._remembers:
            for row in (await self._store.peers())[:REMEMBERED_DIALLED_MAX]:
                self._members.found(row.peer, row.addresses)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_now_and_then)
            if self._named:
                await self._reach_named()

    async def _reach_named(self) -> None:
        again_s = AGAIN_S
        while True:
            wanted = list(self._waiting) if self._network.connected() else self._named
            async with trio.open_nursery() as nursery:
                for address in wanted:
                    nursery.start_soon(self._reach, address)
                    await trio.sleep(DIAL_STAGGER_S)
            self._is_tried.set()
            # Of those that refuse, that was said already, and what to do.
            if not self._network.connected() and not self._is_alone_told and not self._is_shut_out:
                self._is_alone_told = True
                self._log.warning(ALONE)
            await trio.sleep(again_s)
            if self._is_alone_told and self._network.connected():
                self._is_alone_told = False
                self._log.info("this node is not alone any more", peers=len(self._network.connected()))
            again_s = min(again_s * 1.5, AGAIN_MAX_S) if self._network.connected() else AGAIN_S

    async def _reach(self, address: str) -> None:
        try:
            await self._network.dial(address)
            self._waiting.pop(address, None)
            self._told.pop(address, None)
            self._refused.discard(address)
        except PeerinferError as error:
            if isinstance(error, KeyRefused):
                self._refused.add(address)
            else:
                self._refused.discard(address)
            reason = str(error).removeprefix(f"cannot dial {address}: ")
            if self._told.get(address) != reason:
                self._log.warning(NOT_REACHED, address=address, reason=reason)
            self._told[address] = reason

    async def _save_now_and_then(self) -> None:
        every_s = SAVED_FIRST_S
        while True:
            await trio.sleep(every_s)
            await self.save()
            every_s = min(2 * every_s, SAVED_EVERY_S)

    async def save(self) -> None:
        """Writes down who is there."""
        wall_s = self._clock.wall_s()
        rows = [
            PeerRow(member.peer, member.addresses, member.signed, wall_s)
            for member in self._members.machine.members()
            if member.state == "alive" and member.addresses
        ]
        if rows and self._remembers:
            try:
                await self._store.remember_peers(rows)
            except StateUnusable as error:  # A full disk is no reason to stop: they are found again.
                self._log.warning("peers not remembered", reason=str(error))
