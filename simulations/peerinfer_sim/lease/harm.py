"""What befalls the nodes of a run: crashes, full disks, sleep, and what somebody is told to do at a bad moment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peerinfer.candidacy_events import Campaign, ChangeCommittee, ChangesSeen, HandOver
from peerinfer_sim.lease import links
from peerinfer_sim.lease.node import Node
from peerinfer_sim.lease.scenario import Fault

if TYPE_CHECKING:
    from peerinfer_sim.lease.world import World

RESCUE_AGAIN_S = 0.5
"""An owner that is down names a committee when it is up again."""


class Harm:
    """Of one world, each fault at its time. What befalls links is left to `links`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def fault(self, fault: Fault) -> None:
        world = self._world
        node = world.nodes[fault.node] if fault.node >= 0 else self._holder()
        until_s = min(fault.at_s + fault.for_s, world.scenario.chaos_s)
        world.note(node, f"FAULT {fault.kind}")
        match fault.kind:
            case "crash":
                if node.is_up:
                    self.crash(node, fault.amount > 0)
                    world.at(until_s, self._restart, node, node.life)
            case kind if kind in links.KINDS:
                world.links.add(fault, until_s, node.number)
            case "campaign":
                world.within(node, node.life, world.tell, Campaign())
            case "paused" | "suspended":
                if node.is_up and world.now_s >= node.stopped_until_s:
                    node.stopped_until_s = fault.at_s + fault.for_s
                    if fault.kind == "suspended":
                        node.suspend(fault.for_s)
                    world.at(node.stopped_until_s, self._go_on, node, node.life)
            case "replace":
                self._replace(node, fault.amount)
            case "rescue":
                self._rescue()
            case "disk full":
                node.disk_is_full = True
                world.at(until_s, self._free_disk, node)
            case "hand over":
                if node.candidate is not None:
                    world.within(node, node.life, world.tell, HandOver("asked to"))
                    # It is told to campaign again later: a node that leaves for good is a crash.
                    world.at(world.now_s + 2.0, world.within, node, node.life, world.tell, Campaign())

    def _replace(self, node: Node, chance: float) -> None:
        world = self._world
        if node.candidate is None:
            return
        committee = list(node.candidate.committee)
        spares = [number for number in world.scenario.spares if world.nodes[number].peer not in committee]
        spares += [number for number in range(world.scenario.electors) if world.nodes[number].peer not in committee]
        if world.owner.generation:
            # Nobody is counted on there who will be gone for good: the new committee may be as small as one.
            spares = [number for number in spares if number not in world.scenario.dead]
        if spares:
            committee[int(chance * len(committee))] = world.nodes[spares[int(chance * 1000) % len(spares)]].peer
            world.within(node, node.life, world.tell, ChangeCommittee(tuple(committee)))

    def _rescue(self) -> None:
        world = self._world
        owner, candidate = world.owner, world.owner.node.candidate
        if world.checks.end_of(owner.generation):
            return
        if candidate is None or world.now_s < owner.node.stopped_until_s:
            world.at(world.now_s + RESCUE_AGAIN_S, self._rescue)
            return
        there = [node for node in world.nodes if node.is_up and world.now_s >= node.stopped_until_s]
        reached = [node for node in there if world.links.delays_s(owner.node.number, node.number, world.now_s)]
        elects = (*range(world.scenario.electors), *world.scenario.spares)
        fit = [node for node in world.nodes if node.number in elects and node.number not in world.scenario.dead]
        owner.rescue(candidate.changes, reached, fit, world.now_s)
        world.note(owner.node, "names a new committee")
        world.ends_s = math.inf
        world.tell(owner.node, ChangesSeen(owner.changes))
        world.tell(owner.node, Campaign())

    def _free_disk(self, node: Node) -> None:
        node.disk_is_full = False

    def _go_on(self, node: Node, life: int) -> None:
        if node.life != life:
            return
        waiting, node.stopped = node.stopped, []
        self._world.note(node, "goes on")
        for action in waiting:
            action()

    def _holder(self) -> Node:
        world = self._world
        for node in world.nodes:
            if node.candidate is not None and node.candidate.has_lease(node.holder_s(world.now_s)):
                return node
        return world.nodes[world.scenario.submitter]

    def heal(self) -> None:
        world = self._world
        world.links.heal()
        world.healed = True
        for node in world.nodes:
            node.disk_is_full = False
            if not node.is_up and node.number not in world.scenario.dead:
                self._restart(node, node.life)

    def crash(self, node: Node, is_torn: bool) -> None:
        world = self._world
        if not node.is_up:
            return
        world.note(node, "crashes")
        if is_torn and node.performing and not node.disk_is_full:
            world.electors.write(node, node.performing[0])
        if world.scenario.liars.get(node.number) == "forgetful":
            node.forget_disk()
        node.is_up = False
        node.life += 1
        node.elector = node.candidate = None
        node.asked.clear()
        node.performing.clear()
        node.stopped.clear()
        node.stopped_until_s = 0.0
        node.open_requests.clear()
        node.sweep_is_due = False
        node.tick_s = math.inf

    def _restart(self, node: Node, life: int) -> None:
        world = self._world
        dead_s = world.scenario.dead.get(node.number, math.inf)
        if node.is_up or node.life != life or world.now_s >= dead_s:
            return
        node.is_up = True
        world.note(node, "starts again")
        world.start(node)
