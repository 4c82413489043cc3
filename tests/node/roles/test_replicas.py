"""What an elector keeps for others, and who may have it keep something else, or let go."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import trio
import trio.testing
from lease_setting import LEASE_S, PEERS, Setting, keys, term
from role_world import OUTPUT, SWARM, WIDTH, Side

from peerinfer.codec import encode
from peerinfer.elector import Elector
from peerinfer.elector_events import Asked
from peerinfer.envelope import seal
from peerinfer.errors import LimitExceeded, ProtocolError
from peerinfer.journal import Chain
from peerinfer.lease_messages import Append, Appended, LeaseReleased, LeaseWanted, Prepare, SeatOffered
from peerinfer.limits import BODY_BYTES_MAX
from peerinfer.manifests import open_manifest
from peerinfer.messages import RecordGroup, ResultRecord
from peerinfer.replica_messages import JobAtHome, JobCancelWanted, JobState, RecordCopy, RecordHeld, ReplicaRefused
from peerinfer.tensors import FREE, Port, TensorSpec
from peerinfer_node.log import Log
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.network.loopback import stream_pair
from peerinfer_node.ports import JobRow
from peerinfer_node.roles.replicas import Replicas
from peerinfer_node.roles.result_digests import digest_of_rows
from peerinfer_node.roles.result_records import OpenRecord

SUBMITTER, ELECTOR, HOLDER, RIVAL, STRANGER = 7, 0, 1, 2, 5
TERM = term(4, HOLDER)


class _Job(Setting):
    """As the others, of a model that takes rows and gives some."""

    def __init__(self):
        super().__init__()
        ports = {"inputs": (Port("x", "float32", (FREE, WIDTH)),), "outputs": (OUTPUT,)}
        given = (TensorSpec("x", "float32", (self.manifest.items, WIDTH)),)
        made = replace(self.manifest, **ports, given=given)
        self.signed = seal(made, PEERS[SUBMITTER], keys(SUBMITTER).sign)
        self.job, self.manifest = open_manifest(self.signed)


JOB = _Job()


def record(value, *tasks):
    """Outputs of some tasks, every number of them `value`."""
    rows = np.full((len(tasks), WIDTH), value, np.float32)
    group = RecordGroup(tasks, (1,) * len(tasks), (TensorSpec("y", "float32", rows.shape),))
    header = encode(ResultRecord(PEERS[6], 1, (group,), b""))
    return struct.pack("<I", len(header)) + header + rows.tobytes()


def digest(value, task):
    return digest_of_rows(OpenRecord(record(value, task)).rows(task))


class World:
    """One elector, with a copy of the job, in a term of `HOLDER`'s."""

    def __init__(self, nursery):
        self.nursery = nursery
        self.store = MemoryStore()
        self.elector = Elector(PEERS[ELECTOR], keys(ELECTOR).sign)
        self.fetched = []
        self.cancelled = []
        self.replicas = Replicas(
            own=PEERS[ELECTOR],
            network=None,
            store=self.store,
            blobs=MemoryBlobStore(),
            fetch_blob=None,
            elector=self.elector,
            log=Log(),
            swarm=SWARM,
        )
        self.replicas.jobs = self
        self.replicas.note_fetched = self.note_fetched
        self.chain = Chain()

    async def begin(self):
        await self.store.add_job(JobRow(JOB.job, JOB.signed, "{}", "standby", 0.0, None, "{}"))
        self.ask(SUBMITTER, SeatOffered(JOB.signed))
        self.hold()
        self.write(JOB.batch(self.chain, TERM, event="accepted"))

    def hold(self, by=TERM, now_s=0.0):
        peer = PEERS.index(by.candidate)
        self.ask(peer, Prepare(JOB.job, 0, by, 1), now_s)
        self.ask(peer, LeaseWanted(JOB.job, 0, by, 1, LEASE_S), now_s)

    def write(self, batch):
        self.chain.take(batch)
        done = self.ask(HOLDER, Append(JOB.job, 0, TERM, 2, (batch,)))
        assert isinstance(done, Appended)

    def ask(self, peer, request, now_s=0.0):
        return self.elector.handle(Asked(PEERS[peer], request, 1), now_s)[-1].message

    async def say(self, peer, request, body=b""):
        """What the elector answers this peer."""
        ours, theirs = stream_pair(PEERS[peer], PEERS[ELECTOR])
        self.nursery.start_soon(self.replicas.serve, theirs)
        side = Side(keys(peer), ours)
        await side.greet()
        await side.say(request, [body])
        answer = await side.hear(RecordHeld, ReplicaRefused, JobState)
        await side.raw.close()
        return answer

    async def copy(self, value, *tasks, peer=HOLDER, by=TERM, number=1):
        return await self.say(peer, RecordCopy(JOB.job, by, number, tasks), record(value, *tasks))

    async def held(self, task):
        """The value that counts for the task here."""
        for row in await self.store.records_of(JOB.job):
            if task in row.tasks:
                opened = OpenRecord(await self.store.read_results(JOB.job, row.offset))
                return float(opened.rows(task)["y"][0, 0])
        return None

    async def note_fetched(self, job):
        self.fetched.append(job)

    async def state_for(self, job):
        return {"state": "running"}

    async def cancel_for(self, job):
        self.cancelled.append(job)


@pytest.fixture
async def world(nursery):
    made = World(nursery)
    await made.begin()
    return made


async def test_the_holders_copies_are_kept_and_the_last_one_counts(autojump_clock, world):
    assert await world.copy(1.0, 1, 2) == RecordHeld(JOB.job, 1)
    assert await world.copy(3.0, 2, number=2) == RecordHeld(JOB.job, 2)
    assert [await world.held(task) for task in (1, 2, 3)] == [1.0, 3.0, None]


@pytest.mark.parametrize(
    ("peer", "by"),
    [
        (RIVAL, term(9, RIVAL)),
        (RIVAL, term(1 << 40, RIVAL)),
        (RIVAL, TERM),
        (SUBMITTER, term(9, SUBMITTER)),
        (HOLDER, term(3, HOLDER)),
        (HOLDER, term(5, HOLDER)),
        (HOLDER, term(9, RIVAL)),
        (STRANGER, TERM),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_nobody_but_the_holder_of_the_lease_may_replace_a_result(autojump_clock, world, peer, by):
    await world.copy(1.0, 1)
    answer = await world.copy(666.0, 1, peer=peer, by=by, number=2)
    assert isinstance(answer, ReplicaRefused)
    assert await world.held(1) == 1.0


async def test_a_holder_that_was_overtaken_replaces_nothing_any_more(autojump_clock, world):
    await world.copy(1.0, 1)
    world.ask(HOLDER, LeaseReleased(JOB.job, 0, TERM))
    assert isinstance(await world.copy(2.0, 1, number=2), ReplicaRefused)
    later = term(7, RIVAL)
    world.hold(later, 99.0)
    assert isinstance(await world.copy(3.0, 1, number=3), ReplicaRefused)
    assert await world.copy(4.0, 1, peer=RIVAL, by=later) == RecordHeld(JOB.job, 1)
    assert await world.held(1) == 4.0


async def copy_while(world, meanwhile, value, *tasks):
    """What the elector answers to the holder's copy if all this happens while it makes room for it."""
    room_is_made = trio.Event()

    async def make_room(job, size):
        world.replicas.make_room = nothing_to_do
        await room_is_made.wait()

    async def nothing_to_do(job, size):
        pass

    answers = []

    async def copy():
        answers.append(await world.copy(value, *tasks))

    world.replicas.make_room = make_room
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy)
        await trio.testing.wait_all_tasks_blocked()
        await meanwhile()
        room_is_made.set()
    return answers[0]


async def test_a_holder_that_is_overtaken_while_room_is_made_for_its_record_replaces_nothing(autojump_clock, world):
    later = term(7, RIVAL)

    async def meanwhile():
        world.hold(later, 99.0)
        assert await world.copy(4.0, 1, peer=RIVAL, by=later) == RecordHeld(JOB.job, 1)

    answer = await copy_while(world, meanwhile, 1.0, 1)
    assert isinstance(answer, ReplicaRefused)
    assert "does not hold the lease here" in answer.reason
    assert await world.held(1) == 4.0


async def test_what_the_journal_came_to_name_while_room_was_made_is_not_replaced(autojump_clock, world):
    async def meanwhile():
        assert await world.copy(1.0, 1, number=2) == RecordHeld(JOB.job, 2)
        world.write(JOB.batch(world.chain, TERM, [1], digest=digest(1.0, 1)))

    answer = await copy_while(world, meanwhile, 666.0, 1)
    assert answer == ReplicaRefused(JOB.job, "the journal names another result of task 1")
    assert await world.held(1) == 1.0


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "meanwhile"])
async def test_nothing_is_kept_of_a_job_that_has_ended_here(autojump_clock, world, is_late):
    """What was removed would come back, and nobody would remove it again."""

    async def end():
        await world.store.set_job_state(JOB.job, "done", ended_at_s=1.0, summary="{}")

    if is_late:
        answer = await copy_while(world, end, 1.0, 1)
    else:
        await end()
        answer = await world.copy(1.0, 1)
    assert answer == ReplicaRefused(JOB.job, "the job has ended here")
    assert await world.held(1) is None


async def test_a_large_record_that_is_sent_again_and_again_is_remembered_once(autojump_clock, world):
    head = RecordCopy(JOB.job, TERM, 1, (1,))
    stream = Heads()
    for _ in range(3):
        await world.replicas.send_record(stream, head, [bytes(BODY_BYTES_MAX + 1)])
    assert len(set(stream.records)) == 1
    assert [len(cids) for cids in world.replicas._sent.values()] == [1]
    await world.replicas.let_go_of_copies(JOB.job, discard=True)
    assert world.replicas._sent == {}


async def test_a_large_record_is_announced_with_its_size_and_not_fetched_where_there_is_no_room(autojump_clock, world):
    stream = Heads()
    await world.replicas.send_record(stream, RecordCopy(JOB.job, TERM, 1, (1,)), [bytes(BODY_BYTES_MAX), b"1"])
    (head,) = stream.heads
    assert head.record_bytes == BODY_BYTES_MAX + 1

    sizes = []

    async def no_room(size):
        sizes.append(size)
        raise LimitExceeded("results", current=0, attempted=size, limit=BODY_BYTES_MAX, unit="bytes")

    async def fetch(cid, peers):
        world.fetched.append(cid)

    world.replicas.check_room, world.replicas._fetch_blob = no_room, fetch
    answer = await world.say(HOLDER, head)
    assert isinstance(answer, ReplicaRefused)
    assert sizes == [BODY_BYTES_MAX + 1]
    assert world.fetched == []


class Heads:
    """A stream's end that takes heads of records alone."""

    def __init__(self):
        self.heads = []

    @property
    def records(self):
        return [head.record for head in self.heads]

    async def send(self, message):
        self.heads.append(message)


async def test_what_the_journal_names_is_not_replaced_by_the_holder_either(autojump_clock, world):
    """A coordinator that lies cannot have electors lose what they have acknowledged."""
    await world.copy(1.0, 1, 2)
    world.write(JOB.batch(world.chain, TERM, [1], digest=digest(1.0, 1)))
    answer = await world.copy(666.0, 1, 2, number=2)
    assert answer == ReplicaRefused(JOB.job, "the journal names another result of task 1")
    assert [await world.held(task) for task in (1, 2)] == [1.0, 1.0]
    assert await world.copy(2.0, 2, number=3) == RecordHeld(JOB.job, 3), "it is provisional still"
    assert await world.copy(1.0, 1, 2, number=4) == RecordHeld(JOB.job, 4), "the same again is no harm"
    assert await world.held(1) == 1.0


@pytest.mark.parametrize("request_", [JobAtHome(JOB.job), JobCancelWanted(JOB.job)], ids=["at home", "cancel"])
@pytest.mark.parametrize("peer", [HOLDER, RIVAL, STRANGER], ids=["holder", "elector", "stranger"])
async def test_results_go_and_jobs_are_cancelled_on_their_submitters_word_alone(autojump_clock, world, peer, request_):
    assert isinstance(await world.say(peer, request_), ReplicaRefused)
    assert world.fetched == world.cancelled == []
    assert isinstance(await world.say(SUBMITTER, request_), JobState)
    assert world.fetched + world.cancelled == [JOB.job]


async def test_a_record_that_is_not_of_the_job_is_refused(autojump_clock, world):
    for junk in (b"", b"junk", record(1.0, 1000), record(1.0, 1)[:-1]):
        answer = await world.say(HOLDER, RecordCopy(JOB.job, TERM, 1, (1,)), junk)
        assert isinstance(answer, ReplicaRefused)
    assert await world.held(1) is None


async def test_a_job_that_is_done_with_tasks_missing_is_not_believed(autojump_clock, world):
    lie = JOB.batch(world.chain, TERM, [1], event="done")
    refusal = world.ask(HOLDER, Append(JOB.job, 0, TERM, 3, (lie,)))
    assert (refusal.kind, refusal.reason) == ("denied", "a job is said to be done with 1 of 100 tasks written")
    world.ask(HOLDER, LeaseReleased(JOB.job, 0, TERM, is_over=True))
    assert not world.elector.is_over(JOB.job)
    with pytest.raises(ProtocolError):
        world.chain.extend(JOB.job, JOB.manifest, TERM, (lie,))
