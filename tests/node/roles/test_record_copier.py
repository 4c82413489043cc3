"""Records on their way to electors: safe when a quorum holds them, whatever the other electors do."""

import pytest
import trio
import trio.testing
from role_world import SWARM
from wires import Wires

from peerinfer.committees import Seated
from peerinfer.errors import PeerinferError
from peerinfer.ids import JobId
from peerinfer.messages import KeepAlive, Term
from peerinfer.replica_messages import RecordCopy, RecordHeld, RecordsEnd, ReplicaRefused
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.roles.record_copier import COPY_AGAIN_MAX_S, COPY_AGAIN_S, UNACKNOWLEDGED_MAX, RecordCopier
from peerinfer_node.roles.replicas import ANSWER_TIMEOUT_S, NO_COPY_YET, Replicas

OWN, ADA, BOB = (MemoryKeys(name) for name in (b"own", b"ada", b"bob"))
JOB = JobId("1" * 32)
TERM = Term(3, OWN.peer_id)


class World:
    def __init__(self, nursery, committee=(OWN, ADA, BOB)):
        self.nursery = nursery
        self.wires = Wires(nursery, OWN.peer_id)
        replicas = Replicas(
            own=OWN.peer_id,
            network=self.wires,
            store=MemoryStore(),
            blobs=MemoryBlobStore(),
            fetch_blob=None,
            elector=None,
            log=Log(),
            swarm=SWARM,
        )
        seated = Seated(0, tuple(keys.peer_id for keys in committee), 0)
        self.copier = RecordCopier(replicas, JOB, seated, TERM, OWN.peer_id, Log())
        nursery.start_soon(self.copier.run)
        self.safe = []

    def copy(self, *numbers):
        for number in numbers:
            self.nursery.start_soon(self._copy, number)

    async def _copy(self, number):
        await self.copier.copy(number, [b"record ", str(number).encode()], (number,))
        self.safe.append(number)

    async def settled(self):
        await trio.testing.wait_all_tasks_blocked()
        return sorted(self.safe)


@pytest.fixture
async def world(nursery):
    return World(nursery)


async def elector(streams):
    side = await streams.receive()
    await side.greet()
    return side


async def test_a_record_is_safe_when_a_quorum_holds_it(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(7)
    side = await elector(streams)
    assert await side.hear(RecordCopy) == RecordCopy(JOB, TERM, 7, (7,))
    assert side.body == b"record 7"
    assert await world.settled() == []
    await side.say(RecordHeld(JOB, 7))
    assert await world.settled() == [7]


async def test_without_a_seat_of_its_own_the_holder_needs_two_others(autojump_clock, nursery):
    world = World(nursery, (MemoryKeys(b"cyd"), ADA, BOB))
    first, second = world.wires.by_hand(ADA), world.wires.by_hand(BOB)
    world.copy(1)
    ada, bob = await elector(first), await elector(second)
    await ada.say(RecordHeld(JOB, (await ada.hear(RecordCopy)).number))
    assert await world.settled() == []
    await bob.say(RecordHeld(JOB, (await bob.hear(RecordCopy)).number))
    assert await world.settled() == [1]


async def test_a_committee_of_one_copies_nothing(autojump_clock, nursery):
    world = World(nursery, (OWN,))
    world.copy(1)
    assert await world.settled() == [1]
    assert world.wires.opened == []


async def test_records_share_a_stream_and_do_not_wait_for_each_other(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(1, 2, 3)
    side = await elector(streams)
    assert sorted([(await side.hear(RecordCopy)).number for _ in range(3)]) == [1, 2, 3]
    await side.say(RecordHeld(JOB, 2))
    assert await world.settled() == [2]
    assert world.wires.opened.count(ADA.peer_id) == 1


async def test_no_more_records_are_on_their_way_than_the_limit(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(*range(UNACKNOWLEDGED_MAX + 1))
    side = await elector(streams)
    sent = [(await side.hear(RecordCopy)).number for _ in range(UNACKNOWLEDGED_MAX)]
    with trio.move_on_after(1) as nothing_more:
        await side.hear(RecordCopy)
    assert nothing_more.cancelled_caught
    await side.say(RecordHeld(JOB, sent[0]))
    assert (await side.hear(RecordCopy)).number not in sent


async def test_what_was_not_acknowledged_is_sent_again_over_a_new_stream(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(1, 2)
    side = await elector(streams)
    for _ in range(2):
        await side.hear(RecordCopy)
    await side.say(RecordHeld(JOB, 1))
    assert await world.settled() == [1]
    await world.wires.break_streams()
    side = await elector(streams)
    assert (await side.hear(RecordCopy)).number == 2
    await side.say(RecordHeld(JOB, 2))
    assert await world.settled() == [1, 2]


@pytest.mark.parametrize(
    "answer",
    [ReplicaRefused(JOB, "the disk is full"), RecordHeld(JOB, 99), RecordsEnd(JOB), KeepAlive()],
    ids=["a refusal", "of another record", "of something else", "a sign of life"],
)
async def test_an_elector_that_answers_otherwise_is_tried_again_and_holds_nobody_up(autojump_clock, world, answer):
    first, second = world.wires.by_hand(ADA), world.wires.by_hand(BOB)
    world.copy(1)
    ada, bob = await elector(first), await elector(second)
    await ada.hear(RecordCopy)
    await ada.say(answer)
    await ada.hear_end()
    again = await elector(first)
    assert (await again.hear(RecordCopy)).number == 1
    assert await world.settled() == []
    await bob.hear(RecordCopy)
    await bob.say(RecordHeld(JOB, 1))
    assert await world.settled() == [1]


async def test_an_elector_that_goes_on_refusing_is_left_alone_longer_each_time_up_to_a_bound(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    waits = []
    world.copy(1)
    side = await elector(streams)
    while len(waits) < 10:
        await side.hear(RecordCopy)
        await side.say(ReplicaRefused(JOB, "no room"))
        refused_s = trio.current_time()
        side = await elector(streams)
        waits.append(trio.current_time() - refused_s)
    assert waits == pytest.approx([min(COPY_AGAIN_S * 2**n, COPY_AGAIN_MAX_S) for n in range(10)], abs=0.1)
    assert waits[-1] == pytest.approx(COPY_AGAIN_MAX_S, abs=0.1)
    await side.hear(RecordCopy)
    await side.say(RecordHeld(JOB, 1))
    assert await world.settled() == [1]
    world.copy(2)
    await side.hear(RecordCopy)
    await side.say(ReplicaRefused(JOB, "no room"))
    refused_s = trio.current_time()
    await elector(streams)
    assert trio.current_time() - refused_s == pytest.approx(COPY_AGAIN_S, abs=0.1), "it took one meanwhile"


async def test_an_elector_whose_copy_of_the_job_is_on_its_way_is_not_told_of(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(1)
    told = []
    while not told or not told[-1]:
        side = await elector(streams)
        await side.hear(RecordCopy)
        await side.say(ReplicaRefused(JOB, NO_COPY_YET))
        await side.hear_end()
        told.append(world.copier.refused.get(ADA.peer_id, ""))
    assert told[:3] == ["", "", ""]
    assert told[-1] == NO_COPY_YET
    assert len(told) < 6, "but one that never gets its copy is"


async def test_an_elector_that_has_refused_is_sent_one_record_until_it_takes_that(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(*range(UNACKNOWLEDGED_MAX))
    side = await elector(streams)
    for _ in range(3):
        await side.hear(RecordCopy)
        await side.say(ReplicaRefused(JOB, "no room"))
        side = await elector(streams)
    first = (await side.hear(RecordCopy)).number
    with trio.move_on_after(1) as nothing_more:
        await side.hear(RecordCopy)
    assert nothing_more.cancelled_caught
    await side.say(RecordHeld(JOB, first))
    rest = [(await side.hear(RecordCopy)).number for _ in range(UNACKNOWLEDGED_MAX - 1)]
    assert sorted([first, *rest]) == list(range(UNACKNOWLEDGED_MAX))


async def test_an_elector_that_cannot_be_reached_is_tried_until_it_can(autojump_clock, world):
    world.copy(1)
    await trio.sleep(3)
    assert await world.settled() == []
    side = await elector(world.wires.by_hand(BOB))
    await side.hear(RecordCopy)
    await side.say(RecordHeld(JOB, 1))
    assert await world.settled() == [1]


async def test_a_silent_elector_is_given_up_and_tried_again(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(1)
    side = await elector(streams)
    began_s = trio.current_time()
    await side.hear(RecordCopy)
    await side.hear_end()
    assert trio.current_time() - began_s == pytest.approx(ANSWER_TIMEOUT_S, abs=1)
    assert (await (await elector(streams)).hear(RecordCopy)).number == 1


async def test_a_stream_without_work_is_closed_and_opened_for_the_next_record(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.copy(1)
    side = await elector(streams)
    await side.hear(RecordCopy)
    await side.say(RecordHeld(JOB, 1))
    await side.hear_end()
    opened = len(world.wires.opened)
    await trio.sleep(100)
    assert len(world.wires.opened) == opened, "nothing is to be copied"
    world.copy(2)
    assert (await (await elector(streams)).hear(RecordCopy)).number == 2


async def test_records_that_are_safe_are_not_sent_to_those_who_come_later(autojump_clock, world):
    first = world.wires.by_hand(ADA)
    world.copy(1)
    ada = await elector(first)
    await ada.hear(RecordCopy)
    await ada.say(RecordHeld(JOB, 1))
    assert await world.settled() == [1]
    second = world.wires.by_hand(BOB)
    world.copy(2)
    assert (await (await elector(second)).hear(RecordCopy)).number == 2


async def test_stopping_it_is_no_failure(autojump_clock):
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        streams = world.wires.by_hand(ADA)
        world.copy(1)
        side = await elector(streams)
        await side.hear(RecordCopy)
        nursery.cancel_scope.cancel()
    with pytest.raises((EOFError, PeerinferError)):
        await side.hear(RecordCopy)
