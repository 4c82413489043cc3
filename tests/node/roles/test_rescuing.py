"""The owner's way out of a lost quorum, role by role: real electors and candidates over loopback streams."""

import random
import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import trio
from lease_setting import PEERS, Setting, keys
from role_world import OUTPUT, SWARM, WIDTH
from wires import Wires

from peerinfer.codec import encode
from peerinfer.control import JobRequest
from peerinfer.envelope import seal
from peerinfer.errors import PeerinferError, UsageError
from peerinfer.lease_messages import (
    JOURNAL_REVISION,
    Generation,
    JournalWanted,
    LeaseRefused,
    LeaseWanted,
    Prepare,
    SeatOffered,
    SeatTaken,
)
from peerinfer.lease_profile import LAN
from peerinfer.limits import EPOCHS_MAX
from peerinfer.manifests import open_manifest
from peerinfer.messages import RecordGroup, ResultRecord, Term
from peerinfer.register import Entry
from peerinfer.tensors import FREE, Port, TensorSpec
from peerinfer_node.log import Log
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import JobRow
from peerinfer_node.record_rows import RecordRow
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.live_job import LiveJob
from peerinfer_node.roles.rescuing import ANSWER_S, JOURNAL_S, Rescuing, generation_key
from peerinfer_node.roles.result_digests import digest_of_rows
from peerinfer_node.roles.result_records import OpenRecord
from peerinfer_node.seat_store import MemorySeatStore

OWNER = 7
NODES = (0, 1, 2, 3, 4, 5, OWNER)
"""0 to 2 elect; 3 to 5 are there to be chosen."""


class Clock:
    """Trio's, for everything."""

    now_s = wall_s = holder_s = elector_s = staticmethod(trio.current_time)


class Owned(Setting):
    def __init__(self):
        super().__init__()
        ports = {"inputs": (Port("x", "float32", (FREE, WIDTH)),), "outputs": (OUTPUT,)}
        made = replace(self.manifest, **ports, given=(TensorSpec("x", "float32", (self.manifest.items, WIDTH)),))
        self.signed = seal(made, PEERS[OWNER], keys(OWNER).sign)
        self.job, self.manifest = open_manifest(self.signed)


JOB = Owned()


def record(task):
    rows = np.full((1, WIDTH), task, np.float32)
    header = encode(
        ResultRecord(PEERS[6], 1, (RecordGroup((task,), (1,), (TensorSpec("y", "float32", rows.shape),)),), b"")
    )
    return struct.pack("<I", len(header)) + header + rows.tobytes()


def entry(task):
    return Entry(task, digest_of_rows(OpenRecord(record(task)).rows(task)), PEERS[6])


def word(*, signer=OWNER, **changed):
    made = replace(Generation(JOB.job, 1, (PEERS[3], PEERS[4], PEERS[5]), tuple(PEERS[:3]), 0.0), **changed)
    return seal(made, PEERS[signer], keys(signer).sign)


class World:
    def __init__(self, nursery):
        self.nursery = nursery
        self.wires = {number: Wires(nursery, PEERS[number]) for number in NODES}
        self.elections = {
            number: Elections(
                keys=keys(number),
                seats=MemorySeatStore(),
                network=self.wires[number],
                clock=Clock(),
                log=Log(),
                swarm=SWARM,
                rng=random.Random(number),
            )
            for number in NODES
        }
        self.store = MemoryStore()
        self.fetched = []
        self.live = LiveJob(JOB.job, JOB.manifest, JOB.signed, JobRequest("-", ("-",)), 0.0)
        self.proposed = []
        self.rescuing = Rescuing(
            keys=keys(OWNER),
            network=self.wires[OWNER],
            store=self.store,
            clock=Clock(),
            elections=self.elections[OWNER],
            coordinating=self,
            propose=self._propose,
            stand=lambda live: self.stand(OWNER),
            log=Log(),
            swarm=SWARM,
        )

    async def begin(self):
        await self.store.add_job(JobRow(JOB.job, JOB.signed, "{}", "running", 0.0, None, "{}"))
        for elections in self.elections.values():
            await self.nursery.start(elections.run)
        for number in NODES:
            self.connect(number)
        self.stand(OWNER)
        await self.wait(lambda: self.live.body)
        # What a quorum has acknowledged; of task 3 the owner has no outputs.
        self.elections[OWNER].write(JOB.job, tuple(entry(task) for task in (1, 2, 3)), now=True)
        for task in (1, 2):
            offset = await self.store.append_results(JOB.job, [record(task)])
            await self.store.add_record(RecordRow(JOB.job, offset, (task,), frame=1, peer=PEERS[6], receipt=b""))
        await self.wait(lambda: all(len(self.chain(number)) == 2 for number in (0, 1, 2)))

    def chain(self, number):
        return self.elections[number].elector.chain(JOB.job) or ()

    def connect(self, number):
        """It can be reached, and reaches others."""
        for other in NODES:
            if other != number:
                self.wires[other].connect(PEERS[number], self.elections[number].own_elector.serve)

    async def lose(self, *numbers):
        for wires in self.wires.values():
            for number in numbers:
                wires.lose(PEERS[number])
            await wires.break_streams()

    async def by_hand(self, number):
        await self.lose(number)
        return self.wires[OWNER].by_hand(keys(number))

    def stand(self, number):
        def won(term):
            self.live.body = "at work"
            self.live.note_change()

        def lost(reason):
            self.live.body = None
            self.live.note_change()

        self.elections[number].stand(
            JOB.job,
            JOB.signed,
            campaign=True,
            on_won=won,
            on_lost=lost,
            on_committed=lambda batches: None,
            on_over=lambda chain: None,
        )

    def _propose(self, seed, request, without=()):
        self.proposed.append(tuple(without))
        return tuple(peer for peer in PEERS[:6] if peer not in without)[-3:], LAN

    async def fetch(self, job, manifest, tasks, is_true=None, *, peers=None):
        """Stands for what brings results home: there are none but those that are here."""
        self.fetched.append((tuple(tasks), tuple(peers)))

    async def wait(self, is_so):
        with trio.fail_after(60):
            while not is_so():  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def lost_quorum(self, *numbers):
        """These are gone, and the owner's lease with them."""
        await self.lose(*numbers)
        await self.wait(lambda: self.live.body is None)

    async def rescue(self, *, confirmed=True):
        return await self.rescuing.rescue(self.live, confirmed=confirmed)

    async def ask(self, number, request, *, peer=OWNER):
        return await self.elections[number].own_elector.answer(PEERS[peer], request)


@pytest.fixture
async def world(nursery):
    made = World(nursery)
    await made.begin()
    yield made
    nursery.cancel_scope.cancel()


async def test_while_a_quorum_answers_there_is_nothing_to_rescue(autojump_clock, world):
    await world.lose(0)
    with pytest.raises(UsageError, match="needs no rescue: 2 of 3 electors answer, 2 are needed"):
        await world.rescue()
    assert await world.store.setting(generation_key(JOB.job)) is None


async def test_without_its_word_nothing_is_begun(autojump_clock, world):
    await world.lost_quorum(0, 1)
    plan = await world.rescue(confirmed=False)
    assert (plan["missing"], plan["named"], plan["state"]) == ([PEERS[0], PEERS[1]], 3, "paused")
    assert await world.store.setting(generation_key(JOB.job)) is None
    assert world.elections[2].elector.changes(JOB.job) == ()
    assert world.proposed == [(PEERS[0], PEERS[1])]


async def test_what_is_named_and_at_hand_is_carried_and_those_that_come_back_are_fenced(autojump_clock, world):
    await world.lost_quorum(0, 1)
    begun = await world.rescue()
    assert (begun["generation"], begun["named"], begun["carried"], begun["state"]) == (1, 3, 2, "running")
    assert world.fetched == [((1, 2, 3), (PEERS[2],))], "it is asked of whoever is left"
    assert [one.task for one in world.live.carried] == [1, 2]
    for number in (0, 1):
        assert len(world.chain(number)) == 2
        world.connect(number)
    await world.wait(lambda: all(world.elections[number].elector.changes(JOB.job) for number in (0, 1)))
    for number in (0, 1):
        refusal = await world.ask(number, Prepare(JOB.job, 0, Term(99, PEERS[0]), 1), peer=0)
        assert refusal.kind == "sealed"
        assert len(world.chain(number)) == 0


async def test_a_job_that_ends_while_its_electors_are_asked_for_results_is_not_begun_again(autojump_clock, world):
    await world.lost_quorum(0, 1)

    async def ends(*args, **keywords):
        world.live.is_over = True

    world.fetch = ends
    with pytest.raises(UsageError, match="has ended meanwhile"):
        await world.rescue()
    assert await world.store.setting(generation_key(JOB.job)) is None


async def test_an_elector_that_greets_and_says_nothing_counts_as_missing(autojump_clock, world):
    streams = await world.by_hand(1)
    await world.lost_quorum(0)

    async def greet_only():
        while True:
            side = await streams.receive()
            await side.greet(revision=JOURNAL_REVISION)

    world.nursery.start_soon(greet_only)
    began_s = trio.current_time()
    plan = await world.rescue(confirmed=False)
    assert plan["missing"] == [PEERS[0], PEERS[1]]
    assert trio.current_time() - began_s == pytest.approx(ANSWER_S, abs=1.0)


async def test_an_elector_of_an_older_version_counts_as_missing(autojump_clock, world):
    """It answers, and would refuse every candidate of today: a job that waits for it waits for ever."""
    streams = await world.by_hand(1)
    await world.lost_quorum(0)

    async def refuse():
        while True:
            side = await streams.receive()
            await side.greet(revision=JOURNAL_REVISION - 1)
            world.nursery.start_soon(answer, side)

    async def answer(side):
        with suppress(EOFError, PeerinferError):
            asked = await side.hear(LeaseWanted)
            await side.say(LeaseRefused(JOB.job, asked.nonce, "denied", "a lease of 0 s", Term(0, "")))

    world.nursery.start_soon(refuse)
    assert (await world.rescue(confirmed=False))["missing"] == [PEERS[0], PEERS[1]]
    assert world.proposed == [(PEERS[0], PEERS[1])]


@pytest.mark.parametrize("kind", ["full", "unknown"])
async def test_an_elector_that_can_promise_nothing_counts_as_missing(autojump_clock, world, kind):
    """Its disk is full, or it has lost what it had promised."""
    streams = await world.by_hand(1)
    await world.lost_quorum(0)

    async def refuse():
        while True:
            side = await streams.receive()
            await side.greet(revision=JOURNAL_REVISION)
            asked = await side.hear(LeaseWanted, SeatOffered)
            is_seat = isinstance(asked, SeatOffered)
            await side.say(LeaseRefused("", 0, "denied" if is_seat else kind, "cannot", Term(0, "")))

    world.nursery.start_soon(refuse)
    assert (await world.rescue(confirmed=False))["missing"] == [PEERS[0], PEERS[1]]


async def test_an_elector_that_answers_and_keeps_its_journal_to_itself_holds_nobody_up_for_ever(autojump_clock, world):
    streams = await world.by_hand(2)
    await world.lost_quorum(0, 1)

    async def half_alive():
        while True:
            side = await streams.receive()
            await side.greet(revision=JOURNAL_REVISION)
            world.nursery.start_soon(answer_probes, side)

    async def answer_probes(side):
        try:
            asked = await side.hear(LeaseWanted, JournalWanted)
            if isinstance(asked, LeaseWanted):
                await side.say(LeaseRefused(JOB.job, asked.nonce, "denied", "a lease of 0 s", Term(0, "")))
        except (EOFError, PeerinferError):
            pass

    world.nursery.start_soon(half_alive)
    began_s = trio.current_time()
    begun = await world.rescue()
    assert JOURNAL_S <= trio.current_time() - began_s < JOURNAL_S + 3 * ANSWER_S
    # What the owner has read as its coordinator is one of the journals that are left.
    assert (begun["generation"], begun["carried"]) == (1, 2)
    assert PEERS[2] in begun["committee"] or begun["committee"] == [PEERS[3], PEERS[4], PEERS[5]]


async def test_only_the_owner_rescues_and_one_at_a_time(autojump_clock, world):
    await world.by_hand(1)  # Nobody answers there, which takes its time.
    await world.lost_quorum(0)
    world.rescuing._own = PEERS[2]
    with pytest.raises(UsageError, match="only who submitted it can rescue it"):
        await world.rescue()
    world.rescuing._own = PEERS[OWNER]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.rescue)
        await trio.sleep(1.0)
        with pytest.raises(UsageError, match="being rescued already"):
            await world.rescue()
    assert world.live.body, "the first one went on"


FORGED = {
    "signed by an elector": word(signer=2),
    "signed by a stranger": word(signer=6),
    "of another job": word(job="1" * 32),
    "of no generation": word(generation=0),
    "with bytes changed": word()[:-1] + b"\0",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_word_that_is_not_the_owners_moves_neither_electors_nor_the_owner(autojump_clock, world, forged):
    for number in (0, 1, 2, 3):
        refusal = await world.ask(number, SeatOffered(JOB.signed, (forged,)), peer=2)
        assert isinstance(refusal, LeaseRefused)
        assert world.elections[number].elector.changes(JOB.job) == ()
    # Nor where an elector shows it to the owner that looks around.
    streams = await world.by_hand(2)
    await world.lost_quorum(0, 1)

    async def show():
        while True:
            side = await streams.receive()
            await side.greet(revision=JOURNAL_REVISION)
            asked = await side.hear(LeaseWanted, JournalWanted)
            refusal = LeaseRefused(JOB.job, asked.nonce, "sealed", "epoch 0 is over", Term(0, ""))
            await side.say(replace(refusal, changes=(forged,)))

    world.nursery.start_soon(show)
    plan = await world.rescue(confirmed=False)
    assert (plan["generation"], plan["answering"]) == (0, [PEERS[2]])


async def test_a_word_that_is_over_brings_nobody_back(autojump_clock, world):
    """Replayed by whoever kept it, after a second rescue."""
    await world.lost_quorum(0, 1)
    assert (await world.rescue())["generation"] == 1
    (first,) = world.elections[OWNER].known_changes(JOB.job, JOB.manifest)
    committee = [PEERS.index(peer) for peer in world.elections[OWNER].committee(JOB.job, JOB.manifest)]
    await world.lost_quorum(*committee[:2])
    world.connect(0)
    world.connect(1)
    again = await world.rescue()
    assert again["generation"] == 2
    (second,) = world.elections[OWNER].known_changes(JOB.job, JOB.manifest)
    left = committee[2]
    await world.wait(lambda: world.elections[left].elector.changes(JOB.job) == (second,))
    for replayed in ((first,), ()):
        answer = await world.ask(left, SeatOffered(JOB.signed, replayed))
        assert isinstance(answer, SeatTaken | LeaseRefused)
        assert world.elections[left].elector.changes(JOB.job) == (second,)
    refusal = await world.ask(left, Prepare(JOB.job, EPOCHS_MAX, Term(99 + (1 << 24), PEERS[left]), 1), peer=left)
    assert (refusal.kind, refusal.changes) == ("sealed", (second,))
    world.elections[OWNER].begin_generation(JOB.job, (first,))
    await trio.sleep(1.0)
    assert world.elections[OWNER].seated(JOB.job, JOB.manifest).generation == 2, "the owner's own copy of it neither"
