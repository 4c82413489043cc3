"""What a worker may do to a coordinator. Each time the coordinator lets go of it, keeps nothing of it, and the job is
finished by an honest worker."""

import hashlib
import random
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import trio
import trio.testing
from role_world import (
    JOB,
    LOCAL,
    OTHER_JOB,
    WIDTH,
    answer_to,
    coordinator_world,
    receipt_for,
    stay_alive,
)

from peerinfer.errors import InputError, PeerinferError, StateUnusable
from peerinfer.limits import HELLO_TIMEOUT_S, SILENCE_MAX_S
from peerinfer.member_messages import Adverts
from peerinfer.messages import Cancel, Frame, JobBrief, JobDone, OutputGroup, Refused, TaskFailure, Term, Window
from peerinfer.tensors import TensorSpec
from peerinfer_node.driver import EVENTS_OF_PEERS_MAX
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.roles.work_stream import LINGER_S

TASKS = 40


async def join(world, name="villain", *, window=2):
    """A worker in the test's hands that has greeted and opened its window."""
    side = await world.worker(name)
    await side.greet()
    await side.say(Window(window))
    return side


async def next_frame(side):
    frame = await side.hear(Frame)
    return frame, side.body


async def answer_all(side, change=lambda frame, results, body: (results, body)):
    """Answers everything, `change`d, until the stream is gone."""
    with suppress(PeerinferError, EOFError):
        while True:
            frame, body = await next_frame(side)
            results, outputs = change(frame, *answer_to(frame, body, side.keys))
            await side.say(results, [outputs])


async def finish_honestly(world, job, villain=None):
    """An honest worker comes; the job must end well, without anything of the villain's."""
    role = await world.honest_worker()
    end = await job.wait_ended()
    assert (end.state, end.picture.final) == ("done", len(job.x))
    job.check_right()
    if villain is not None:
        assert villain.keys.peer_id not in {peer for peer, _ in job.kept.values()}
    return role


# --- answers that cannot be right --------------------------------------------------------------------------------------


def positions(*wanted):
    return lambda frame, results, body: (
        replace(results, groups=(OutputGroup(wanted, results.groups[0].tensors),)),
        body,
    )


def tensors(*specs):
    def change(frame, results, body):
        rows = len(frame.tasks)
        made = tuple(TensorSpec(name, dtype, (rows, *shape)) for name, dtype, shape in specs)
        size = sum(spec.size_bytes for spec in made)
        return replace(results, groups=(replace(results.groups[0], tensors=made),)), bytes(min(size, 1 << 20))

    return change


def receipt(**changes):
    def change(frame, results, body):
        keys = changes.get("keys", MemoryKeys(b"villain"))
        fields = {name: value for name, value in changes.items() if name != "keys"}
        return replace(results, receipt=receipt_for(frame, body, keys, **fields)), body

    return change


def also(**changes):
    return lambda frame, results, body: (replace(results, **changes), body)


WRONG = {
    "a position twice": positions(0, 0, 1, 2),
    "a position too few": positions(0, 1, 2),
    "a position that is not there": positions(0, 1, 2, 99),
    "no positions": positions(),
    "a task done and failed": also(failures=(TaskFailure(0, "model", "no"),)),
    "a group of no tasks beside": lambda frame, results, body: (
        replace(results, groups=(*results.groups, OutputGroup((), (TensorSpec("y", "float32", (0, WIDTH)),)))),
        body,
    ),
    "more rows than items": lambda frame, results, body: (
        replace(
            results,
            groups=(replace(results.groups[0], tensors=(TensorSpec("y", "float32", (len(frame.tasks) + 1, WIDTH)),)),),
        ),
        body + bytes(4 * WIDTH),
    ),
    "another width": tensors(("y", "float32", (WIDTH + 1,))),
    "one axis more": tensors(("y", "float32", (WIDTH, 1))),
    "no axis": tensors(("y", "float32", ())),
    "another dtype": tensors(("y", "float64", (WIDTH,))),
    "another name": tensors(("z", "float32", (WIDTH,))),
    "no outputs": tensors(),
    "an extra output": tensors(("y", "float32", (WIDTH,)), ("z", "float32", (WIDTH,))),
    "an output twice": tensors(("y", "float32", (WIDTH,)), ("y", "float32", (WIDTH,))),
    "a size beyond all measure": tensors(("y", "float32", (1 << 47,) * 8)),
    "a body too long": lambda frame, results, body: (results, body + b"\0"),
    "a body too short": lambda frame, results, body: (results, body[:-1]),
    "no body": lambda frame, results, body: (results, b""),
    "outputs that the receipt does not fit": lambda frame, results, body: (results, bytes(len(body))),
    "no receipt": also(receipt=b""),
    "garbage for a receipt": also(receipt=b"\xff" * 100),
    "somebody else's receipt": receipt(keys=MemoryKeys(b"somebody else")),
    "a receipt for another job": receipt(job=OTHER_JOB),
    "a receipt for another term": receipt(term=Term(7, "x")),
    "a receipt for another frame": receipt(frame=12345),
    "a receipt for other tasks": receipt(tasks=(9, 8, 7, 6)),
    "a receipt for other attempts": receipt(attempts=(5, 5, 5, 5)),
    "a receipt for tasks that were never given": receipt(tasks=(1_000_000, 1_000_001, 1_000_002, 1_000_003)),
    "a receipt from the future": receipt(at_s=time.time() + 86_400.0),
    "a receipt for less than no time": receipt(compute_s=-1.0),
    "a receipt for less than no energy": receipt(energy_j=-1.0),
    "a receipt for other outputs": receipt(outputs_digest=hashlib.sha256(b"").digest()),
    "a blob that is none": also(outputs="not a cid", outputs_bytes=64),
    "a blob and a body": also(outputs="b" * 59, outputs_bytes=64),
    "a blob of another size": lambda frame, results, body: (replace(results, outputs="b" * 59, outputs_bytes=1), b""),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
async def test_an_answer_that_cannot_be_right_costs_the_worker_its_place(autojump_clock, change):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            await answer_all(villain, change)
            await villain.close()
        assert job.kept == {}
        assert await world.wait_gone(villain)
        await finish_honestly(world, job, villain)


async def test_an_answer_that_is_refused_is_answered_with_a_goodbye_that_says_why(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        frame, body = await next_frame(villain)
        results, outputs = answer_to(frame, body, villain.keys)
        await villain.say(replace(results, receipt=b""), [outputs])
        assert "have no valid receipt" in await villain.hear_end()
        await finish_honestly(world, job, villain)


async def test_a_receipt_cannot_be_used_again(autojump_clock):
    """The second answer is the first once more, under the second frame's number."""
    async with coordinator_world() as world:
        job = world.accept(TASKS, verify="none")
        villain = await join(world)
        frame, body = await next_frame(villain)
        results, outputs = answer_to(frame, body, villain.keys)
        await villain.say(results, [outputs])
        second, _ = await next_frame(villain)
        await villain.say(replace(results, frame=second.frame), [outputs])
        assert "have a receipt for something else" in await villain.hear_end()
        await finish_honestly(world, job)


async def test_the_same_answer_twice_counts_once(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS, verify="none")
        villain = await join(world)
        frame, body = await next_frame(villain)
        results, outputs = answer_to(frame, body, villain.keys)
        for _ in range(3):
            await villain.say(results, [outputs])
        await trio.sleep(1.0)
        assert sorted(job.kept) == sorted(frame.tasks)
        await villain.close()
        await finish_honestly(world, job)


async def test_answers_to_frames_that_were_never_sent_are_dropped(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        frame, body = await next_frame(villain)
        results, outputs = answer_to(frame, body, villain.keys)
        for number in range(10_000, 10_050):
            await villain.say(replace(results, frame=number), [outputs])
            await villain.say(Refused(number, "no", False))
        await trio.sleep(1.0)
        assert job.kept == {}
        await villain.close()
        await finish_honestly(world, job, villain)


async def test_nobody_can_answer_for_another_worker(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        victim, villain = await join(world, "victim"), await join(world)
        frame, body = await next_frame(victim)
        results, outputs = answer_to(frame, body, villain.keys)
        await villain.say(results, [outputs])
        await villain.say(Refused(frame.frame, "no", True))
        await trio.sleep(1.0)
        assert job.kept == {}
        assert world.role.machine.why_not(JOB, victim.keys.peer_id) is None
        await villain.close()
        await victim.close()
        await finish_honestly(world, job, villain)


# --- answers that are well-formed and wrong ----------------------------------------------------------------------------


def lie(frame, results, body):
    """Wrong numbers with a good receipt for them."""
    wrong = (np.frombuffer(body, np.float32) + 1).tobytes()
    keys = MemoryKeys(b"villain")
    return replace(results, receipt=receipt_for(frame, wrong, keys)), wrong


async def test_a_liar_is_caught_and_everything_of_it_is_computed_again(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(200)
        villain = await join(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            nursery.start_soon(answer_all, villain, lie)
            assert "did not stand up to its check" in await world.wait_gone(villain)
            nursery.cancel_scope.cancel()
        assert villain.keys.peer_id in world.role.machine.caught
        await finish_honestly(world, job, villain)
        assert job.end.picture.audits_failed == 1


def garbage(frame, results, body):
    """Bytes of the right number, without a look at the inputs."""
    made = random.Random(frame.frame).randbytes(len(body))
    return replace(results, receipt=receipt_for(frame, made, MemoryKeys(b"villain"), compute_s=0.0)), made


def nothing_but_nan(frame, results, body):
    made = np.full(len(body) // 4, np.nan, np.float32).tobytes()
    return replace(results, receipt=receipt_for(frame, made, MemoryKeys(b"villain"))), made


@pytest.mark.parametrize("change", [garbage, nothing_but_nan], ids=["garbage at once", "NaN"])
async def test_outputs_that_nobody_computed_are_caught_and_computed_again(autojump_clock, change):
    async with coordinator_world() as world:
        job = world.accept(200)
        villain = await join(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            nursery.start_soon(answer_all, villain, change)
            assert "did not stand up to its check" in await world.wait_gone(villain)
            nursery.cancel_scope.cancel()
        assert villain.keys.peer_id in world.role.machine.caught
        await finish_honestly(world, job, villain)


async def test_a_liar_that_will_not_go_is_let_go_of(autojump_clock):
    """It ignores the goodbye, never closes and keeps sending signs of life."""
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            frame, body = await next_frame(villain)
            results, outputs = lie(frame, *answer_to(frame, body, villain.keys))
            await villain.say(results, [outputs])
            await trio.sleep(10.0)
            assert world.role.workers == []
            nursery.cancel_scope.cancel()
        await finish_honestly(world, job, villain)


async def test_a_caught_liar_that_comes_back_gets_nothing(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        frame, body = await next_frame(villain)
        results, outputs = lie(frame, *answer_to(frame, body, villain.keys))
        await villain.say(results, [outputs])
        assert "did not stand up to its check" in await villain.hear_end()
        await villain.close()
        await trio.sleep(LINGER_S + 1.0)  # a second stream of one worker is refused while there is a first
        assert world.role.workers == []
        again = await join(world)
        with trio.move_on_after(3.0) as scope:
            await next_frame(again)
        assert scope.cancelled_caught
        await again.close()
        await finish_honestly(world, job, villain)


async def test_a_worker_that_fails_everything_is_tried_no_more_than_the_retries_allow(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(4, retries=2)
        villain = await join(world)

        def fail(frame, results, body):
            failures = tuple(TaskFailure(position, "model", "no") for position in range(len(frame.tasks)))
            return replace(results, groups=(), failures=failures, receipt=receipt_for(frame, b"", villain.keys)), b""

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            nursery.start_soon(answer_all, villain, fail)
            end = await job.wait_ended()
            nursery.cancel_scope.cancel()
        assert end.picture.failed == dict.fromkeys(range(4), "model: no")
        assert job.failures == end.picture.failed
        await villain.close()


async def test_what_one_worker_fails_at_another_computes(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS, retries=1)
        villain = await join(world)

        def fail(frame, results, body):
            failures = tuple(TaskFailure(position, "crash", "no") for position in range(len(frame.tasks)))
            return replace(results, groups=(), failures=failures, receipt=receipt_for(frame, b"", villain.keys)), b""

        frame, body = await next_frame(villain)
        results, outputs = fail(frame, *answer_to(frame, body, villain.keys))
        await villain.say(results, [outputs])
        await villain.close()
        await finish_honestly(world, job, villain)


# --- silence, noise and rudeness -----------------------------------------------------------------------------------------


async def test_a_worker_that_falls_silent_with_a_frame_is_lost_and_its_tasks_go_elsewhere(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        await next_frame(villain)
        began_s = trio.current_time()
        assert "was silent for" in await world.wait_gone(villain)
        assert SILENCE_MAX_S <= trio.current_time() - began_s <= SILENCE_MAX_S + 4.0
        await finish_honestly(world, job, villain)


async def test_a_worker_that_only_says_that_it_is_alive_does_not_hold_the_job(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            await finish_honestly(world, job, villain)
            nursery.cancel_scope.cancel()
        await villain.close()


async def test_a_worker_that_refuses_everything_does_not_hold_the_job(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)

        async def refuse():
            with suppress(PeerinferError, EOFError):
                while True:
                    frame, _ = await next_frame(villain)
                    await villain.say(Refused(frame.frame, "busy", False))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            nursery.start_soon(refuse)
            await finish_honestly(world, job, villain)
            nursery.cancel_scope.cancel()
        await villain.close()


@pytest.mark.parametrize(
    "said", [b"\xff" * 64, b"\x05\x00hello", b"\x80" * 20, b"\x02\xff\xff\xff\x7f\x91\x09"], ids=repr
)
@pytest.mark.parametrize("when", ["instead of a greeting", "after it", "with a frame"])
async def test_garbage_ends_the_stream(autojump_clock, said, when):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await world.worker("villain")
        if when != "instead of a greeting":
            await villain.greet()
        if when == "with a frame":
            await villain.say(Window(1))
            await next_frame(villain)
        await villain.raw.write(said)
        await villain.hear_end()
        assert await world.wait_gone(villain)
        await villain.close()
        await finish_honestly(world, job, villain)


@pytest.mark.parametrize(
    "message", [JobDone(JOB), Cancel(1, "x"), Adverts(()), JobBrief(JOB, Term(1, "x"), "c", 1, (), True, 1.0)]
)
async def test_what_a_worker_has_no_business_to_say_ends_the_stream(autojump_clock, message):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        await next_frame(villain)
        await villain.say(message)
        assert f"sent {type(message).__name__} to a coordinator" in await villain.hear_end()
        await finish_honestly(world, job, villain)


async def test_a_worker_of_another_version_or_swarm_is_told_so(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        old = await world.worker("old")
        await old.greet(version=99)
        assert "speaks protocol version 99" in await old.hear_end()
        stray = await world.worker("stray")
        await stray.greet(swarm="elsewhere")
        assert "belongs to swarm 'elsewhere'" in await stray.hear_end()
        await finish_honestly(world, job)


async def test_a_worker_that_never_greets_is_left(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        mute = await world.worker("mute")
        began_s = trio.current_time()
        assert "did not greet within" in await world.wait_gone(mute)
        assert trio.current_time() - began_s <= HELLO_TIMEOUT_S + 2.0
        await finish_honestly(world, job)


async def test_a_second_stream_of_the_same_worker_is_turned_away_and_the_first_goes_on(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(4, verify="none")
        first = await join(world, window=1)
        second = await world.worker("villain")
        await second.greet()
        assert await second.hear_end() == "there is a work stream to this worker already"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all, first)
            await job.wait_ended()
            nursery.cancel_scope.cancel()
        job.check_right()
        await first.close()


async def test_a_flood_of_tiny_windows_ends_the_stream(autojump_clock):
    """Each of them would make the machine look at everything again."""
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        await world.honest_worker()
        villain = await join(world)
        with suppress(PeerinferError):
            for frames in range(5000):
                await villain.say(Window(frames % 2))
        assert "changes its window all the time" in await world.wait_gone(villain)
        await villain.close()
        assert (await job.wait_ended()).state == "done"
        job.check_right()


async def test_what_workers_say_waits_while_this_nodes_disk_is_slow(autojump_clock):
    """Every answer takes five seconds to be written down; meanwhile nothing may pile up without end."""
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        keep = job.keep

        async def keep_slowly(answer, tasks):
            await trio.sleep(5.0)
            await keep(answer, tasks)

        job.keep = keep_slowly
        sides = [await join(world, f"chatterer {number}") for number in range(20)]
        await world.honest_worker()
        for side in sides:
            for frames in range(90):
                await side.say(Window(frames % 2))
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.role._driver._events) <= EVENTS_OF_PEERS_MAX + len(sides)
        for side in sides:
            await side.close()
        assert (await job.wait_ended()).state == "done"
        job.check_right()


async def test_a_worker_that_vanishes_in_the_middle_of_an_answer_is_lost(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        for cut in (1, 3, 50, 200):
            villain = await join(world, f"villain {cut}", window=1)
            frame, body = await next_frame(villain)
            _, outputs = answer_to(frame, body, villain.keys)
            await villain.raw.write((b"\x7f\x01" + outputs * 20)[:cut])
            await villain.close()
            await villain.hear_end()
        await finish_honestly(world, job)
        assert job.kept[0][0] == MemoryKeys(b"honest").peer_id


# --- large outputs -------------------------------------------------------------------------------------------------------


async def test_outputs_come_as_a_blob_where_the_worker_says_so(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(4, verify="none")
        side = await join(world, window=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, side)
            while not job.has_ended.is_set():
                with trio.move_on_after(5.0):
                    frame, body = await next_frame(side)
                    results, outputs = answer_to(frame, body, side.keys)
                    cid = await world.remote.put(outputs)
                    await side.say(replace(results, outputs=cid, outputs_bytes=len(outputs)))
            nursery.cancel_scope.cancel()
        job.check_right()
        await side.close()


@pytest.mark.parametrize("there", ["nothing", "more", "less", "something else"])
async def test_a_blob_that_is_not_what_was_said_costs_the_worker_its_place(autojump_clock, there):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        villain = await join(world)
        read = []
        original = world.blobs.read

        async def note(cid):
            read.append(cid)
            return await original(cid)

        world.blobs.read = note
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, villain)
            frame, body = await next_frame(villain)
            results, outputs = answer_to(frame, body, villain.keys)
            data = {
                "nothing": b"x",
                "more": outputs + bytes(8),
                "less": outputs[:-4],
                "something else": bytes(len(outputs)),
            }
            cid = await world.remote.put(data[there])
            if there == "nothing":
                world.remote._entries.clear()
            await villain.say(replace(results, outputs=cid, outputs_bytes=len(outputs)))
            assert await world.wait_gone(villain) == f"the outputs of frame {frame.frame} cannot be had"
            nursery.cancel_scope.cancel()
        assert (cid in read) == (there in ("less", "something else")), "a blob larger than announced is not read"
        assert job.kept == {}
        await finish_honestly(world, job, villain)


# --- this node's own troubles --------------------------------------------------------------------------------------------


async def test_no_frame_of_a_job_follows_its_end(autojump_clock):
    """The inputs of a frame are still being put together when its job ends."""
    async with coordinator_world() as world:
        job = world.accept(TASKS, deadline_s=1.0)
        job.inputs_take_s = 2.0
        role = await world.honest_worker()
        end = await job.wait_ended()
        assert end.state == "failed"
        await trio.sleep(3.0)
        other = world.accept(TASKS, job=OTHER_JOB)
        assert (await other.wait_ended()).state == "done"
        assert role.computing.tasks_done == TASKS, "the worker was sent what nobody wanted any more"
        assert world.ends == {}


async def test_a_disk_that_fails_ends_the_job_and_no_worker_is_blamed(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)
        job.error = StateUnusable("the disk is full")
        role = await world.honest_worker()
        end = await job.wait_ended()
        assert (end.state, end.kind, end.reason) == ("failed", "StateUnusable", "the disk is full")
        other = world.accept(TASKS, job=OTHER_JOB)
        assert (await other.wait_ended()).state == "done"
        assert role.picture.coordinators == 1


async def test_inputs_that_have_gone_end_the_job_and_no_worker_is_blamed(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(TASKS)

        async def gone(tasks):
            raise InputError("x.npy has gone")

        job.inputs = gone
        await world.honest_worker()
        end = await job.wait_ended()
        assert (end.state, end.kind, end.reason) == ("failed", "InputError", "x.npy has gone")


async def test_a_job_is_worked_off_by_several_workers_and_this_node(autojump_clock):
    async with coordinator_world() as world:
        job = world.accept(500)
        for name in ("a", "b", "c"):
            await world.honest_worker(name)
        await world.honest_worker("own", offer=LOCAL)
        end = await job.wait_ended()
        assert end.state == "done"
        assert len(end.picture.peers) == 4
        assert end.picture.audits_failed == 0
        job.check_right()
