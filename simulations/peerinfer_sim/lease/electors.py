"""Electors at work in a run: one request after the other, each write takes its time, a crash takes what was not written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peerinfer.candidacy_events import ChangesSeen, LeaseSeen
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked, PersistBatches, PersistSeat, PersistSnapshot, Restored
from peerinfer.journal_rules import NO_TERM
from peerinfer.lease_messages import Granted, LeaseRefused, LeaseReleased, SeatOffered
from peerinfer_sim.lease.node import Node

if TYPE_CHECKING:
    from peerinfer_sim.lease.world import World


class Electors:
    """Of one world: they hear requests, and their answers are carried back."""

    def __init__(self, world: World) -> None:
        self._world = world

    def ask(self, node: Node, event: Asked) -> None:
        node.asked.append(event)
        self._elect(node)

    def _elect(self, node: Node) -> None:
        world = self._world
        while node.asked and not node.performing and node.elector is not None:
            event = node.asked.popleft()
            world.note(node, "elector hears", event.request)
            node.performing = [(effect, event) for effect in node.elector.handle(event, node.elector_s(world.now_s))]
            self._perform(node)

    def _perform(self, node: Node) -> None:
        """Performs the elector's effects up to the next that takes time."""
        world = self._world
        while node.performing:
            effect, event = node.performing[0]
            if isinstance(effect, PersistSeat | PersistBatches | PersistSnapshot):
                world.at(world.now_s + world.scenario.sync_s, world.within, node, node.life, self._synced)
                return
            node.performing.pop(0)
            if isinstance(effect, Answer):
                self._answer(node, event, effect.message)

    def _synced(self, node: Node) -> None:
        written = node.performing.pop(0)
        if node.disk_is_full:
            self._cannot_write(node, written[1])
        else:
            self.write(node, written)
            self._perform(node)
        self._elect(node)

    def write(self, node: Node, written: tuple[Any, Asked]) -> None:
        world = self._world
        effect, _ = written
        if isinstance(effect, PersistSeat):
            if node.number not in world.scenario.liars:
                world.checks.kept(node.number, node.row, effect.row, world.now_s)
            node.row = effect.row
        elif isinstance(effect, PersistBatches):
            node.write_batches(effect.first, effect.batches)
        elif isinstance(effect, PersistSnapshot):
            node.write_snapshot(effect.base, effect.snapshot, effect.batches)

    def _cannot_write(self, node: Node, event: Asked) -> None:
        """What was not written is forgotten, as if the elector had restarted, and nothing of it is answered."""
        world = self._world
        assert node.elector is not None
        node.performing.clear()
        world.note(node, "cannot write")
        if node.row is None:
            node.elector = Elector(node.peer, node.sign)
        else:
            node.elector.handle(Restored(node.row, tuple(node.batches), node.snapshot), node.elector_s(world.now_s))
        job = getattr(event.request, "job", "")
        nonce = getattr(event.request, "nonce", 0)
        self._answer(node, event, LeaseRefused(job, nonce, "full", "the disk is full", NO_TERM))

    def _answer(self, node: Node, event: Asked, message: Any) -> None:
        world = self._world
        asker = world.nodes[world.numbers_of[event.peer]]
        life, request = event.token >> 32, event.token & 0xFFFFFFFF
        world.carry(node, asker, life, world.heard, node.peer, request, world.wire(message))
        if isinstance(event.request, SeatOffered):
            if not isinstance(message, LeaseRefused):
                world.stand(node)
                if event.request.changes:
                    world.tell(node, ChangesSeen(event.request.changes))
        elif node.candidate is not None:
            now_s = node.holder_s(world.now_s)
            if isinstance(message, Granted):
                world.tell(node, LeaseSeen(event.peer, now_s + event.request.lease_s, event.request.term))  # type: ignore[union-attr]
            elif isinstance(event.request, LeaseReleased):
                world.tell(node, LeaseSeen("", now_s))
