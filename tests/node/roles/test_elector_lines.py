"""Requests to electors: each is answered once, or said to be lost; no elector can hold anything up."""

import pytest
import trio
import trio.testing
from role_world import SWARM
from wires import Wires

from peerinfer.ids import JobId
from peerinfer.lease_messages import JOURNAL_REVISION, LeaseRefused, LeaseWanted, Prepare, Promise
from peerinfer.messages import PROTOCOL_VERSION, Goodbye, Hello, Term
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.log import Log
from peerinfer_node.roles.elector_lines import IDLE_S, OPEN_TIMEOUT_S, REQUESTS_WAITING_MAX, ElectorLines

OWN, ADA, BOB = (MemoryKeys(name) for name in (b"own", b"ada", b"bob"))
JOB, OTHER = JobId("1" * 32), JobId("2" * 32)
ANSWER_S = 0.7


class World:
    def __init__(self, nursery):
        self.nursery = nursery
        self.wires = Wires(nursery, OWN.peer_id)
        self.replies = []
        self.log = Log()
        self.lines = ElectorLines(network=self.wires, log=self.log, swarm=SWARM, on_reply=self._note_reply)

    def _note_reply(self, job, elector, reply):
        self.replies.append((job, elector, None if reply is None else reply.nonce))

    def ask(self, nonce, *, elector=ADA, job=JOB):
        self.lines.ask(self.nursery, elector.peer_id, job, Prepare(job, 0, Term(1, OWN.peer_id), nonce), ANSWER_S)

    async def settle(self):
        await trio.testing.wait_all_tasks_blocked()
        replies, self.replies = self.replies, []
        return replies


@pytest.fixture
async def world(nursery):
    return World(nursery)


def refusal(nonce, job=JOB):
    return LeaseRefused(job, nonce, "stale", "no", Term(0, ""))


async def test_requests_share_one_stream_and_are_answered_in_order(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    for nonce in (1, 2, 3):
        world.ask(nonce, job=OTHER if nonce == 2 else JOB)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    for _ in range(3):
        wanted = await side.hear(Prepare)
        await side.say(refusal(wanted.nonce, wanted.job))
    assert await world.settle() == [(JOB, ADA.peer_id, 1), (OTHER, ADA.peer_id, 2), (JOB, ADA.peer_id, 3)]
    world.ask(4)
    assert (await side.hear(Prepare)).nonce == 4
    assert world.wires.opened == [ADA.peer_id]


async def test_an_elector_that_cannot_be_reached_loses_what_was_asked(autojump_clock, world):
    world.ask(1)
    world.ask(2)
    assert await world.settle() == [(JOB, ADA.peer_id, None)] * 2


async def test_an_elector_that_comes_back_is_asked_again(autojump_clock, world):
    world.ask(1)
    assert await world.settle() == [(JOB, ADA.peer_id, None)]
    streams = world.wires.by_hand(ADA)
    world.ask(2)
    with trio.fail_after(5):
        side = await streams.receive()
        await side.greet(revision=JOURNAL_REVISION)
        await side.say(refusal((await side.hear(Prepare)).nonce))
    assert await world.settle() == [(JOB, ADA.peer_id, 2)]


async def test_an_elector_that_does_not_greet_is_given_up(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    side = await streams.receive()
    began_s = trio.current_time()
    with trio.fail_after(OPEN_TIMEOUT_S + 1):
        await side.hear_end()
    assert trio.current_time() - began_s <= OPEN_TIMEOUT_S + 0.1
    assert await world.settle() == [(JOB, ADA.peer_id, None)]


async def test_an_elector_of_another_swarm_is_not_talked_to(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    side = await streams.receive()
    await side.say(Hello(1, "test", "another swarm"))
    await side.hear_end()
    assert await world.settle() == [(JOB, ADA.peer_id, None)]


async def test_an_elector_that_does_not_answer_in_time_loses_all_that_was_asked(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    began_s = trio.current_time()
    world.ask(2)
    await side.hear(Prepare)
    await side.hear(Prepare)
    await side.hear_end()
    assert trio.current_time() - began_s == pytest.approx(ANSWER_S, abs=0.1)
    assert await world.settle() == [(JOB, ADA.peer_id, None)] * 2


async def test_one_that_answers_late_again_and_again_is_not_waited_for_longer(autojump_clock, world):
    """The time runs from the oldest request, however many come after it."""
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    with trio.move_on_after(2 * ANSWER_S) as patience:
        for nonce in range(2, 100):
            world.ask(nonce)
            await trio.sleep(0.1)
            if (JOB, ADA.peer_id, None) in world.replies:
                break
    assert not patience.cancelled_caught


async def test_a_silent_elector_holds_no_other_up(autojump_clock, world):
    silent, streams = world.wires.by_hand(ADA), world.wires.by_hand(BOB)
    world.ask(1, elector=ADA)
    world.ask(1, elector=BOB)
    await silent.receive()
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    await side.hear(Prepare)
    await side.say(refusal(1))
    assert await world.settle() == [(JOB, BOB.peer_id, 1)]


async def test_an_answer_that_nobody_asked_for_ends_the_stream(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    await side.hear(Prepare)
    await side.say(refusal(1))
    await side.say(Promise(JOB, 0, Term(9, OWN.peer_id), 1, Term(0, ""), 0))
    await side.hear_end()
    assert await world.settle() == [(JOB, ADA.peer_id, 1)]


@pytest.mark.parametrize(
    "message", [LeaseWanted(JOB, 0, Term(1, "x"), 1, 3.0), Hello(1, "again", SWARM)], ids=["a request", "a greeting"]
)
async def test_what_is_no_answer_ends_the_stream(autojump_clock, world, message):
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    await side.hear(Prepare)
    await side.say(message)
    await side.hear_end()
    assert await world.settle() == [(JOB, ADA.peer_id, None)]


async def test_an_elector_that_closes_loses_what_was_not_answered(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    world.ask(2)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    await side.hear(Prepare)
    await side.say(refusal(1))
    await side.hear(Prepare)
    await side.close()
    assert await world.settle() == [(JOB, ADA.peer_id, 1), (JOB, ADA.peer_id, None)]


async def test_no_more_requests_wait_than_the_limit(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    for nonce in range(REQUESTS_WAITING_MAX + 3):
        world.ask(nonce)
    assert world.replies == [(JOB, ADA.peer_id, None)] * 3
    await streams.receive()


async def test_a_line_that_nobody_uses_is_closed_and_opened_anew(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    world.ask(1)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    await side.hear(Prepare)
    await side.say(refusal(1))
    began_s = trio.current_time()
    await side.hear_end()
    assert trio.current_time() - began_s == pytest.approx(IDLE_S, abs=1)
    await trio.testing.wait_all_tasks_blocked()
    assert world.lines._lines == {}
    world.ask(2)
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    assert (await side.hear(Prepare)).nonce == 2


async def test_an_elector_of_an_older_version_is_told_so_and_named_in_one_line(autojump_clock, world):
    streams = world.wires.by_hand(ADA)
    for nonce in (1, 2):
        world.ask(nonce)
        side = await streams.receive()
        await side.say(Hello(PROTOCOL_VERSION, "peerinfer/0.0.9", SWARM, JOURNAL_REVISION - 1))
        assert (await side.hear(Goodbye)).reason.endswith(f"this needs {JOURNAL_REVISION}; upgrade the older one")
        assert await world.settle() == [(JOB, ADA.peer_id, None)]
        await trio.sleep(1)
    (line,) = world.log.recent
    assert (line["level"], line["event"], line["peer"]) == ("warning", "elector cannot be used", ADA.peer_id)
    spoken = f"speaks revision {JOURNAL_REVISION - 1} of the protocol, and this needs {JOURNAL_REVISION}"
    assert line["reason"] == f"{ADA.peer_id} {spoken}; upgrade the older one"
    world.ask(3)  # upgraded meanwhile
    side = await streams.receive()
    await side.greet(revision=JOURNAL_REVISION)
    assert (await side.hear(Prepare)).nonce == 3
