"""Hearing of peers from peers: whatever they say, this node checks it, keeps up and goes on."""

import random

import pytest
import trio
import trio.testing
from role_world import SWARM, Side

from peerinfer.envelope import seal, unseal
from peerinfer.errors import DecodeError, DialFailed, UsageError
from peerinfer.member_messages import Adverts, Probe
from peerinfer.membership import Membership
from peerinfer.messages import Advert, Cancel
from peerinfer.spread_messages import Statement, Statements, StatementsHeld, StatementsWanted
from peerinfer.spreading import OWN_BURST, digest_of
from peerinfer_node.clock import SystemClock
from peerinfer_node.driver import EVENTS_OF_PEERS_MAX
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.network.loopback import stream_pair
from peerinfer_node.ports import PeerConnected
from peerinfer_node.roles.members import STREAMS_PER_PEER_MAX, MembersRole

OWN = MemoryKeys(b"own")


class Neighbourhood:
    """A network in which nobody can be dialled: peers come by themselves."""

    def __init__(self):
        self.peer_id = OWN.peer_id
        self.here, self.happenings = trio.open_memory_channel(100)
        self.dialled = []
        self.opened = []

    def connected(self):
        return []

    def path(self, peer):
        return "direct"

    async def events(self):
        async for event in self.happenings:
            yield event

    async def dial(self, address):
        self.dialled.append(address)
        raise DialFailed(f"{address} does not answer")

    async def open_stream(self, peer, protocol):
        ours, theirs = stream_pair(OWN.peer_id, peer)
        self.opened.append(Side(MemoryKeys(b"?"), theirs))
        return ours

    async def disconnect(self, peer):
        pass


class World:
    def __init__(self, nursery):
        self.nursery = nursery
        self.network = Neighbourhood()
        self.clock = SystemClock()
        self.changed = []
        self.role = MembersRole(
            machine=Membership(OWN.peer_id, random.Random(1)),
            rng=random.Random(2),
            network=self.network,
            clock=self.clock,
            log=Log(),
            swarm=SWARM,
            on_change=self.changed.append,
        )

    async def neighbour(self, name, *, greets=True):
        keys = MemoryKeys(name.encode())
        ours, theirs = stream_pair(keys.peer_id, OWN.peer_id)
        self.nursery.start_soon(self.role.serve, theirs)
        side = Side(keys, ours)
        if greets:
            await side.greet()
        return side

    def advert(self, keys, *, sequence=1, **changes):
        values = {
            "incarnation": 1,
            "sequence": sequence,
            "issued_at_s": self.clock.wall_s(),
            "name": "a node",
            "agent": "test",
            "addresses": (),
            "state": "running",
            "reasons": (),
            "devices": (),
            "models": (),
            "sandbox": "none",
        }
        return seal(Advert(**(values | changes)), keys.peer_id, keys.sign)

    def known(self, keys):
        member = self.role.machine.member(keys.peer_id)
        return None if member is None else member.advert


@pytest.fixture(name="world")
async def running_world(nursery):
    made = World(nursery)
    nursery.start_soon(made.role.run)
    await trio.testing.wait_all_tasks_blocked()
    yield made
    made.role.machine.check()


async def settle():
    await trio.testing.wait_all_tasks_blocked()


async def test_what_a_peer_tells_of_others_is_known_here(world):
    side = await world.neighbour("ada")
    friend = MemoryKeys(b"friend")
    await side.say(Adverts((world.advert(side.keys), world.advert(friend, name="friend"))))
    await settle()
    assert world.known(friend).name == "friend"
    assert {side.keys.peer_id, friend.peer_id} <= set(world.changed)
    await side.close()


async def test_a_forged_advert_is_not_believed_and_costs_its_bearer_the_stream(world):
    side = await world.neighbour("ada")
    friend = MemoryKeys(b"friend")
    forged = bytearray(world.advert(friend))
    forged[-1] ^= 1
    await side.say(Adverts((bytes(forged),)))
    assert "is not" in await side.hear_end()
    assert world.known(friend) is None


async def test_an_advert_in_another_name_is_not_believed(world):
    friend = MemoryKeys(b"friend")
    ada = MemoryKeys(b"ada")
    advert = seal(Advert(1, 1, 0.0, "x", "x", (), "running", (), (), (), "none"), friend.peer_id, ada.sign)
    with pytest.raises(DecodeError):
        world.role.hear(advert)


@pytest.mark.parametrize("said", [b"\xff" * 64, b"\x03\x00abc", b"\x80" * 20])
@pytest.mark.parametrize("greets", [True, False])
async def test_garbage_ends_the_stream_and_nothing_else(world, said, greets, autojump_clock):
    side = await world.neighbour("ada", greets=greets)
    await side.raw.write(said)
    await side.hear_end()
    assert world.role._serving == {}
    other = await world.neighbour("ben")
    await other.say(Adverts((world.advert(other.keys),)))
    await settle()
    assert world.known(other.keys) is not None
    await other.close()


async def test_what_has_no_place_here_ends_the_stream(world):
    side = await world.neighbour("ada")
    await side.say(Cancel(1, "x"))
    assert "sent Cancel where" in await side.hear_end()


async def test_no_peer_holds_more_streams_than_it_needs(world):
    sides = [await world.neighbour("ada") for _ in range(STREAMS_PER_PEER_MAX)]
    one_more = await world.neighbour("ada", greets=False)
    assert "was reset" in await one_more.hear_end()
    for side in sides:
        await side.close()
        await side.hear_end()
    assert world.role._serving == {}


async def test_a_neighbour_that_floods_does_not_outrun_the_node(world):
    """Several of them at once, each with as much as one read brings: twenty thousand probes."""
    longest = 0
    sides = [await world.neighbour(name) for name in ("ada", "ben", "cal", "dan", "eve")]
    probe = b"\x03\x00\x92\x20\x01"

    async def watch():
        nonlocal longest
        while True:
            longest = max(longest, len(world.role._driver._events))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        async with trio.open_nursery() as flood:
            for side in sides:
                await side.say(Probe(1))
                flood.start_soon(side.raw.write, probe * 4000)
        await give_turns()
        nursery.cancel_scope.cancel()
    assert longest <= EVENTS_OF_PEERS_MAX + len(sides)
    for side in sides:
        await side.close()


async def give_turns():
    """Others get many turns."""
    for _ in range(5000):
        await trio.lowlevel.checkpoint()


async def test_a_neighbour_that_reads_nothing_holds_nobody_up(world, autojump_clock):
    deaf, listener = MemoryKeys(b"deaf"), MemoryKeys(b"listener")
    for keys in (deaf, listener):
        await world.network.here.send(PeerConnected(keys.peer_id))
    await settle()
    for number in range(200):
        world.role.advertise(world.advert(OWN, sequence=number + 1))
        await settle()
    assert len(world.role._nursery.child_tasks) <= 5, "tasks pile up for a peer that reads nothing"
    world.network.here.close()


# --- statements that spread ------------------------------------------------------------------------------------------


async def met(world, name, *, revision=1):
    """A neighbour: what it says, and what it is told."""
    side = await world.neighbour(name)
    await world.network.here.send(PeerConnected(side.keys.peer_id))
    world.role.advertise(world.advert(OWN))
    await settle()
    told = next(each for each in world.network.opened if each.raw.peer == OWN.peer_id)
    await told.greet(revision=revision)
    return side, told


def accept(role, seen):
    def take(signed):
        seen.append(unseal(Advert, signed)[0])
        return role._clock.wall_s() + 3600

    role.statements.accept("test", take)


async def test_a_statement_is_asked_for_then_checked_and_held(world):
    seen = []
    accept(world.role, seen)
    ada, told = await met(world, "ada")
    author = MemoryKeys(b"author")
    signed = world.advert(author)
    await ada.say(Statements((Statement("test", signed),)))  # nobody asked for it
    await settle()
    assert not seen
    await ada.say(StatementsHeld((digest_of("test", signed),)))
    assert (await told.hear(StatementsWanted)).digests == (digest_of("test", signed),)
    await ada.say(Statements((Statement("test", signed),)))
    await settle()
    assert seen == [author.peer_id]
    assert [each.signed for each in world.role.statements.machine.snapshot()] == [signed]


async def test_a_forged_statement_costs_its_bearer_the_stream(world):
    accept(world.role, [])
    ada, told = await met(world, "ada")
    signed = world.advert(MemoryKeys(b"author"))
    forged = signed[:-1] + bytes([signed[-1] ^ 1])
    await ada.say(StatementsHeld((digest_of("test", forged),)))
    await told.hear(StatementsWanted)
    await ada.say(Statements((Statement("test", forged),)))
    assert "is not" in await ada.hear_end()
    assert not world.role.statements.machine.snapshot()


async def test_a_kind_that_nobody_here_knows_is_not_passed_on(world):
    ada, told = await met(world, "ada")
    await ada.say(StatementsHeld((digest_of("later", b"?"),)))
    await told.hear(StatementsWanted)
    await ada.say(Statements((Statement("later", b"?"),)))
    await settle()
    assert not world.role.statements.machine.snapshot()
    with pytest.raises(UsageError):
        world.role.statements.spread("later", b"?", 1e12)


@pytest.mark.parametrize("revision", [0, 1])
async def test_an_older_peer_is_told_nothing_that_it_does_not_know(world, autojump_clock, revision):
    accept(world.role, [])
    _, told = await met(world, "ada", revision=revision)
    signed = world.advert(OWN)
    assert world.role.statements.spread("test", signed, world.clock.wall_s() + 60)
    with trio.move_on_after(50) as scope:
        assert (await told.hear(StatementsHeld)).digests == (digest_of("test", signed),)
    assert scope.cancelled_caught == (revision == 0)


async def test_a_node_that_says_too_much_is_told_to_wait(world):
    accept(world.role, [])
    until_s = world.clock.wall_s() + 60
    said = [world.role.statements.spread("test", world.advert(OWN), until_s) for _ in range(OWN_BURST + 5)]
    assert said == [True] * OWN_BURST + [False] * 5
