"""A volunteer against coordinators of every kind: it serves the good, says goodbye to the bad, and keeps nothing."""

import hashlib
import time
from contextlib import nullcontext, suppress
from dataclasses import replace

import numpy as np
import pytest
import trio
from role_world import (
    JOB,
    MODEL,
    OTHER_JOB,
    WIDTH,
    NumpyExecutor,
    frame_of,
    header_of,
    right,
    stay_alive,
    worker_world,
)

from peerinfer.blobs import chunks_of, index_of
from peerinfer.codec import encode
from peerinfer.envelope import unseal
from peerinfer.errors import OutOfMemory, ProtocolError, StreamClosed, WorkerDied
from peerinfer.limits import (
    COORDINATORS_MAX,
    FRAME_TASKS_MAX,
    HELLO_TIMEOUT_S,
    INLINE_BYTES_MAX,
    KEEPALIVE_IDLE_S,
    SILENCE_IDLE_MAX_S,
    SILENCE_MAX_S,
    WRITE_TIMEOUT_S,
)
from peerinfer.messages import (
    Cancel,
    Goodbye,
    Hello,
    JobBrief,
    JobDone,
    KeepAlive,
    Receipt,
    Refused,
    Results,
    Term,
    Window,
)
from peerinfer.tensors import TensorSpec
from peerinfer_node.driver import EVENTS_OF_PEERS_MAX
from peerinfer_node.keys import MemoryKeys
from peerinfer_node.ports import BatchResult
from peerinfer_node.roles.frames import check_frame
from peerinfer_node.roles.worker import OUTBOX_MAX

TERM = Term(1, MemoryKeys(b"coordinator").peer_id)


# --- good coordinators ---------------------------------------------------------------------------------------------


async def test_a_frame_is_answered_with_its_results_and_a_receipt(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        assert (await side.hear(Window)).frames == 2
        await world.brief(side)
        frame, body = frame_of(7, [3, 5], term=TERM, items=2)
        await side.say(frame, [body])
        results = await side.hear(Results)
        y = right(np.frombuffer(body, np.float32).reshape(4, WIDTH))
        assert side.body == y.tobytes()
        assert (results.frame, results.failures, results.groups[0].positions) == (7, (), (0, 1))
        author, receipt = unseal(Receipt, results.receipt, signer=world.keys.peer_id)
        assert author == world.keys.peer_id
        assert (receipt.job, receipt.term, receipt.frame, receipt.tasks) == (JOB, TERM, 7, (3, 5))
        assert receipt.outputs_digest == hashlib.sha256(side.body).digest()
        assert (receipt.kind, receipt.provider) == ("cpu", "NumPy")
        assert abs(receipt.at_s - time.time()) < 60
        assert world.role.computing.tasks_done == 2
        assert world.role.computing.items_done == 4
        assert (world.role.computing.given.tasks, world.role.computing.given.items) == (2, 4)
        await side.close()


async def test_the_model_is_fetched_once(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        brief = await world.brief(side)
        for number in range(3):
            frame, body = frame_of(number, [number], term=TERM)
            await side.say(frame, [body])
            await side.hear(Results)
        assert world.fetches == [brief.model]
        await side.close()


async def test_while_one_frame_computes_the_next_has_already_arrived(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=TERM)
            await side.say(frame, [body])
        assert [(await side.hear(Results)).frame for _ in range(2)] == [1, 2]
        await side.close()


async def test_large_inputs_and_outputs_travel_as_blobs(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        items = 5 * 1024 * 1024 // (4 * WIDTH)
        frame, body = frame_of(1, [0], term=TERM, items=items)
        cid = await world.remote.put(body)
        frame, _ = frame_of(1, [0], term=TERM, items=items, inputs=cid, inputs_bytes=len(body))
        await side.say(frame)
        results = await side.hear(Results)
        assert side.body == b""
        assert results.outputs_bytes == len(body)
        outputs = await world.blobs.read(results.outputs)
        assert outputs == right(np.frombuffer(body, np.float32)).tobytes()
        await side.close()


async def test_a_job_that_is_done_is_forgotten(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        await side.say(JobDone(JOB))
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        assert "did not introduce" in await side.hear_end()


# --- the volunteer's own hand ----------------------------------------------------------------------------------------


async def test_a_paused_volunteer_hands_its_frames_back_unrun_and_closes_its_window(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await side.hear(Window)
        await world.brief(side)
        world.executor.takes_s = 100.0
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=TERM)
            await side.say(frame, [body])
        await trio.sleep(1.0)
        world.role.pause("the owner plays a game")
        heard = [await side.hear(Refused, Window) for _ in range(3)]
        refused = [message for message in heard if isinstance(message, Refused)]
        assert {message.frame for message in refused} == {1, 2}
        assert not any(message.final for message in refused)
        assert Window(0, "the owner plays a game") in heard
        assert world.executor.stopped == 1
        world.role.resume()
        assert await side.hear(Window) == Window(2, "")
        await side.close()


async def test_the_last_window_that_arrives_is_the_last_that_was_set(autojump_clock):
    """A worker that pauses and resumes at once must not be left with a closed window at its coordinator."""
    for _ in range(10):
        async with worker_world() as world:
            side = await world.coordinator()
            await side.hear(Window)
            for _ in range(5):
                world.role.pause("now")
                world.role.resume()
            heard = [(await side.hear(Window)).frames for _ in range(10)]
            assert heard == [0, 2] * 5
            await side.close()


async def test_a_pause_ends_by_itself(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await side.hear(Window)
        world.role.pause("a meeting", until_s=trio.current_time() + 20.0)
        assert (await side.hear(Window)).frames == 0
        before_s = trio.current_time()
        assert (await side.hear(Window)).frames == 2
        assert trio.current_time() - before_s == pytest.approx(20.0, abs=0.1)
        await side.close()


async def test_a_volunteer_that_finishes_answers_what_it_has_and_takes_no_more(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await side.hear(Window)
        await world.brief(side)
        frame, body = frame_of(1, [1], term=TERM)
        await side.say(frame, [body])
        await trio.sleep(0.001)
        world.role.finish()
        assert (await side.hear(Window)).frames == 0
        assert (await side.hear(Results)).frame == 1
        await world.role.finished.wait()
        frame, body = frame_of(2, [2], term=TERM)
        await side.say(frame, [body])
        assert (await side.hear(Refused)).frame == 2
        await side.close()


async def test_the_window_is_kept_by_the_worker_even_if_the_coordinator_ignores_it(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 1.0
        for number in range(10):
            frame, body = frame_of(number, [number], term=TERM)
            await side.say(frame, [body])
        answers = [await side.hear(Results, Refused) for _ in range(10)]
        refused = [answer for answer in answers if isinstance(answer, Refused)]
        assert len(refused) == 8
        assert {answer.reason for answer in refused} == {"more frames than the window allows"}
        assert not any(answer.final for answer in refused)
        await side.close()


# --- what goes wrong while it runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "kind"), [(WorkerDied("it is gone"), "crash"), (OutOfMemory("too large"), "memory")])
async def test_a_device_that_fails_fails_the_tasks_of_its_frame_with_the_kind(autojump_clock, error, kind):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.error = error
        frame, body = frame_of(1, [4, 5], term=TERM)
        await side.say(frame, [body])
        results = await side.hear(Results)
        assert [(failure.position, failure.kind) for failure in results.failures] == [(0, kind), (1, kind)]
        assert results.groups == ()
        unseal(Receipt, results.receipt, signer=world.keys.peer_id)
        await side.close()


async def test_a_model_that_is_refused_is_refused_for_good(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side, model=b"something else")
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        refused = await side.hear(Refused)
        assert refused.final
        assert refused.reason == "refuses the model: not a model of ours"
        await side.close()


async def test_a_model_that_cannot_be_fetched_is_refused_for_now(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        brief = await world.brief(side)
        world.remote._entries.clear()
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        refused = await side.hear(Refused)
        assert not refused.final
        assert brief.model in refused.reason
        await side.close()


@pytest.mark.parametrize("announced", [0, 1, len(MODEL) - 1])
async def test_a_model_larger_than_announced_is_not_even_read(autojump_clock, announced):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side, model_bytes=announced)
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        assert "were announced" in (await side.hear(Refused)).reason
        await side.close()


@pytest.mark.parametrize("extra", [-4, 4, 4 * 1024 * 1024])
async def test_an_inputs_blob_of_another_size_is_refused(autojump_clock, extra):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        _, body = frame_of(1, [0], term=TERM, items=BLOB_ITEMS)
        cid = await world.remote.put(body + bytes(extra) if extra > 0 else body[:extra])
        frame, _ = frame_of(1, [0], term=TERM, items=BLOB_ITEMS, inputs=cid, inputs_bytes=len(body))
        await side.say(frame)
        assert (await side.hear(Refused)).frame == 1
        assert world.executor.runs == 0
        await side.close()


async def test_an_answer_that_has_no_room_in_a_header_makes_its_tasks_travel_alone(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        reason = "\N{SNOWMAN}" * 500
        failures = tuple((position, "model", reason) for position in range(FRAME_TASKS_MAX))
        world.executor.result = BatchResult((), failures)
        frame, body = frame_of(1, range(FRAME_TASKS_MAX), term=TERM)
        await side.say(frame, [body])
        results = await side.hear(Results)
        assert {failure.kind for failure in results.failures} == {"memory"}
        assert len(results.failures) == FRAME_TASKS_MAX
        await side.close()


async def test_a_cancelled_frame_is_stopped_and_not_answered(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 100.0
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=TERM)
            await side.say(frame, [body])
        await trio.sleep(0.1)
        await side.say(Cancel(2, "not needed"))
        await side.say(Cancel(1, "not needed"))
        await side.say(Cancel(99, "never was"))
        world.executor.takes_s = 0.01
        frame, body = frame_of(3, [3], term=TERM)
        await side.say(frame, [body])
        assert (await side.hear(Results, Refused)).frame == 3
        assert world.executor.stopped == 1
        await side.close()


async def test_a_cancel_that_comes_while_the_answer_is_written_leaves_no_half_message(autojump_clock):
    """The answer is larger than the stream takes at once, so the worker is in the middle of it when the cancel comes."""
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        items = 2 * 1024 * 1024 // (4 * WIDTH)
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=TERM, items=items)
            await side.say(frame, [body])
        await trio.sleep(1.0)
        await side.say(Cancel(1, "late"))
        await side.say(Cancel(2, "late"))
        await trio.sleep(1.0)
        frame, body = frame_of(3, [3], term=TERM)
        await side.say(frame, [body])
        answered = [(await side.hear(Results)).frame for _ in range(2)]
        assert answered[0] == 1
        await side.close()


async def test_a_coordinator_that_reads_slowly_does_not_hold_the_device(autojump_clock):
    async with worker_world() as world:
        slow = await world.coordinator("slow")
        await world.brief(slow)
        items = 2 * 1024 * 1024 // (4 * WIDTH)
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=Term(1, slow.keys.peer_id), items=items)
            await slow.say(frame, [body])
        await trio.sleep(1.0)
        side = await world.coordinator()
        await world.brief(side, job=OTHER_JOB)
        frame, body = frame_of(1, [0], term=TERM, job=OTHER_JOB)
        before_s = trio.current_time()
        await side.say(frame, [body])
        await side.hear(Results)
        assert trio.current_time() - before_s < 1.0
        await side.close()
        await slow.close()
        await slow.hear_end()


async def test_a_coordinator_that_reads_nothing_is_left_in_time(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        items = 2 * 1024 * 1024 // (4 * WIDTH)
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=TERM, items=items)
            await side.say(frame, [body])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, side)
            await trio.sleep(2 * WRITE_TIMEOUT_S)
            assert world.role._links == {}


async def test_a_coordinator_that_floods_and_reads_nothing_costs_a_bounded_number_of_refusals(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 1000.0
        sent = 0
        while world.role._links:
            frame, body = frame_of(sent, [0], term=TERM)
            with suppress(StreamClosed):
                await side.say(frame, [body])
            sent += 1
            assert sent < 100_000
            assert len(world.role._held) <= EVENTS_OF_PEERS_MAX + 2
            assert all(waiting(link) <= OUTBOX_MAX for link in world.role._links.values())
        await side.raw.reset()


def waiting(link):
    return link.outbox.statistics().current_buffer_used


# --- bad coordinators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"\xff" * 64,
        b"\x05\x00hello",
        b"GET / HTTP/1.1\r\n\r\n" + bytes(200),
        b"\x00\x00",
        b"\x80" * 20,
        b"\xff\xff\xff\x7f\x00",
        b"\x02\xff\xff\xff\x7f\x91\x09",
    ],
    ids=repr,
)
@pytest.mark.parametrize("greets", [True, False])
async def test_garbage_ends_the_stream(autojump_clock, said, greets):
    async with worker_world() as world:
        side = await world.coordinator(greets=greets)
        await side.raw.write(said)
        await side.hear_end()
        await side.close()
        with trio.fail_after(5):
            await world.check_idle()


async def test_garbage_after_the_greeting_is_answered_with_a_goodbye_that_says_why(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await side.raw.write(b"\x05\x00hello")
        assert await side.hear_end() == "not a message: unpack(b) received extra data."


@pytest.mark.parametrize("message", [Window(2), Hello(1, "again", "lab"), Refused(1, "no", True)])
async def test_what_a_coordinator_has_no_business_to_say_ends_the_stream(autojump_clock, message):
    async with worker_world() as world:
        side = await world.coordinator()
        await side.say(message)
        assert f"sent {type(message).__name__} to a worker" in await side.hear_end()


async def test_a_frame_before_its_brief_ends_the_stream(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        assert "sent a frame of a job that it did not introduce" in await side.hear_end()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "no cid"}, "names a model that is no cid"),
        ({"job": "no job"}, "names a job that is no job id"),
        ({"timeout_s": 0.0}, "allows 0.0 s"),
        ({"timeout_s": -5.0}, "allows -5.0 s"),
        ({"timeout_s": 1e300}, "allows 1e"),
    ],
)
async def test_a_brief_that_makes_no_sense_ends_the_stream(autojump_clock, changes, complaint):
    async with worker_world() as world:
        side = await world.coordinator()
        cid = await world.remote.put(MODEL)
        values = {
            "job": JOB,
            "term": TERM,
            "model": cid,
            "model_bytes": 1,
            "outputs": (),
            "merge": True,
            "timeout_s": 1.0,
        }
        await side.say(JobBrief(**(values | changes)))
        assert complaint in await side.hear_end()


BRIEF = JobBrief(JOB, TERM, "c", 1, (), True, 1.0)
SPEC = TensorSpec("x", "float32", (2, WIDTH))
CID = "b" * 59
BLOB_ITEMS = INLINE_BYTES_MAX // (4 * WIDTH) + 1
"""The fewest that travel as a blob."""

WRONG_FRAMES = {
    "no tasks": {"tasks": (), "attempts": (), "items": ()},
    "a task twice": {"tasks": (1, 1)},
    "fewer attempts than tasks": {"attempts": (0,)},
    "more items than tasks": {"items": (1, 1, 1)},
    "a task without items": {"items": (2, 0)},
    "no tensors": {"tensors": ()},
    "two tensors of one name": {"tensors": (SPEC, SPEC)},
    "more rows than items": {"tensors": (TensorSpec("x", "float32", (3, WIDTH)),)},
    "fewer rows than items": {"items": (2, 1)},
    "a larger tensor than its body": {"tensors": (TensorSpec("x", "float64", (2, WIDTH)),)},
    "a smaller tensor than its body": {"tensors": (TensorSpec("x", "float16", (2, WIDTH)),)},
    "an endless tensor": {"tensors": (TensorSpec("x", "float32", (2, 1 << 47, 1 << 47)),)},
    "a body and a blob": {"inputs": CID, "inputs_bytes": 32},
    "an older term than the brief's": {"term": Term(0, TERM.candidate)},
    "a term of another coordinator": {"term": Term(9, "b" * 40)},
}


@pytest.mark.parametrize("changes", WRONG_FRAMES.values(), ids=WRONG_FRAMES)
async def test_a_frame_whose_numbers_do_not_fit_ends_the_stream(autojump_clock, changes):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        _, body = frame_of(1, [0, 1], term=TERM)
        await side.say(replace(frame_of(1, [0, 1], term=TERM)[0], **changes), [body])
        assert "frame 1" in await side.hear_end()
        assert world.executor.runs == 0


@pytest.mark.parametrize(
    ("cid", "more_bytes", "problem"),
    [("no cid", 0, "no cid"), (CID, 0, "no cid"), (CID, -1, "claims"), (CID, 1, "claims")],
)
def test_a_frame_with_a_blob_that_cannot_be_is_refused(cid, more_bytes, problem):
    _, body = frame_of(1, [0], term=TERM, items=BLOB_ITEMS)
    size = len(body) + more_bytes
    frame, _ = frame_of(1, [0], term=TERM, items=BLOB_ITEMS, inputs=cid, inputs_bytes=size)
    with pytest.raises(ProtocolError, match=problem):
        check_frame(frame, BRIEF, 0)


def test_small_inputs_that_come_as_a_blob_are_refused():
    """The receipt would name a blob's index and the bytes of that index at once: with either one an honest worker lies."""
    for items, is_taken in ((BLOB_ITEMS - 1, False), (BLOB_ITEMS, True)):
        body = frame_of(1, [0], term=TERM, items=items)[1]
        cid = index_of(chunks_of(body)).cid
        frame, _ = frame_of(1, [0], term=TERM, items=items, inputs=cid, inputs_bytes=len(body))
        with nullcontext() if is_taken else pytest.raises(ProtocolError, match="which a message would hold"):
            check_frame(frame, BRIEF, 0)


async def test_a_frame_number_used_twice_ends_the_stream(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 100.0
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        await side.say(frame, [body])
        assert "used frame number 1 twice" in await side.hear_end()


async def test_a_coordinator_that_comes_back_may_use_its_numbers_again(autojump_clock):
    async with worker_world() as world:
        for _ in range(3):
            side = await world.coordinator()
            await world.brief(side)
            frame, body = frame_of(1, [0], term=TERM)
            await side.say(frame, [body])
            assert (await side.hear(Results)).frame == 1
            await side.close()
            await side.hear_end()


@pytest.mark.parametrize("cut", [1, 2, 10, 60, -1])
async def test_a_coordinator_that_stops_in_the_middle_of_a_frame_is_left(autojump_clock, cut):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        frame, body = frame_of(1, [0, 1], term=TERM)
        header = encode(frame)
        message = bytes([len(header) & 0x7F | 0x80, len(header) >> 7, len(body)]) + header + body
        await side.raw.write(message[:cut])
        await side.close()
        await side.hear_end()


async def test_a_coordinator_that_falls_silent_in_the_middle_of_a_frame_is_left(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        await side.raw.write(b"\x7f")
        began_s = trio.current_time()
        await side.hear_end()
        assert trio.current_time() - began_s <= SILENCE_IDLE_MAX_S + 2 * KEEPALIVE_IDLE_S


async def test_a_coordinator_that_vanishes_has_its_frames_stopped(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 1000.0
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=TERM)
            await side.say(frame, [body])
        await trio.sleep(0.5)
        await side.raw.reset()
        await trio.sleep(1.0)
        await world.check_idle()
        assert world.executor.stopped == 1
        assert world.executor.runs == 1


async def test_a_coordinator_that_says_nothing_while_its_frame_runs_is_left(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 1000.0
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        began_s = trio.current_time()
        await side.hear_end()
        assert SILENCE_MAX_S <= trio.current_time() - began_s <= SILENCE_MAX_S + 3.0


async def test_a_coordinator_that_keeps_alive_is_waited_for(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 100.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, side)
            frame, body = frame_of(1, [0], term=TERM)
            await side.say(frame, [body])
            assert (await side.hear(Results)).frame == 1
            nursery.cancel_scope.cancel()
        await side.close()


async def test_a_frame_that_takes_long_to_arrive_is_no_silence(autojump_clock):
    """8 Mbit over a line of 0.5 Mbit/s: no message is whole for sixteen seconds, while another frame runs."""
    async with worker_world() as world:
        side = await world.coordinator()
        await world.brief(side)
        world.executor.takes_s = 60.0
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        frame, body = frame_of(2, [1], term=TERM, items=1024 * 1024 // (4 * WIDTH))
        header = encode(frame)
        message = bytes([len(header) & 0x7F | 0x80, len(header) >> 7, 0x80, 0x80, 0x40]) + header + body
        for start in range(0, len(message), 64 * 1024):
            await side.raw.write(message[start : start + 64 * 1024])
            await trio.sleep(1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay_alive, side)
            assert (await side.hear(Results)).frame == 1
            nursery.cancel_scope.cancel()
        await side.close()


# --- greetings -------------------------------------------------------------------------------------------------------


async def test_another_version_is_told_so(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator(greets=False)
        await side.greet(version=2)
        reason = await side.hear_end()
        assert reason == "speaks protocol version 2, this node speaks 1; upgrade the older one"


async def test_another_swarm_is_told_so(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator(greets=False)
        await side.greet(swarm="elsewhere")
        assert await side.hear_end() == "belongs to swarm 'elsewhere', this node to 'lab'"


async def test_who_does_not_greet_in_time_is_left(autojump_clock):
    async with worker_world() as world:
        side = await world.coordinator(greets=False)
        began_s = trio.current_time()
        await side.hear_end()
        assert trio.current_time() - began_s == pytest.approx(HELLO_TIMEOUT_S, abs=2.0)


@pytest.mark.parametrize("first", [KeepAlive(), JobDone(JOB), Cancel(1, "x"), Goodbye("no")])
async def test_who_says_something_else_first_is_left(autojump_clock, first):
    async with worker_world() as world:
        side = await world.coordinator(greets=False)
        await side.raw.write(header_of(first))
        await side.hear_end()
        assert world.role._links == {}


async def test_a_second_stream_of_the_same_coordinator_is_turned_away_and_the_first_goes_on(autojump_clock):
    async with worker_world() as world:
        first = await world.coordinator()
        second = await world.coordinator()
        assert await second.hear_end() == "one work stream for each coordinator"
        await world.brief(first)
        frame, body = frame_of(1, [0], term=TERM)
        await first.say(frame, [body])
        assert (await first.hear(Results)).frame == 1
        await first.close()


async def test_without_a_sandbox_nothing_is_run_for_strangers_unless_its_owner_says_so(autojump_clock):
    async with worker_world() as world:
        world.executor.sandbox = "none"
        assert "--allow-unsandboxed" in await (await world.coordinator()).hear_end()
        world.role._allows_unsandboxed = True
        side = await world.coordinator()
        await world.brief(side)
        frame, body = frame_of(1, [0], term=TERM)
        await side.say(frame, [body])
        assert (await side.hear(Results)).frame == 1
        await side.close()


async def test_without_a_sandbox_a_node_still_runs_its_own_jobs(autojump_clock):
    async with worker_world() as world:
        world.executor.sandbox = "none"
        assert world.role._objection(world.keys.peer_id) == ""
        assert "sandbox" in world.role._objection(MemoryKeys(b"stranger").peer_id)


async def test_strangers_leave_a_place_for_the_volunteers_own_jobs(autojump_clock):
    async with worker_world() as world:
        strangers = [await world.coordinator(f"stranger {number}") for number in range(COORDINATORS_MAX - 1)]
        one_more = await world.coordinator("one more")
        assert await one_more.hear_end() == "serves 15 coordinators already; try later"
        own = await world.coordinator("worker")
        assert (await own.hear(Window)).frames == 2
        await strangers.pop().close()
        await trio.sleep(2.0)
        late = await world.coordinator("one more")
        assert (await late.hear(Window)).frames == 2
        for side in [*strangers, own, late]:
            await side.close()


async def test_coordinators_take_turns(autojump_clock):
    async with worker_world() as world:
        sides = [await world.coordinator(name) for name in ("a", "b")]
        for side in sides:
            await world.brief(side, job=JOB if side is sides[0] else OTHER_JOB)
        world.executor.takes_s = 1.0
        finished = []

        async def use(side, job):
            for number in range(4):
                frame, body = frame_of(number, [number], term=Term(1, side.keys.peer_id), job=job)
                await side.say(frame, [body])
                await side.hear(Results)
                finished.append(job)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, sides[0], JOB)
            nursery.start_soon(use, sides[1], OTHER_JOB)
        assert finished[:2] in ([JOB, OTHER_JOB], [OTHER_JOB, JOB])
        assert finished[:4].count(JOB) == 2
        for side in sides:
            await side.close()


async def test_two_devices_run_two_frames_at_once(autojump_clock):
    async with worker_world(devices=2) as world:
        side = await world.coordinator()
        assert (await side.hear(Window)).frames == 4
        await world.brief(side)
        for executor in world.executors:
            assert isinstance(executor, NumpyExecutor)
            executor.takes_s = 3.0
        began_s = trio.current_time()
        for number in (1, 2):
            frame, body = frame_of(number, [number], term=TERM)
            await side.say(frame, [body])
        for _ in range(2):
            await side.hear(Results)
        assert trio.current_time() - began_s < 4.0
        await side.close()
