import random
from dataclasses import replace

import numpy as np
import pytest
import trio
import trio.testing

from peerinfer.assignment import JobClosed, JobEnded, JobPicture, TaskWithdrawn
from peerinfer.errors import JobFailed, LimitExceeded, VerificationFailed
from peerinfer.ids import PeerId
from peerinfer.messages import Execution, Frame, JobBrief, OutputGroup, Term
from peerinfer.tensors import Port, TensorSpec
from peerinfer_node import online
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.memory_blob_store import MemoryBlobStore
from peerinfer_node.online import Online
from peerinfer_node.ports import ModelInterface
from peerinfer_node.roles.answers import Answer
from peerinfer_node.roles.online_job import BATCH_SIZES_MAX, Executions, OnlineJob

JOB = "1" * 32
TERM = Term(1, "me")
REQUESTS_MAX = 4


@pytest.fixture
def body():
    brief = JobBrief(JOB, TERM, "model", 1, (), True, 5.0)
    return OnlineJob(
        JOB, brief, [Port("x", "float32", (-1, 2))], [Port("y", "float32", (-1,))], requests_max=REQUESTS_MAX
    )


class Machine:
    """Counts the tasks that were added, and notes those that were withdrawn."""

    def __init__(self):
        self.tasks = 0
        self.withdrawn = []
        self.added = trio.Event()

    def post(self, event):
        if isinstance(event, TaskWithdrawn):
            self.withdrawn.append(event.task)
        else:
            self.tasks += event.count
            self.added.set()


def row(value):
    return {"x": np.full((1, 2), value, np.float32)}


def answer(tasks, values):
    """As if a worker had given these values for these tasks, one row each."""
    outputs = np.array(values, np.float32)
    specs = (TensorSpec("x", "float32", (len(tasks), 2)),)
    frame = Frame(1, JOB, TERM, tuple(tasks), (1,) * len(tasks), (1,) * len(tasks), specs)
    group = OutputGroup(tuple(range(len(tasks))), (TensorSpec("y", "float32", (len(tasks),)),))
    return Answer(PeerId("ada"), frame, (group,), outputs.tobytes(), b"")


async def test_requests_share_a_frame_and_each_gets_its_own_answer(body):
    machine, found = Machine(), {}

    async def ask(value):
        found[value] = (await body.infer(row(value), machine.post))["y"].tolist()

    async with trio.open_nursery() as nursery:
        for value in (10, 20):
            nursery.start_soon(ask, value)
            await trio.testing.wait_all_tasks_blocked()
        given = await body.inputs([0, 1])
        assert given.items == (1, 1)
        joined = np.frombuffer(b"".join(given.body), np.float32).reshape(2, 2)[:, 0].tolist()
        assert sorted(joined) == [10, 20]
        await body.keep(answer([0, 1], joined), [0, 1])
    assert found == {10: [10], 20: [20]}


async def test_batches_are_counted_by_their_rows_over_all_frames_and_once_for_each():
    executions = Executions()
    brief = JobBrief(JOB, TERM, "model", 1, (), True, 5.0)
    body = OnlineJob(JOB, brief, [], [], requests_max=REQUESTS_MAX, executions=executions)
    first = replace(answer([0, 1], [5, 6]), executions=(Execution(2, 1, 0.5),))
    second = replace(answer([2], [7]), executions=(Execution(2, 1, 0.25), Execution(1, 3, 0.125)))
    await body.keep(first, [0])
    await body.keep(first, [1])
    await body.keep(second, [2])
    assert executions.by_rows() == [Execution(1, 3, 0.125), Execution(2, 2, 0.75)]
    executions.note([Execution(10 + rows, 1, 0.0) for rows in range(BATCH_SIZES_MAX)])
    assert len(executions.by_rows()) == BATCH_SIZES_MAX


async def test_a_caller_that_has_gone_keeps_no_other_from_its_answer(body):
    machine = Machine()
    with trio.move_on_after(0) as gone:
        await body.infer(row(1), machine.post)
    assert gone.cancelled_caught
    assert machine.withdrawn == [0]
    async with trio.open_nursery() as nursery:
        answered = []

        async def ask():
            answered.append(await body.infer(row(2), machine.post))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        given = await body.inputs([0, 1])
        assert np.frombuffer(b"".join(given.body), np.float32).tolist() == [1, 1, 2, 2]
        await body.keep(answer([0, 1], [5, 6]), [0, 1])
    assert answered[0]["y"].tolist() == [6]


async def test_a_frame_holds_a_row_for_a_task_that_was_withdrawn_meanwhile(body):
    machine = Machine()
    with trio.move_on_after(0):
        await body.infer(row(1), machine.post)
    await body.failed(0, "gone")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(body.infer, row(2), machine.post)
        await trio.testing.wait_all_tasks_blocked()
        given = await body.inputs([0, 1])
        assert given.items == (1, 1)
        await body.keep(answer([0, 1], [5, 6]), [1])


async def test_requests_beyond_the_limit_are_refused_and_room_comes_back(body):
    machine = Machine()
    async with trio.open_nursery() as nursery:
        for value in range(REQUESTS_MAX):
            nursery.start_soon(body.infer, row(value), machine.post)
        await trio.testing.wait_all_tasks_blocked()
        assert body.waiting == REQUESTS_MAX
        with pytest.raises(LimitExceeded):
            await body.infer(row(9), machine.post)
        tasks = list(range(REQUESTS_MAX))
        await body.keep(answer(tasks, tasks), tasks)
    assert body.waiting == 0


async def test_a_task_that_fails_for_good_is_raised_where_it_was_asked(body):
    machine = Machine()

    async def fail():
        await machine.added.wait()
        await body.failed(0, "model: no")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        with pytest.raises(JobFailed, match="model: no"):
            await body.infer(row(1), machine.post)


async def test_after_the_model_was_closed_requests_end_and_new_ones_are_refused(body):
    machine = Machine()
    picture = JobPicture(JOB, 1, 1, 0, 0, 0, {}, 0, 0, 0, {}, "")

    async def end():
        await machine.added.wait()
        await body.ended(JobEnded(JOB, "cancelled", "", "", picture))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with pytest.raises(JobFailed, match="unloaded"):
            await body.infer(row(1), machine.post)
    with pytest.raises(JobFailed, match="unloaded"):
        await body.infer(row(1), machine.post)


class Coordinator:
    """Answers every request at once, and notes which jobs begin and end."""

    def __init__(self):
        self.bodies, self.closed = [], []

    def accept(self, spec, body):
        self.bodies.append(body)

    def post(self, event):
        if isinstance(event, JobClosed):
            self.closed.append(event.job)
        else:
            body = self.bodies[-1]
            task = body.requests - 1
            body.keep_nowait(answer([task], [task]), [task])


class Device:
    async def load(self, model, data):
        del model, data
        return ModelInterface((Port("x", "float32", (1, 2)),), (Port("y", "float32", (1,)),), 0.0)


async def test_a_job_of_requests_is_followed_by_another_before_it_has_grown(monkeypatch):
    monkeypatch.setattr(online, "REQUESTS_PER_JOB_MAX", 3)
    coordinator = Coordinator()
    requests = Online(
        blobs=MemoryBlobStore(),
        keys=MemoryKeys(b"me"),
        executor=Device(),
        coordinator=coordinator,
        rng=random.Random(1),
        on_accept=lambda: None,
    )
    model = await requests.open(b"model")
    for number in range(8):
        assert (await requests.infer(model, row(number)))["y"] == number % 3
    assert [body.requests for body in coordinator.bodies] == [3, 3, 2]
    assert coordinator.closed == [body.job for body in coordinator.bodies[:2]]


@pytest.fixture
def checked():
    """A job whose requests wait for a quorum; this node's own device gives 10 times the row's value."""
    brief = JobBrief(JOB, TERM, "model", 1, (), True, 5.0)

    async def compute(inputs):
        return {"y": 10 * inputs["x"][:, 0]}

    ports = [Port("x", "float32", (-1, 2))], [Port("y", "float32", (-1,))]
    return OnlineJob(JOB, brief, *ports, requests_max=REQUESTS_MAX, compute=compute)


async def test_an_answer_waits_until_it_is_settled_and_is_that_of_those_who_agree(checked):
    machine, found = Machine(), []

    async def ask():
        found.append(await checked.infer(row(1), machine.post))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await machine.added.wait()
        checked.keep_nowait(answer([0], [99.0]), [0])  # ada lies
        assert found == []
        others = [replace(answer([0], [10.0]), peer=PeerId(name)) for name in ("bob", "cyd")]
        assert await checked.compare(others[0], [0]) == {0: ()}
        assert await checked.compare(others[1], [0]) == {0: (PeerId("bob"),)}
        verdicts = await checked.audit({0: (PeerId("ada"), PeerId("bob"))}, {})
        assert verdicts[0].right == (PeerId("bob"),)
        assert verdicts[0].wrong == (PeerId("ada"),)
        await checked.settle(PeerId("bob"), [0], is_last=False)
    assert found[0]["y"].tolist() == [10.0]
    assert checked.waiting == 0
    assert (await checked.inputs([0])).items == (1,), (
        "a copy that is still on its way stands for nobody, and harms nobody"
    )


async def test_a_request_that_nobody_could_verify_says_so(checked):
    machine = Machine()
    async with trio.open_nursery() as nursery:

        async def ask():
            with pytest.raises(VerificationFailed, match="no second peer"):
                await checked.infer(row(1), machine.post)

        nursery.start_soon(ask)
        await machine.added.wait()
        checked.keep_nowait(answer([0], [10.0]), [0])
        await checked.void([0])
        await checked.failed(0, "unverified: no second peer")
