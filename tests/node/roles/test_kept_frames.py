"""Workers keep what they computed for a coordinator that is gone, and answer the next one without a second run."""

from dataclasses import replace

import trio
import trio.testing
from lease_setting import PEERS, Setting, keys, term
from role_world import MODEL, frame_of, worker_world

from peerinfer.blobs import chunks_of, index_of
from peerinfer.envelope import seal, unseal
from peerinfer.limits import KEPT_FRAMES_MAX, KEPT_RESULTS_BYTES_MAX
from peerinfer.manifests import open_manifest
from peerinfer.messages import Cancel, Goodbye, JobDone, Receipt, Results, ResultsHeld, Window
from peerinfer_node.ports import BatchResult, Group
from peerinfer_node.roles.kept_frames import KeptFrame, KeptFrames


def setting_of(electors, submitter):
    """A job of the model that the worker can run."""
    setting = Setting(electors=electors, submitter=submitter)
    manifest = replace(setting.manifest, model=index_of(chunks_of(MODEL)).cid)
    setting.signed = seal(manifest, PEERS[submitter], keys(submitter).sign)
    setting.job, setting.manifest = open_manifest(setting.signed)
    return setting


SETTING = setting_of(electors=3, submitter=7)
JOB = SETTING.job


async def coordinator(world, number, *, revision=2):
    side = await world.coordinator(f"node {number}", greets=False)
    await side.greet(revision=revision)
    return side


async def brief(world, side, round_, *, setting=SETTING, **more):
    number = PEERS.index(side.keys.peer_id)
    grants = setting.grants(term(round_, number))
    return await world.brief(side, job=setting.job, term=round_, manifest=setting.signed, certificate=grants, **more)


def frame_by(side, number, tasks, round_, **more):
    return frame_of(number, tasks, job=JOB, term=term(round_, PEERS.index(side.keys.peer_id)), **more)


async def offers(side):
    """Everything that is offered before the first window."""
    found = []
    while type(heard := await side.hear(ResultsHeld, Window)) is ResultsHeld:
        found.append((heard.job, heard.tasks))
    return found


async def answer(side, frame, body):
    await side.say(frame, [body])
    return await side.hear(Results)


async def test_the_next_coordinator_is_told_what_is_there_and_answered_without_a_second_run(autojump_clock):
    async with worker_world() as world:
        first = await coordinator(world, 0)
        assert await offers(first) == []
        await brief(world, first, 1)
        frame, body = frame_by(first, 1, [4, 2], 1, items=3)
        before = await answer(first, frame, body)
        outputs = first.body
        await first.raw.reset()
        second = await coordinator(world, 1)
        assert await offers(second) == [(JOB, (4, 2))]
        await brief(world, second, 2)
        frame, body = frame_by(second, 9, [4, 2], 2, items=3)
        after = await answer(second, frame, body)
        assert second.body == outputs
        assert (after.groups, after.compute_s) == (before.groups, 0.0)
        assert world.executor.runs == 1
        assert world.role.computing.tasks_done == 2, "what was not computed again was counted again"
        _, receipt = unseal(Receipt, after.receipt, signer=world.keys.peer_id)
        assert (receipt.term, receipt.frame, receipt.compute_s) == (frame.term, 9, before.compute_s)
        await second.close()


async def test_what_runs_when_a_coordinator_dies_is_finished_and_offered(autojump_clock):
    async with worker_world() as world:
        world.executor.takes_s = 5.0
        first = await coordinator(world, 0)
        await brief(world, first, 1)
        for number in (1, 2):
            frame, body = frame_by(first, number, [number], 1)
            await first.say(frame, [body])
        await trio.sleep(1.0)
        await first.raw.reset()
        second = await coordinator(world, 1)
        assert await offers(second) == [(JOB, (1,))], "what waits is nobody's any more, what runs is"
        await brief(world, second, 2)
        began_s = trio.current_time()
        await answer(second, *frame_by(second, 7, [1], 2))
        assert trio.current_time() - began_s < 4.5
        assert (world.executor.runs, world.executor.stopped) == (1, 0)
        await second.close()


async def test_what_runs_for_a_coordinator_that_hands_over_is_finished_for_the_next(autojump_clock):
    async with worker_world() as world:
        world.executor.takes_s = 5.0
        first, second = await coordinator(world, 0), await coordinator(world, 1)
        assert await offers(second) == []
        await brief(world, first, 1)
        for number in (1, 2):
            frame, body = frame_by(first, number, [number], 1)
            await first.say(frame, [body])
        await trio.sleep(1.0)
        for number in (1, 2):
            await first.say(Cancel(number, "the lease was given back", goes_on=True))
        await trio.testing.wait_all_tasks_blocked()
        await brief(world, second, 2)
        assert (await second.hear(ResultsHeld)).tasks == (1,)
        await answer(second, *frame_by(second, 7, [1], 2))
        assert (world.executor.runs, world.executor.stopped) == (1, 0)
        await first.say(Goodbye("leaves"))
        assert await first.hear_end() == "no goodbye", "the one who handed over was answered"
        await second.close()


async def test_other_inputs_are_computed_whoever_says_that_they_are_the_same_task(autojump_clock):
    async with worker_world() as world:
        first = await coordinator(world, 0)
        await brief(world, first, 1)
        frame, body = frame_by(first, 1, [4], 1)
        await answer(first, frame, body)
        await first.raw.reset()
        second = await coordinator(world, 1)
        await brief(world, second, 2)
        frame, body = frame_by(second, 1, [4], 2)
        await answer(second, frame, body[::-1])
        assert world.executor.runs == 2
        await answer(second, *frame_by(second, 2, [4], 2, items=2))
        assert world.executor.runs == 3
        await second.close()


async def test_only_candidates_of_the_job_that_know_the_message_are_told(autojump_clock):
    async with worker_world() as world:
        first = await coordinator(world, 0)
        await brief(world, first, 1)
        await answer(first, *frame_by(first, 1, [4], 1))
        stranger, old = await coordinator(world, 5), await coordinator(world, 1, revision=1)
        assert await offers(stranger) == await offers(old) == []
        submitter = await coordinator(world, 7)
        assert await offers(submitter) == [(JOB, (4,))]
        for side in (first, stranger, old, submitter):
            await side.close()


async def test_a_coordinator_that_was_there_before_is_told_when_it_brings_the_job(autojump_clock):
    async with worker_world() as world:
        first, second = await coordinator(world, 0), await coordinator(world, 1)
        await brief(world, first, 1)
        assert await offers(second) == []
        await answer(first, *frame_by(first, 1, [4], 1))
        await first.close()
        await brief(world, second, 2)
        with trio.fail_after(5):
            assert (await second.hear(ResultsHeld)).tasks == (4,)
        await second.close()


async def test_what_nobody_else_may_coordinate_is_stopped_with_its_coordinator_and_not_kept(autojump_clock):
    alone = setting_of(electors=1, submitter=0)
    async with worker_world() as world:
        world.executor.takes_s = 5.0
        first = await coordinator(world, 0)
        await brief(world, first, 1, setting=alone)
        frame, body = frame_of(1, [4], job=alone.job, term=term(1, 0))
        await first.say(frame, [body])
        await trio.sleep(1.0)
        await first.raw.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert world.executor.stopped == 1
        again = await coordinator(world, 0)
        assert await offers(again) == []
        await again.close()


async def test_when_the_job_is_done_what_was_kept_goes_and_what_still_runs_is_stopped(autojump_clock):
    async with worker_world(devices=2) as world:
        first = await coordinator(world, 0)
        await brief(world, first, 1)
        await answer(first, *frame_by(first, 1, [4], 1))
        for executor in world.executors:
            executor.takes_s = 50.0
        frame, body = frame_by(first, 2, [5], 1)
        await first.say(frame, [body])
        await trio.sleep(1.0)
        await first.raw.reset()
        second = await coordinator(world, 1)
        assert len(await offers(second)) == 2
        await brief(world, second, 2)
        await second.say(JobDone(JOB))
        await trio.sleep(1.0)
        assert sum(executor.stopped for executor in world.executors) == 1
        third = await coordinator(world, 2)
        assert await offers(third) == []
        for side in (second, third):
            await side.close()


async def test_a_pause_stops_what_runs_for_a_coordinator_that_is_gone(autojump_clock):
    async with worker_world() as world:
        world.executor.takes_s = 50.0
        first = await coordinator(world, 0)
        await brief(world, first, 1)
        frame, body = frame_by(first, 1, [1], 1)
        await first.say(frame, [body])
        await trio.sleep(1.0)
        await first.raw.reset()
        await trio.sleep(1.0)
        assert world.executor.running
        world.role.pause("its owner needs it")
        await trio.sleep(1.0)
        assert world.executor.stopped == 1
        world.role.resume()


def kept(size, **more):
    result = BatchResult((Group((0,), (), bytes(size)),), (), 1.0)
    return replace(KeptFrame(b"digest", frozenset(("ada",)), result, None), **more)


def test_the_newest_frames_are_kept_and_no_more_than_the_memory_allows():
    frames = KeptFrames()
    for number in range(KEPT_FRAMES_MAX + 5):
        frames.keep("job", (number,), kept(10))
    assert [tasks for _, tasks in frames.of("ada")] == [(number,) for number in range(5, KEPT_FRAMES_MAX + 5)]
    frames.keep("job", (1000,), kept(KEPT_RESULTS_BYTES_MAX + 1))
    assert frames.find("job", (1000,), b"digest") is None
    frames.keep("job", (1001,), kept(KEPT_RESULTS_BYTES_MAX))
    assert frames.of("ada") == [("job", (1001,))]
    frames.keep("job", (1001,), kept(1))
    frames.keep("job", (1002,), kept(KEPT_RESULTS_BYTES_MAX - 1))
    assert len(frames.of("ada")) == 2
    assert frames.of("bob") == []
    frames.forget("job")
    assert frames.of("ada") == []
    frames.keep("other", (1,), kept(KEPT_RESULTS_BYTES_MAX))
    assert frames.of("ada", "other") == [("other", (1,))]


def test_a_frame_of_which_a_task_failed_is_not_kept():
    frames = KeptFrames()
    frames.keep("job", (1, 2), kept(1, result=BatchResult((), ((1, "memory", "too large"),), 1.0)))
    assert frames.of("ada") == []
