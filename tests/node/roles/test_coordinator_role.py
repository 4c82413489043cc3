"""The coordinator's side of work streams with good workers; tests/hostile has the others."""

import numpy as np
import pytest
import trio
import trio.testing
from role_world import JOB, LOCAL, MODEL, OTHER_JOB, answer_to, coordinator_world, stay_alive

from peerinfer.assignment import JobCancelled, TasksAdded
from peerinfer.errors import Busy, LimitExceeded, StreamClosed
from peerinfer.limits import INLINE_BYTES_MAX, JOBS_MAX
from peerinfer.messages import STRINGS_REVISION, Cancel, Frame, Goodbye, JobBrief, JobDone, Refused, Window
from peerinfer.tensors import FREE, Port
from peerinfer_node.network.loopback import LoopbackStream
from peerinfer_node.roles.coordinator import IDLE_LINK_S
from peerinfer_node.roles.job_body import FrameInputs


async def join(world, name="worker", *, window=1):
    side = await world.worker(name)
    await side.greet()
    await side.say(Window(window))
    return side


async def next_frame(side):
    frame = await side.hear(Frame)
    return frame, side.body


async def answer(side, frame, body):
    results, outputs = answer_to(frame, body, side.keys)
    await side.say(results, [outputs])


async def test_a_worker_is_told_what_the_frames_are_about_before_the_first(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(2, verify="none", seconds_per_item=1.0)
        side = await join(world)
        brief = await side.hear(JobBrief, Frame)
        assert brief == job.brief
        assert brief.model_bytes == len(MODEL)
        for _ in range(2):
            frame, body = await next_frame(side)
            assert (frame.job, frame.term) == (JOB, brief.term)
            await answer(side, frame, body)
        assert await side.hear(JobDone, JobBrief) == JobDone(JOB)
        job.check_right()
        await side.close()


async def test_results_are_kept_as_they_were_answered_and_counted_to_their_peer(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(8, verify="none")
        side = await join(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, side)
            while not job.has_ended.is_set():
                with trio.move_on_after(1.0):
                    await answer(side, *await next_frame(side))
            nursery.cancel_scope.cancel()
        job.check_right()
        assert job.end.picture.peers == {side.keys.peer_id: 8}
        assert world.role.body_of(JOB) is None
        await side.close()
        await world.wait_gone(side)
        assert min(world.role.stream_bytes) > 0


@pytest.mark.parametrize("is_at_hand", [True, False])
async def test_one_task_whose_inputs_are_at_hand_leaves_before_any_other_task_of_ours_runs(is_at_hand, autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(1, verify="none", online=True)
        job.x = np.repeat(job.x, 9, axis=0)
        job.is_at_hand = is_at_hand
        side = await join(world, window=9)
        await answer(side, *await next_frame(side))  # the first one comes after its brief
        for count in range(2, 10):
            await trio.testing.wait_all_tasks_blocked()
            world.role.post(TasksAdded(JOB, 1))
            assert bool(side.raw._unread) == is_at_hand
            await answer(side, *await next_frame(side))
            await trio.testing.wait_all_tasks_blocked()
            assert len(job.kept) == count
        await side.close()
        world.role.drop(JOB, "the test ends")


async def test_a_worker_whose_stream_breaks_while_a_task_is_sent_at_once_costs_nothing(autojump_clock, monkeypatch):
    async with coordinator_world() as world:
        job = world.accept(1, verify="none", online=True)
        job.x = np.repeat(job.x, 2, axis=0)
        job.is_at_hand = True
        side = await join(world)
        await answer(side, *await next_frame(side))
        await trio.testing.wait_all_tasks_blocked()

        def break_off(stream, data):
            raise StreamClosed("somebody pulled the plug")

        with monkeypatch.context() as patched:
            patched.setattr(LoopbackStream, "write_nowait", break_off)
            world.role.post(TasksAdded(JOB, 1))
        assert await world.wait_gone(side) == "somebody pulled the plug"
        other = await join(world, "other")
        await answer(other, *await next_frame(other))
        await trio.testing.wait_all_tasks_blocked()
        assert {peer for peer, _ in job.kept.values()} == {side.keys.peer_id, other.keys.peer_id}
        await other.close()
        world.role.drop(JOB, "the test ends")


async def test_a_stream_that_no_job_needs_is_closed_after_a_while(autojump_clock):
    async with coordinator_world() as world:
        side = await join(world)
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, side)
            assert (await side.hear(Goodbye)).reason == "no work for now"
            nursery.cancel_scope.cancel()
        assert IDLE_LINK_S <= trio.current_time() - began_s <= IDLE_LINK_S + 2.0
        assert await world.wait_gone(side) == "no work for now"


async def test_a_cancelled_job_stops_its_frames(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(8)
        side = await join(world)
        frame, _ = await next_frame(side)
        world.role.post(JobCancelled(JOB, "enough"))
        heard = {type(message): message for message in [await side.hear(Cancel, JobDone) for _ in range(2)]}
        assert heard[Cancel] == Cancel(frame.frame, "enough")
        assert heard[JobDone] == JobDone(JOB)
        assert (await job.wait_ended()).state == "cancelled"
        await side.close()


async def test_a_frame_that_takes_too_long_is_cancelled_and_given_to_somebody_else(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(1, verify="none", task_timeout_s=1.0, strategy="round-robin")  # which computes nothing twice
        slow = await join(world, "slow")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, slow)
            frame, _ = await next_frame(slow)
            await world.honest_worker()
            cancel = await slow.hear(Cancel)
            assert (cancel.frame, cancel.reason) == (frame.frame, "it took too long")
            assert (await job.wait_ended()).state == "done"
            nursery.cancel_scope.cancel()
        job.check_right()
        await slow.close()


async def test_a_worker_that_is_busy_for_now_is_asked_again_a_moment_later(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(1, verify="none")
        side = await join(world)
        frame, _ = await next_frame(side)
        refused_s = trio.current_time()
        await side.say(Refused(frame.frame, "the owner plays a game", False))
        again, body = await next_frame(side)
        assert trio.current_time() - refused_s >= 1.0
        assert again.tasks == frame.tasks
        assert again.attempts == (0,)
        await answer(side, again, body)
        await job.wait_ended()
        await side.close()


async def test_large_inputs_travel_as_a_blob_that_is_kept_while_the_job_runs(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(1, verify="none")
        inputs = job.inputs

        async def many(tasks):
            few = await inputs(tasks)
            rows = INLINE_BYTES_MAX // 16 + 1
            (spec,) = few.tensors
            return FrameInputs((rows,), (type(spec)("x", "float32", (rows, 4)),), [bytes(16 * rows)])

        job.inputs = many
        side = await join(world)
        frame, body = await next_frame(side)
        assert body == b""
        assert frame.inputs_bytes == 16 * frame.items[0]
        assert await world.blobs.read(frame.inputs) == bytes(frame.inputs_bytes)
        await side.close()
        world.role.post(JobCancelled(JOB, "enough"))


async def test_nothing_is_sent_without_the_lease(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(4)
        job.holds_lease = False
        side = await join(world)
        with trio.move_on_after(3.0) as scope:
            await next_frame(side)
        assert scope.cancelled_caught
        job.holds_lease = True
        await next_frame(side)
        await side.close()
        world.role.post(JobCancelled(JOB, "enough"))


async def test_a_job_that_is_dropped_while_it_ends_is_no_trouble(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(4)
        world.role.post(JobCancelled(JOB, "enough"))
        world.role.drop(JOB, "somebody else has the lease")
        await trio.sleep(1.0)
        assert job.end is None
        assert world.role.machine.jobs == ()


async def test_more_jobs_than_a_node_holds_are_told_to_come_back():
    async with coordinator_world() as world:
        for number in range(JOBS_MAX):
            world.accept(0, job=f"{number:032x}", online=True)
        with pytest.raises(Busy, match=r"1,000 jobs with 0 open tasks, of at most 1,000 and .*; try again in about"):
            world.accept(0, job=OTHER_JOB)
        for number in range(JOBS_MAX):
            world.role.post(JobCancelled(f"{number:032x}", ""))


async def test_this_nodes_own_results_need_no_audit(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(50)
        await world.honest_worker("own", offer=LOCAL)
        end = await job.wait_ended()
        assert (end.state, end.picture.audited) == ("done", 0)
        job.check_right()


async def test_audits_go_on_where_one_cannot_be_computed(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(100)
        first = True
        audit = job.audit

        async def fail_once(asked, fresh):
            nonlocal first
            if first:
                first = False
                raise LimitExceeded("memory", current=1, attempted=1, limit=1, unit="GB")
            return await audit(asked, fresh)

        job.audit = fail_once
        await world.honest_worker()
        assert (await job.wait_ended()).state == "done"
        job.check_right()


@pytest.mark.parametrize("revision", [STRINGS_REVISION - 1, STRINGS_REVISION])
async def test_a_worker_whose_version_carries_no_strings_gets_no_task_with_any(autojump_clock, revision):
    async with coordinator_world() as world:
        job = world.accept(2, verify="none")
        job.outputs["label"] = Port("label", "string", (FREE,))
        side = await world.worker("worker")
        await side.greet(revision=revision)
        await side.say(Window(1))
        with trio.move_on_after(5.0) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stay_alive, side)
                await side.hear(Frame)
                nursery.cancel_scope.cancel()
        assert scope.cancelled_caught == (revision < STRINGS_REVISION)
        blocked = world.role.machine.blocked(JOB)
        assert ("carries no strings" in blocked) == (revision < STRINGS_REVISION), blocked
