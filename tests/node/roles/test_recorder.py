"""From results to journal entries: nothing is called final before it is copied, and nothing out of order."""

import numpy as np
import pytest
import trio
import trio.testing

from peerinfer.errors import StateUnusable
from peerinfer.ids import PeerId
from peerinfer.journal import Chain
from peerinfer.messages import Frame, OutputGroup, Term
from peerinfer.register import DIGEST_BYTES, Entry
from peerinfer.tensors import TensorSpec
from peerinfer_node.roles.answers import Answer
from peerinfer_node.roles.recorder import COPIES_TOGETHER_MAX, Recorder, named_in
from peerinfer_node.roles.result_digests import digest_of_rows, digests_in, digests_of
from peerinfer_node.roles.result_records import OpenRecord, record_of

ADA, BOB = PeerId("ada"), PeerId("bob")
JOB = "1" * 32


def digest(number):
    return bytes([number]) * DIGEST_BYTES


class Copies:
    """Copies that the test finishes."""

    def __init__(self):
        self.running = {}
        self.seen = []

    async def copy(self, number, record, tasks):
        self.seen.append((number, b"".join(record), tasks))
        self.running[number] = trio.Event()
        await self.running[number].wait()
        del self.running[number]


class World:
    def __init__(self, nursery, *, copies):
        self.written = []
        self.copies = Copies()
        self.recorder = Recorder(self._write, self.copies.copy if copies else None)
        nursery.start_soon(self.recorder.run)

    def _write(self, entries, is_last):
        self.written.append(([(entry.task, entry.worker) for entry in entries], is_last))

    def keep(self, number, *tasks):
        self.recorder.kept(number, [b"record ", str(number).encode()], {task: digest(task) for task in tasks})

    async def settled(self):
        await trio.testing.wait_all_tasks_blocked()
        return self.written


@pytest.fixture
async def alone(nursery):
    return World(nursery, copies=False)


@pytest.fixture
async def world(nursery):
    return World(nursery, copies=True)


async def test_without_a_committee_results_are_written_at_once(alone):
    alone.keep(0, 1, 2)
    alone.recorder.settle(ADA, [1, 2], is_last=True)
    assert alone.written == [([(1, ADA), (2, ADA)], True)]


async def test_entries_carry_the_digests_of_their_results(nursery):
    found = []
    recorder = Recorder(lambda entries, is_last: found.extend(entries), None)
    recorder.kept(0, [b""], {5: digest(5)})
    recorder.settle(ADA, [5], is_last=False)
    assert found == [Entry(5, digest(5), ADA)]


async def test_nothing_is_written_before_its_record_is_copied(world):
    world.keep(0, 1)
    world.recorder.settle(ADA, [1], is_last=False)
    assert await world.settled() == []
    assert world.copies.seen == [(0, b"record 0", (1,))]
    world.copies.running[0].set()
    assert await world.settled() == [([(1, ADA)], False)]


async def test_results_are_written_in_the_order_in_which_they_were_settled(world):
    for number in range(4):
        world.keep(number, number)
    for number in (2, 0, 3, 1):
        world.recorder.settle(ADA, [number], is_last=False)
    assert await world.settled() == []
    world.copies.running[0].set()
    world.copies.running[1].set()
    assert await world.settled() == [], "2 was settled first"
    world.copies.running[2].set()
    assert [tasks for tasks, _ in await world.settled()] == [[(2, ADA)], [(0, ADA)]]
    world.copies.running[3].set()
    assert [tasks for tasks, _ in await world.settled()] == [[(number, ADA)] for number in (2, 0, 3, 1)]


async def test_tasks_of_several_records_wait_for_all_of_them(world):
    world.keep(0, 1)
    world.keep(1, 2)
    world.recorder.settle(ADA, [1, 2], is_last=False)
    await trio.testing.wait_all_tasks_blocked()
    world.copies.running[1].set()
    assert await world.settled() == []
    world.copies.running[0].set()
    assert await world.settled() == [([(1, ADA), (2, ADA)], False)]


async def test_a_slow_copy_holds_no_other_copy_up(world):
    for number in range(COPIES_TOGETHER_MAX + 5):
        world.keep(number, number)
    await trio.testing.wait_all_tasks_blocked()
    assert len(world.copies.running) == COPIES_TOGETHER_MAX
    world.copies.running[3].set()
    await trio.testing.wait_all_tasks_blocked()
    assert COPIES_TOGETHER_MAX in world.copies.running


async def test_a_failed_task_keeps_its_place(world):
    world.keep(0, 1)
    world.recorder.settle(ADA, [1], is_last=False)
    world.recorder.fail(2, "it divides by zero")
    assert await world.settled() == []
    world.copies.running[0].set()
    assert await world.settled() == [([(1, ADA)], False), ([(2, "")], True)]


async def test_what_was_voided_and_computed_again_is_written_once_with_the_later_digest(nursery):
    found = []
    recorder = Recorder(lambda entries, is_last: found.extend(entries), None)
    recorder.kept(0, [b""], {1: digest(7)})
    recorder.void([1])
    recorder.kept(1, [b""], {1: digest(8)})
    recorder.settle(BOB, [1], is_last=False)
    assert found == [Entry(1, digest(8), BOB)]


async def test_results_that_could_not_be_kept_are_never_final(alone):
    alone.keep(0, 1)
    alone.recorder.settle(ADA, [1, 2], is_last=True)
    assert alone.written == []


# --- digests ---------------------------------------------------------------------------------------------------------


def answer_of(*shapes, tasks=(4, 9, 2), items=(1, 3, 2)):
    """One group of all tasks, with an output of each shape, and the arrays."""
    rng = np.random.default_rng(0)
    arrays = {f"y{n}": rng.standard_normal((sum(items), *shape)).astype(np.float32) for n, shape in enumerate(shapes)}
    specs = tuple(TensorSpec(name, "float32", array.shape) for name, array in arrays.items())
    frame = Frame(
        1, JOB, Term(1, "me"), tasks, (0,) * len(tasks), items, (TensorSpec("x", "float32", (sum(items), 1)),)
    )
    body = b"".join(array.tobytes() for array in arrays.values())
    return Answer(ADA, frame, (OutputGroup(tuple(range(len(tasks))), specs),), body, b"")


@pytest.mark.parametrize("shapes", [[(2,)], [()], [(2, 3), (5,)], [(0,)]])
def test_a_digest_is_the_same_whether_a_result_was_answered_or_read_back(shapes):
    answer = answer_of(*shapes)
    found = digests_of(answer, answer.frame.tasks)
    assert found == {task: digest_of_rows(answer.rows(task)) for task in answer.frame.tasks}
    assert all(len(each) == DIGEST_BYTES for each in found.values())
    record = OpenRecord(b"".join(record_of(answer)))
    assert digests_in(record, answer.frame.tasks) == found
    assert list(digests_in(record, answer.frame.tasks[1:2])) == list(answer.frame.tasks[1:2])
    with pytest.raises(StateUnusable, match="lies elsewhere"):
        digests_in(record, [77])


def test_only_the_tasks_asked_for_get_digests():
    assert list(digests_of(answer_of((2,)), [9])) == [9]


def test_a_digest_tells_names_dtypes_shapes_and_bytes_apart():
    rows = {"y": np.arange(6, dtype=np.float32).reshape(2, 3)}
    others = [
        {"z": rows["y"]},
        {"y": rows["y"].reshape(3, 2)},
        {"y": rows["y"].view(np.int32)},
        {"y": rows["y"] + 1},
        {"y": rows["y"], "z": rows["y"]},
        {"y": rows["y"][:1]},
    ]
    found = [digest_of_rows(each) for each in (rows, *others)]
    assert len(set(found)) == len(found)


def test_exactly_the_results_that_the_journal_names_are_true():
    chain = Chain()
    chain.register.put(Entry(3, digest(3), ADA))
    chain.register.put(Entry(4, digest(4), ""))
    is_true = named_in(chain)
    assert is_true(3, digest(3))
    assert not is_true(3, digest(9)), "another result of the task"
    assert not is_true(4, digest(4)), "a task that failed has no result"
    assert not is_true(5, digest(5)), "a task that is not written"
