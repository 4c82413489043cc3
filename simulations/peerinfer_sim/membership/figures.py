"""What is measured of membership: traffic of an idle node, times to know and to miss a peer, false alarms."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from peerinfer.dialling import CONNECTIONS_WANTED
from peerinfer.ids import PeerId, peer_id_of
from peerinfer.member_messages import News
from peerinfer.membership_events import (
    AdvertSeen,
    Heard,
)
from peerinfer.news import NewsQueue, known
from peerinfer_sim.membership.world import Node, World

SESSION_S = 10 * 3600.0
"""Mean time that a node of a large swarm stays (ALGORITHMS, §3)."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes per second of one node, with 90 for the layers below each message, and what its decisions cost."""

    sent_mean: float
    sent_max: float
    received_mean: float
    received_max: float
    connections_max: int
    core: float
    """Share of a core that one node's machine takes, the simulated network included."""

    def __str__(self) -> str:
        return (
            f"sent {self.sent_mean:.0f} B/s (most {self.sent_max:.0f}), received {self.received_mean:.0f} B/s "
            f"(most {self.received_max:.0f}), {self.connections_max} connections at most, {self.core:.3%} of a core"
        )


def swarm_of(world: World, size: int) -> list[Node]:
    """Nodes that joined one after the other, each by one of those before it."""
    nodes = [world.join()]
    while len(nodes) < size:
        world.run(0.02)
        nodes.append(world.join(world.rng.choice(nodes).peer))
    return nodes


def settled_swarm(world: World, size: int) -> list[Node]:
    """Nodes that have been together for long: each knows the others, or as many as it remembers, and has its neighbours.

    It saves the joining, in which each of a thousand nodes hears of each other one.
    """
    nodes = [world.join() for _ in range(size)]
    world.run(0.0)
    for node in nodes:
        room = min(size, node.machine.members_max)
        for other in world.rng.sample(nodes, room):
            if other is not node:
                world.post(node, AdvertSeen(other.peer, *other.advert, world.now_s))
    for node in nodes:
        node.machine._exchange.news = NewsQueue()  # all of it has been told long ago
        while len(node.connected) < min(CONNECTIONS_WANTED, size - 1):
            world.connect(node, world.rng.choice(nodes))
    return nodes


def knows(node: Node, state: str = "alive") -> int:
    return sum(member.state == state for member in node.machine.members())


def traffic_of(world: World, nodes: list[Node], seconds: float) -> Traffic:
    world.reset_counts()
    started_s = time.process_time()
    world.run(seconds)
    used_s = time.process_time() - started_s
    for node in nodes:
        node.machine.check()
    sent = [node.bytes_sent / seconds for node in nodes]
    received = [node.bytes_received / seconds for node in nodes]
    return Traffic(
        sum(sent) / len(sent),
        max(sent),
        sum(received) / len(received),
        max(received),
        max(len(node.connected) for node in nodes),
        used_s / seconds / len(nodes),
    )


def idle_traffic(
    seed: int, size: int, *, settle_s: float = 60.0, measure_s: float = 60.0, has_settled: bool = False
) -> Traffic:
    world = World(seed)
    nodes = settled_swarm(world, size) if has_settled else swarm_of(world, size)
    world.run(settle_s)
    return traffic_of(world, nodes, measure_s)


def idle_traffic_in_a_crowd(
    seed: int, size: int, *, real: int = 40, settle_s: float = 900.0, measure_s: float = 120.0
) -> Traffic:
    """Of `real` nodes that hear of everything that happens among `size`.

    The others are names only. Every arrival and every death among them is told to one of the real nodes, at the rate at
    which a swarm of that size has them; what the real ones then tell each other is all that they would say in the large
    swarm, since a node's neighbours are as many there as here.
    """
    world = World(seed)
    nodes = swarm_of(world, real)
    crowd: list[PeerId] = []

    def arrive() -> None:
        peer = peer_id_of(world.rng.randbytes(32))
        crowd.append(peer)
        advert, signed = world.make_advert(peer, 1)
        world.post(world.rng.choice(nodes), AdvertSeen(peer, advert, signed, world.now_s))
        world.at(world.now_s + world.rng.expovariate(size / SESSION_S), arrive)

    def die() -> None:
        if crowd:
            peer = crowd.pop(world.rng.randrange(len(crowd)))
            node = world.rng.choice(nodes)
            for teller in list(node.connected)[:2]:
                world.post(node, Heard(teller, News((known(peer, 1, 1, "dead"),))))
        world.at(world.now_s + world.rng.expovariate(size / SESSION_S), die)

    # The table is full of strangers before anything is measured.
    for node in nodes:
        for _ in range(500):
            peer = peer_id_of(world.rng.randbytes(32))
            advert, signed = world.make_advert(peer, 1)
            node.machine.handle(AdvertSeen(peer, advert, signed, world.now_s), world.now_s)
    arrive()
    die()
    world.run(settle_s)  # What may be said at once has been said by then.
    return traffic_of(world, nodes, measure_s)


@dataclass(frozen=True, slots=True)
class Joining:
    all_see_all_s: float
    late_knows_all_s: float
    all_know_late_s: float
    crash_known_s: float
    vanished_known_s: float

    def __str__(self) -> str:
        return (
            f"all see all after {self.all_see_all_s:.1f} s, a late joiner knows all after {self.late_knows_all_s:.1f} s "
            f"and is known after {self.all_know_late_s:.1f} s, a killed peer is dead for all after "
            f"{self.crash_known_s:.1f} s, one without power after {self.vanished_known_s:.1f} s"
        )


def joining(seed: int, size: int) -> Joining:
    world = World(seed)
    nodes = swarm_of(world, size)

    def all_see(count: int) -> bool:
        return all(knows(node) == count for node in nodes if node.is_up)

    first_s = world.run_until(lambda: all_see(size - 1), 60)
    late = world.join(nodes[0].peer)
    knows_s = world.run_until(lambda: knows(late) == size, 60)
    nodes.append(late)
    known_s = knows_s + world.run_until(lambda: all_see(size), 60)
    world.run(30)

    def dead_for_all(lost: Node) -> bool:
        members = [node.machine.member(lost.peer) for node in nodes if node.is_up]
        return all(member is None or member.state == "dead" for member in members)

    crashed, vanished = nodes[size // 2], nodes[size // 3]
    world.crash(crashed)
    crash_s = world.run_until(lambda: dead_for_all(crashed), 60)
    world.run(30)
    world.vanish(vanished)
    vanish_s = world.run_until(lambda: dead_for_all(vanished), 60)
    return Joining(first_s, knows_s, known_s, crash_s, vanish_s)


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    node_hours: float
    buried: int
    """Nodes that lived and were dead for somebody."""

    @property
    def rate_max(self) -> float:
        """Per node and hour: with a higher rate so few would have been seen in one of twenty runs at most."""
        return poisson_upper(self.buried) / self.node_hours

    def __str__(self) -> str:
        return (
            f"{self.buried} live nodes called dead in {self.node_hours:,.0f} node-hours: "
            f"at most {self.rate_max:.3%} per node and hour (upper 95% bound)"
        )


def poisson_upper(seen: int, chance: float = 0.05) -> float:
    """The mean at which `seen` events or fewer happen with this probability."""
    low, high = 0.0, 10.0 * (seen + 1)
    for _ in range(60):
        mean = (low + high) / 2
        if sum(math.exp(-mean) * mean**count / math.factorial(count) for count in range(seen + 1)) > chance:
            low = mean
        else:
            high = mean
    return high


def false_alarms(seed: int, size: int, hours: float, *, loss: float = 0.05, latency_s: float = 0.05) -> FalseAlarms:
    world = World(seed, loss=loss, latency_s=latency_s)
    swarm_of(world, size)
    world.run(60.0)
    world.deaths.clear()
    world.run(3600 * hours)
    return FalseAlarms(size * hours, len({(round(when_s, -1), whom) for when_s, _, whom in world.deaths}))


@dataclass(frozen=True, slots=True)
class Misses:
    """How long it took until somebody who is gone was dead for all, over several of them."""

    killed_mean_s: float
    killed_max_s: float
    vanished_mean_s: float
    vanished_max_s: float

    def __str__(self) -> str:
        return (
            f"dead for all: a killed one after {self.killed_mean_s:.1f} s (at most {self.killed_max_s:.1f}), "
            f"one without power after {self.vanished_mean_s:.1f} s (at most {self.vanished_max_s:.1f})"
        )


def misses(seed: int, size: int, times: int, *, loss: float = 0.05, latency_s: float = 0.05) -> Misses:
    """`times` nodes are killed and as many vanish, each in its turn; another one comes in its place."""
    world = World(seed, loss=loss, latency_s=latency_s)
    nodes = swarm_of(world, size)
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(2 * times):
        world.run(30.0)
        lost = nodes.pop(world.rng.randrange(len(nodes)))
        (world.vanish if turn % 2 else world.crash)(lost)

        def is_dead_for_all(lost: Node = lost) -> bool:
            members = [node.machine.member(lost.peer) for node in nodes]
            return all(member is None or member.state == "dead" for member in members)

        found[turn % 2].append(world.run_until(is_dead_for_all, 60))
        nodes.append(world.join(world.rng.choice(nodes).peer))
    killed, vanished = found
    return Misses(sum(killed) / times, max(killed), sum(vanished) / times, max(vanished))
