"""What a coordinator may do to a worker: it cannot shut another one out of its own job."""

from dataclasses import replace

import pytest
from lease_setting import PEERS, Setting, keys
from role_world import MODEL, Side, frame_of, worker_world

from peerinfer.limits import TERM_ROUND_MAX
from peerinfer.messages import JobBrief, Refused, Results, Term
from peerinfer_node.network.loopback import stream_pair

SETTING = Setting()
HOLDER, VILLAIN = 0, 5


async def coordinate(world, number):
    """A coordinator with the key of one of the setting's nodes."""
    ours, theirs = stream_pair(PEERS[number], world.keys.peer_id)
    world.nursery.start_soon(world._serve, theirs)
    side = Side(keys(number), ours)
    await side.greet()
    return side


async def brief_of(world, term, **changed):
    cid = await world.remote.put(MODEL)
    return replace(JobBrief(SETTING.job, term, cid, len(MODEL), (), True, 10.0), **changed)


async def answer(side, number, term):
    frame, body = frame_of(number, [number], job=SETTING.job, term=term)
    await side.say(frame, [body])
    return await side.hear(Results, Refused)


async def test_a_huge_term_for_the_job_of_another_does_not_shut_its_coordinator_out(autojump_clock):
    async with worker_world() as world:
        villain, holder = await coordinate(world, VILLAIN), await coordinate(world, HOLDER)
        huge, real = Term(TERM_ROUND_MAX, PEERS[VILLAIN]), Term(3, PEERS[HOLDER])
        await villain.say(await brief_of(world, huge))
        assert isinstance(await answer(villain, 1, huge), Results)
        await holder.say(await brief_of(world, real, manifest=SETTING.signed, certificate=SETTING.grants(real)))
        assert isinstance(await answer(holder, 1, real), Results)
        # From here on the real term is known, and the villain has nothing to say.
        refused = await answer(villain, 2, huge)
        assert isinstance(refused, Refused)
        assert refused.final
        assert "has no certificate" in refused.reason
        assert isinstance(await answer(holder, 2, real), Results)


REAL = Term(3, PEERS[VILLAIN])
FORGED = {
    "grants of strangers": {"certificate": Setting(electors=8).grants(REAL, [5, 6, 7], job=SETTING.job)},
    "too few grants": {"certificate": SETTING.grants(REAL, [0])},
    "one grant twice": {"certificate": SETTING.grants(REAL, [0]) * 2},
    "grants for another term": {"certificate": SETTING.grants(Term(2, PEERS[HOLDER]))},
    "grants for another job": {"certificate": SETTING.grants(REAL, job="1" * 32)},
    "garbage": {"certificate": (b"x", b"y")},
    "a damaged signature": {"certificate": tuple(grant[:-1] + b"x" for grant in SETTING.grants(REAL))},
    "the manifest of another job": {"manifest": Setting(nonce=1).signed},
    "a manifest of its own": {"manifest": Setting(electors=1, submitter=VILLAIN).signed},
    "no manifest": {"manifest": b""},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_forged_certificate_ends_the_stream(autojump_clock, forged):
    async with worker_world() as world:
        side = await coordinate(world, VILLAIN)
        whole = {"manifest": SETTING.signed, "certificate": SETTING.grants(REAL)}
        await side.say(await brief_of(world, REAL, **(whole | forged)))
        assert await side.hear_end()


async def test_a_model_that_the_jobs_manifest_does_not_name_ends_the_stream(autojump_clock):
    """Else a worker would sign, for one model, what it computed with another: a proof of a lie that it never told."""
    async with worker_world() as world:
        side = await coordinate(world, HOLDER)
        term = Term(3, PEERS[HOLDER])
        brief = await brief_of(world, term, manifest=SETTING.signed, certificate=SETTING.grants(term))
        await side.say(replace(brief, model=await world.blobs.put(b"another model")))
        assert "names another model" in await side.hear_end()


async def test_the_term_of_another_coordinator_ends_the_stream(autojump_clock):
    """Somebody else's certificate, replayed."""
    async with worker_world() as world:
        side = await coordinate(world, VILLAIN)
        real = Term(3, PEERS[HOLDER])
        await side.say(await brief_of(world, real, manifest=SETTING.signed, certificate=SETTING.grants(real)))
        assert "brings the term of another coordinator" in await side.hear_end()


async def test_a_coordinator_whose_term_is_over_is_refused_although_it_had_the_lease(autojump_clock):
    async with worker_world() as world:
        sides = [await coordinate(world, number) for number in (0, 1)]
        steps = ((0, 5, Results), (1, 4, Refused), (1, 6, Results), (0, 5, Refused))
        for frame, (number, round_, expected) in enumerate(steps):
            side = sides[number]
            term = Term(round_, PEERS[number])
            await side.say(await brief_of(world, term, manifest=SETTING.signed, certificate=SETTING.grants(term)))
            said = await answer(side, frame, term)
            assert isinstance(said, expected)
            if isinstance(said, Refused):
                assert said.final
                assert "is over: the job is coordinated in term" in said.reason
