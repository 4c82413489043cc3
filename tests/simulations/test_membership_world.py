"""Many membership machines together. `python -m peerinfer_sim.membership` prints the figures at larger sizes."""

import pytest

from peerinfer.limits import NEWS_PER_MESSAGE_MAX
from peerinfer.member_messages import News
from peerinfer.membership_events import Heard
from peerinfer.news import known
from peerinfer_sim.membership.figures import (
    false_alarms,
    idle_traffic,
    idle_traffic_in_a_crowd,
    joining,
    knows,
    misses,
    poisson_upper,
    settled_swarm,
    swarm_of,
    traffic_of,
)
from peerinfer_sim.membership.world import World

FAR_DEAD_WITHIN_S = 15.0
LAN_DEAD_WITHIN_S = 5.0
IDLE_BYTES_PER_S_MAX = 1000.0
"""Sent, and as much received: 2 kB/s for an idle node."""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_know_all_soon_and_the_dead_are_missed_soon(seed):
    found = joining(seed, 30)
    assert found.all_see_all_s < 3
    assert found.late_knows_all_s < 2
    assert found.all_know_late_s < 5
    assert found.crash_known_s < 5
    assert found.vanished_known_s < 10


@pytest.mark.parametrize("size", [2, 10, 60])
def test_an_idle_node_says_little(size):
    traffic = idle_traffic(1, size)
    assert traffic.sent_mean < IDLE_BYTES_PER_S_MAX
    assert traffic.received_mean < IDLE_BYTES_PER_S_MAX


@pytest.mark.slow
def test_an_idle_node_says_little_in_a_swarm_of_hundreds():
    traffic = idle_traffic(1, 200, settle_s=120)
    assert traffic.sent_mean < IDLE_BYTES_PER_S_MAX
    assert traffic.sent_max < 3 * IDLE_BYTES_PER_S_MAX


def test_in_a_swarm_larger_than_its_table_a_node_says_little_and_its_table_goes_on_changing():
    world = World(1, members_max=24)
    nodes = settled_swarm(world, 72)
    world.run(60)
    before = {member.peer for member in nodes[0].machine.members()}
    traffic = traffic_of(world, nodes, 90)
    assert traffic.sent_max < IDLE_BYTES_PER_S_MAX
    after = {member.peer for member in nodes[0].machine.members()}
    assert len(before) == len(after) == 24
    assert 3 < len(after - before) < 22


def test_a_newcomer_to_a_swarm_of_hundreds_knows_it_soon_and_is_told_what_it_lacks_alone():
    """It reads the table of one, and of the other fifteen learns that they know the same."""
    world = World(1)
    nodes = settled_swarm(world, 200)
    world.run(3)
    late = world.join(nodes[0].peer)
    assert world.run_until(lambda: knows(late) == 200, 2) <= 2
    world.run(5)
    adverts = sum(len(node.advert[1]) for node in nodes)
    print(
        f"{late.bytes_received} B received, of which {adverts} are adverts; sent {late.bytes_sent} B: {late.messages}"
    )
    assert late.bytes_received < 2.2 * adverts
    assert 3 <= late.messages["PageWanted"] <= 5


@pytest.mark.slow
def test_an_idle_node_says_little_in_a_crowd_of_a_hundred_thousand():
    traffic = idle_traffic_in_a_crowd(1, 100_000, real=20, settle_s=900)
    assert traffic.sent_mean < IDLE_BYTES_PER_S_MAX
    assert traffic.received_mean < IDLE_BYTES_PER_S_MAX


@pytest.mark.slow
def test_lost_packets_bury_nobody():
    assert false_alarms(1, 30, 0.5).buried == 0


@pytest.mark.parametrize(("latency_s", "within_s"), [(0.002, LAN_DEAD_WITHIN_S), (0.1, FAR_DEAD_WITHIN_S)])
def test_where_packets_are_lost_the_dead_are_missed_in_time(latency_s, within_s):
    found = misses(1, 30, 3, latency_s=latency_s)
    assert found.killed_max_s < within_s
    assert found.vanished_max_s < FAR_DEAD_WITHIN_S


def test_what_was_not_seen_bounds_the_rate_as_the_tables_of_poisson_say():
    assert [round(poisson_upper(seen), 2) for seen in (0, 1, 2, 10)] == [3.0, 4.74, 6.3, 16.96]


def test_two_halves_find_each_other_when_the_network_heals():
    world = World(4)
    nodes = swarm_of(world, 12)
    world.run(10)
    half = {node.peer for node in nodes[:6]}
    world.cut = lambda here, there: (here in half) != (there in half)
    world.run(60)
    assert {knows(node) for node in nodes} == {5}
    assert {knows(node, "dead") for node in nodes} == {6}
    world.cut = lambda here, there: False
    healed_s = world.run_until(lambda: {knows(node) for node in nodes} == {11}, 60)
    assert healed_s < 45
    for node in nodes:
        node.machine.check()


def test_a_swarm_outlives_the_one_that_everybody_joined_by():
    world = World(5)
    first = world.join()
    nodes = [world.join(first.peer) for _ in range(19)]
    world.run(10)
    world.vanish(first)
    world.run(20)
    late = world.join(nodes[7].peer)
    world.run_until(lambda: knows(late) == 19, 5)
    assert all(node.machine.member(first.peer).state == "dead" for node in nodes)


def test_one_who_suspects_everybody_does_not_delay_the_news_of_a_death():
    world = World(6)
    nodes = settled_swarm(world, 40)
    liar, others = nodes[0], nodes[1:]

    def lie() -> None:
        said = [known(node.peer, 1, node.sequence, "suspect", node.peer) for node in others]
        for peer in list(liar.connected):
            for start in range(0, len(said), NEWS_PER_MESSAGE_MAX):
                world.post(world.nodes[peer], Heard(liar.peer, News(tuple(said[start : start + NEWS_PER_MESSAGE_MAX]))))
        world.at(world.now_s + 5.0, lie)

    lie()
    world.run(60)
    lost = next(node for node in others if node.peer not in liar.connected)
    world.crash(lost)
    told = [node for node in others if node is not lost]
    world.run_until(lambda: all(node.machine.member(lost.peer).state == "dead" for node in told), LAN_DEAD_WITHIN_S)
    assert {whom for _, _, whom in world.deaths} == {lost.peer}, "nobody else was called dead"
