"""A journal is a chain that only grows as its term's holder says, and changes whole or not at all."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_setting import PEERS, Setting, keys, term
from wire_strategies import SAME_EVERY_TIME

from peerinfer.codec import decode_as, encode
from peerinfer.envelope import seal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.journal import Chain, Divergence, entries_of
from peerinfer.journal_rules import GENESIS, NO_TERM
from peerinfer.journal_writer import PEERS_WRITTEN_MAX
from peerinfer.lease_certificate import check_grants
from peerinfer.lease_messages import (
    FAILED_TASK,
    JournalBatch,
)
from peerinfer.limits import (
    JOB_TASKS_MAX,
    JOURNAL_BATCH_BYTES_MAX,
    JOURNAL_BATCH_PEERS_MAX,
    JOURNAL_BATCH_TASKS_MAX,
    JOURNAL_BATCHES_PER_MESSAGE_MAX,
    JOURNAL_MESSAGE_BYTES_MAX,
    REASON_CHARS_MAX,
)
from peerinfer.messages import Signed
from peerinfer.register import Entry, Register
from peerinfer.snapshots import register_bytes_max

JOB = Setting()
ONE, TWO, THREE, FOUR = term(1, 0), term(2, 1), term(3, 2), term(4, 0)


def extend(chain: Chain, offered: Any, by: Any = FOUR, **more: Any) -> tuple[int, int]:
    return chain.extend(JOB.job, JOB.manifest, by, offered, **more)


def contents(chain: Chain) -> tuple[tuple[bytes, ...], list[Entry], str]:
    return chain.signed(0, len(chain)), list(chain.register.entries()), chain.ended


# --- the register ----------------------------------------------------------------------------------------------------


def test_a_register_says_who_computed_what() -> None:
    register = Register()
    register.put(Entry(5, bytes([1]) * 16, "alice"))
    register.put(Entry(5000, bytes([2]) * 16, ""))
    assert register.get(5) == Entry(5, bytes([1]) * 16, "alice")
    assert register.get(5000) == Entry(5000, bytes([2]) * 16, "")
    assert (register.get(6), register.get(1_000_000)) == (None, None)
    assert 5 in register
    assert 6 not in register
    assert (register.written, register.failed) == (2, 1)
    assert [entry.task for entry in register.entries()] == [5, 5000]


def test_a_register_is_written_once_until_it_is_erased() -> None:
    register = Register()
    register.put(Entry(5, bytes(16), ""))
    with pytest.raises(AssertionError, match="task 5 is written already"):
        register.put(Entry(5, bytes(16), ""))
    register.erase([5])
    assert (register.written, register.failed, 5 in register) == (0, 0, False)
    register.put(Entry(5, bytes([3]) * 16, "bob"))
    assert register.get(5) == Entry(5, bytes([3]) * 16, "bob")


def test_a_digest_of_zeros_by_the_first_worker_is_an_entry_like_others() -> None:
    register = Register()
    register.put(Entry(0, bytes(16), ""))
    assert register.get(0) == Entry(0, bytes(16), "")


# --- taking what the holder offers -----------------------------------------------------------------------------------


def test_an_empty_chain_takes_a_whole_journal_at_once_or_bit_by_bit() -> None:
    full = JOB.written((ONE, [[1, 2], [3]]), (TWO, [[4, 5]]))
    whole, bits = Chain(), Chain()
    assert extend(whole, full.signed(0, 99)) == (0, 5)
    for sequence in range(len(full)):
        assert extend(bits, full.signed(sequence, 1)) == (sequence, sequence + 1)
    assert contents(whole) == contents(bits) == contents(full)
    for chain in (whole, bits):
        chain.check()


def test_what_is_here_already_changes_nothing() -> None:
    full = JOB.written((ONE, [[1], [2]]))
    assert extend(full, full.signed(0, 99)) == (3, 3)
    assert extend(full, full.signed(1, 1)) == (3, 2)
    assert extend(full, ()) == (3, 0)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_batches_that_differ_give_way_to_the_holders(kept: int) -> None:
    """Also those of a higher term: the holder has read a quorum, so they were never committed (as in Raft)."""
    mine = JOB.written((ONE, [[1], [2]]), (THREE, [[7], [8]]))
    theirs = Chain()
    for sequence in range(kept):
        theirs.take(mine.signed(sequence, 1)[0])
    theirs.take(JOB.batch(theirs, TWO, event="takeover" if kept else "accepted"))
    theirs.take(JOB.batch(theirs, TWO, [7, 9], digest=bytes([9]) * 16))
    assert extend(mine, theirs.signed(kept, 9)) == (kept, kept + 2)
    assert contents(mine) == contents(theirs)
    mine.check()


def test_batches_of_the_holders_own_term_never_change() -> None:
    mine = JOB.written((ONE, [[1], [2]]))
    theirs = JOB.written((ONE, [[1], [3]]))
    before = contents(mine)
    with pytest.raises(ProtocolError, match="batch 2 is another one here"):
        extend(mine, theirs.signed(2, 1), ONE)
    assert contents(mine) == before


def test_batches_that_are_known_to_be_final_never_change() -> None:
    mine = JOB.written((ONE, [[1], [2]]))
    theirs = JOB.written((ONE, [[1]]), (TWO, []))
    with pytest.raises(ProtocolError, match="batch 2 is another one here"):
        extend(mine, theirs.signed(2, 1), floor=3)
    assert extend(mine, theirs.signed(2, 1), floor=2) == (2, 3)


def test_a_chain_that_is_behind_says_from_where_on() -> None:
    full = JOB.written((ONE, [[1], [2], [3]]))
    short = JOB.written((ONE, [[1]]))
    with pytest.raises(Divergence) as missing:
        extend(short, full.signed(3, 1))
    assert missing.value.sequence == 2


def test_a_chain_that_differs_asks_from_the_start_of_the_term_that_differs() -> None:
    mine = JOB.written((ONE, [[1]]), (TWO, [[2], [3], [4]]))
    theirs = JOB.written((ONE, [[1]]), (THREE, [[5], [6], [7]]))
    with pytest.raises(Divergence) as missing:
        extend(mine, theirs.signed(5, 1))
    assert missing.value.sequence == 2
    assert extend(mine, theirs.signed(2, 9)) == (2, 6)


def test_a_journal_of_another_job_of_the_same_committee_is_refused() -> None:
    other = Setting(nonce=1).written((ONE, [[1]]))
    with pytest.raises(ProtocolError, match="another job"):
        extend(Chain(), other.signed(0, 9))


Change = Callable[[Chain], bytes]
REFUSED: dict[str, tuple[str, Change]] = {
    "signed by another candidate": ("another than its term's", lambda c: JOB.batch(c, ONE, [9], signer=1)),
    "of another job": ("another job", lambda c: JOB.batch(c, ONE, [9], job="0" * 32)),
    "of a higher term than its holder's": ("higher term", lambda c: JOB.batch(c, term(9, 0), event="takeover")),
    "of a term below": ("only grow", lambda c: JOB.batch(c, term(0, 0), [9])),
    "of a new term without an opening": ("opening batch", lambda c: JOB.batch(c, TWO, [9])),
    "opening a term twice": ("opening batch", lambda c: JOB.batch(c, ONE, event="takeover")),
    "accepted twice": ("opening batch", lambda c: JOB.batch(c, TWO, event="accepted")),
    "of a task too many": ("has not", lambda c: JOB.batch(c, ONE, [100])),
    "naming a task twice": ("twice", lambda c: JOB.batch(c, ONE, [9, 9])),
    "writing a task again": ("written already", lambda c: JOB.batch(c, ONE, [1])),
    "writing a task again with the same digest": ("written already", lambda c: JOB.batch(c, ONE, [2])),
    "with a digest too few": ("not as many", lambda c: JOB.batch(c, ONE, [8, 9], digests=bytes(16))),
    "with a digest cut": ("not as many", lambda c: JOB.batch(c, ONE, [9], digests=bytes(15))),
    "with a worker too few": ("not as many", lambda c: JOB.batch(c, ONE, [8, 9], workers=(0,))),
    "naming nobody": ("does not list", lambda c: JOB.batch(c, ONE, [9], workers=(1,))),
    "with a worker without a name": ("without a name", lambda c: JOB.batch(c, ONE, [9], peers=("",))),
    "with an event of the future": ("does not know", lambda c: JOB.batch(c, ONE, [9], event="paused")),
    "saying nothing": ("says nothing", lambda c: JOB.batch(c, ONE)),
    "without a certificate": ("0 grants", lambda c: JOB.batch(c, TWO, event="takeover", certificate=())),
    "with one grant too few": (
        "1 grants",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=JOB.grants(TWO, [0])),
    ),
    "with one grant twice": (
        "1 grants",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=JOB.grants(TWO, [0, 0, 0])),
    ),
    "with grants of strangers": (
        "1 grants",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=JOB.grants(TWO, [0, 4, 5, 6])),
    ),
    "with grants of another term": (
        "something else",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=JOB.grants(THREE)),
    ),
    "with grants of another job": (
        "something else",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=Setting(nonce=1).grants(TWO)),
    ),
    "with grants of another epoch": (
        "something else",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=JOB.grants(TWO, epoch=1)),
    ),
    "with nonsense for grants": (
        "not valid",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=(b"nonsense", b"")),
    ),
    "with a batch for a grant": (
        "not valid",
        lambda c: JOB.batch(c, TWO, event="takeover", certificate=c.signed(0, 2)),
    ),
    "that does not follow the one before it": (
        "follow each other",
        lambda c: JOB.batch(c, ONE, [9], previous=bytes(32)),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_batch_is_refused_that_is(name: str) -> None:
    why, change = REFUSED[name]
    chain = JOB.written((ONE, [[1], [2]]))
    before = contents(chain)
    offered: tuple[bytes, ...] = (change(chain),)
    if name == "that does not follow the one before it":
        good = chain.copy()
        good.take(JOB.batch(good, ONE, [50]))
        offered = (*good.signed(3, 1), change(good))
    with pytest.raises((ProtocolError, DecodeError), match=why):
        extend(chain, offered)
    assert contents(chain) == before
    chain.check()


def test_a_job_of_no_tasks_has_none_in_its_journal() -> None:
    none = Setting(tasks=0)
    chain = none.written((ONE, []))
    with pytest.raises(ProtocolError, match="has not"):
        chain.extend(none.job, none.manifest, ONE, (none.batch(chain, ONE, [0]),))


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_bad_batch_behind_good_ones_leaves_the_chain_as_it_was(place: int) -> None:
    """Otherwise an elector would remember what it has not written to its disk."""
    chain = JOB.written((ONE, [[1], [2]]), (TWO, [[3]]))
    before = contents(chain)
    good = JOB.written((ONE, [[1], [2]]), (THREE, [[3], [4], [5]]))
    offered = list(good.signed(3, 9))
    offered.insert(place, JOB.batch(good, THREE, [1]))
    with pytest.raises((ProtocolError, DecodeError, Divergence)):
        extend(chain, offered)
    assert contents(chain) == before


def test_a_first_batch_that_continues_something_is_refused() -> None:
    with pytest.raises(ProtocolError, match="continues something"):
        extend(Chain(), (JOB.batch(None, ONE, event="accepted", previous=bytes([1]) * 32),))


@pytest.mark.parametrize("event", ["done", "failed", "cancelled"])
def test_nothing_follows_the_end_of_a_job_but_who_takes_it_over(event: str) -> None:
    chain = JOB.written((ONE, [range(3, 100), [1]]))
    assert extend(chain, (JOB.batch(chain, ONE, [0, 2], event=event),)) == (3, 4)
    assert (chain.ended, chain.end) == (event, 4)
    for refused in (
        JOB.batch(chain, ONE, [3]),
        JOB.batch(chain, ONE, event="done"),
        JOB.batch(chain, TWO, [3], event="takeover"),
    ):
        with pytest.raises(ProtocolError, match="nothing follows"):
            extend(chain, (refused,))
    assert extend(chain, (JOB.batch(chain, TWO, event="takeover"),)) == (4, 5)
    assert (chain.ended, chain.end) == (event, 4)
    with pytest.raises(ProtocolError, match="nothing follows"):
        extend(chain, (JOB.batch(chain, TWO, [3]),))


def test_a_job_is_done_when_each_of_its_tasks_is_written_and_not_before() -> None:
    chain = JOB.written((ONE, [range(99)]))
    for lie in (JOB.batch(chain, ONE, event="done"), JOB.batch(chain, ONE, [], event="done", detail="all of it")):
        with pytest.raises(ProtocolError, match="done with 99 of 100 tasks written"):
            extend(chain, (lie,))
    assert (chain.ended, len(chain)) == ("", 2)
    # Of what takes the place of other batches, these do not count.
    other = JOB.written((ONE, []), (TWO, [range(90)]))
    with pytest.raises(ProtocolError, match="done with 90 of 100"):
        extend(chain, (*other.signed(1, 9), JOB.batch(other, TWO, event="done")))
    assert extend(chain, (JOB.batch(chain, ONE, [99], event="done"),)) == (2, 3)
    assert chain.ended == "done"


def test_an_end_that_was_never_committed_goes_with_its_batch() -> None:
    chain = JOB.written((ONE, [[1]]))
    extend(chain, (JOB.batch(chain, ONE, [2], event="cancelled"),))
    other = JOB.written((ONE, [[1]]), (TWO, [[2]]))
    assert extend(chain, other.signed(2, 9)) == (2, 4)
    assert (chain.ended, chain.end) == ("", 0)


def test_a_certificate_needs_a_quorum_that_tolerates_liars() -> None:
    job = Setting(electors=5, byzantine=1)
    for count in range(6):
        batch = decode_as(
            JournalBatch,
            decode_as(
                Signed, job.batch(None, ONE, event="accepted", certificate=job.grants(ONE, range(count)))
            ).payload,
        )
        if count < 4:
            with pytest.raises(ProtocolError, match=f"{count} grants of the committee, 4 are needed"):
                check_grants(*_granted(job, batch))
        else:
            check_grants(*_granted(job, batch))


def _granted(job: Setting, batch: JournalBatch) -> tuple[Any, ...]:
    return job.manifest.committee, job.manifest.byzantine, batch.job, batch.epoch, batch.term, batch.certificate


# --- mutations -------------------------------------------------------------------------------------------------------

FULL = JOB.written((ONE, [[1, 2, 5], [3]]), (TWO, [[4]]))


@pytest.mark.parametrize("sequence", range(len(FULL)))
def test_a_batch_that_is_cut_at_any_byte_is_refused(sequence: int) -> None:
    chain = Chain()
    for signed in FULL.signed(0, sequence):
        chain.take(signed)
    whole = FULL.signed(sequence, 1)[0]
    for length in range(len(whole)):
        for read in (lambda cut: extend(chain, (cut,)), chain.take):
            with pytest.raises((DecodeError, ProtocolError)):
                read(whole[:length])
    assert len(chain) == sequence


@given(st.integers(0, len(FULL) - 1), st.integers(0, 10_000), st.integers(1, 255))
@SAME_EVERY_TIME
def test_a_batch_in_which_any_byte_is_another_is_refused(sequence: int, place: int, change: int) -> None:
    chain = Chain()
    for signed in FULL.signed(0, sequence):
        chain.take(signed)
    damaged = bytearray(FULL.signed(sequence, 1)[0])
    damaged[place % len(damaged)] ^= change
    with pytest.raises((DecodeError, ProtocolError, Divergence)):
        extend(chain, (bytes(damaged),))
    assert contents(chain)[0] == FULL.signed(0, sequence)


def _branches() -> list[Chain]:
    """Journals as a bad day leaves them: common beginnings, forks, ends."""
    base = JOB.written((ONE, [[1], [2]]))
    found = [base, JOB.written((ONE, [[1]])), FULL, JOB.written((TWO, [[8], [9]]))]
    for by, tasks in ((TWO, [3]), (THREE, [3, 4]), (THREE, [7])):
        branch = base.copy()
        branch.take(JOB.batch(branch, by, event="takeover"))
        branch.take(JOB.batch(branch, by, tasks))
        found.append(branch)
    ended = found[-1].copy()
    ended.take(JOB.batch(ended, THREE, [10], event="cancelled"))
    return [*found, ended]


BRANCHES = _branches()
EVERY_BATCH = [signed for branch in BRANCHES for signed in branch.signed(0, len(branch))]


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(EVERY_BATCH), max_size=5) | st.sampled_from([b.signed(0, 9) for b in BRANCHES]),
            st.sampled_from([ONE, TWO, THREE, FOUR]),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
@SAME_EVERY_TIME
def test_whatever_is_offered_in_whatever_order_the_chain_stays_sound(offers: list[Any]) -> None:
    chain = Chain()
    for offered, by, floor in offers:
        before = contents(chain)
        floor = min(floor, len(chain))
        try:
            changed, matched = extend(chain, offered, by, floor=floor)
        except Divergence as gap:
            missing = gap.sequence
            assert 0 <= missing <= len(chain)
            assert contents(chain) == before
        except (ProtocolError, DecodeError):
            assert contents(chain) == before
        else:
            assert chain.signed(0, min(changed, floor)) == before[0][: min(changed, floor)]
            assert changed >= floor or changed == len(before[0])
            assert not offered or chain.signed(matched - 1, 1) == (offered[-1],)
        chain.check()


@given(st.randoms(use_true_random=False), st.integers(0, len(BRANCHES) - 1), st.integers(0, len(BRANCHES) - 1))
@SAME_EVERY_TIME
def test_any_chain_comes_to_equal_the_holders(dice: random.Random, mine: int, theirs: int) -> None:
    """By the conversation that an elector and a holder have, whatever they begin with."""
    chain, holder = BRANCHES[mine].copy(), BRANCHES[theirs].copy()
    by = term(9, 0)
    holder.take(JOB.batch(holder, by, event="takeover"))
    first, steps = len(holder) - 1, 0
    while len(chain) != len(holder) or chain.head != holder.head:
        count = dice.randint(1, 3)
        try:
            _, first = extend(chain, holder.signed(first, count), by)
        except Divergence as gap:
            before, first = first, gap.sequence
            assert first < before
        steps += 1
        assert steps < 20
    assert contents(chain) == contents(holder)


# --- storage and messages --------------------------------------------------------------------------------------------


def load(batches: list[bytes]) -> None:
    chain = Chain()
    for batch in batches:
        chain.take(batch)


@pytest.mark.parametrize("damage", ["missing", "twice", "order", "foreign"])
def test_a_stored_journal_that_is_damaged_is_not_taken(damage: str) -> None:
    batches = list(FULL.signed(0, 99))
    match damage:
        case "missing":
            del batches[1]
        case "twice":
            batches.insert(1, batches[1])
        case "order":
            batches[1], batches[2] = batches[2], batches[1]
        case "foreign":
            batches[1] = encode(decode_as(Signed, seal(FULL.batch(2), PEERS[0], keys(0).sign)))
    with pytest.raises(ProtocolError):
        load(batches)


def test_a_message_carries_no_more_batches_than_fit() -> None:
    long = JOB.written((ONE, [[task] for task in range(1, 40)]))
    assert [len(long.part(first)) for first in (0, 38, 39, 40, 1 << 31)] == [
        JOURNAL_BATCHES_PER_MESSAGE_MAX,
        2,
        1,
        0,
        0,
    ]
    big = Setting(tasks=100_000)
    heavy = big.written((ONE, []))
    names = tuple(f"{number:064}" for number in range(PEERS_WRITTEN_MAX))
    for first in range(0, 20 * JOURNAL_BATCH_TASKS_MAX, JOURNAL_BATCH_TASKS_MAX):
        tasks = range(first, first + JOURNAL_BATCH_TASKS_MAX)
        workers = tuple(task % len(names) for task in tasks)
        heavy.take(big.batch(heavy, ONE, tasks, peers=names, workers=workers, detail="é" * REASON_CHARS_MAX))
    assert max(map(len, heavy.signed(0, 21))) <= JOURNAL_BATCH_BYTES_MAX, "a batch as large as it may be has room"
    assert len(heavy.part(1)) == 4
    for first in range(21):
        part = heavy.part(first)
        assert part
        assert len(part) == 1 or sum(map(len, part)) <= JOURNAL_MESSAGE_BYTES_MAX


def test_a_journal_from_before_full_batches_named_fewer_workers_is_read() -> None:
    many = Setting(tasks=JOURNAL_BATCH_PEERS_MAX + 1)
    chain = many.written((ONE, []))

    def named(count: int) -> bytes:
        names = tuple(f"{number:064}" for number in range(count))
        return many.batch(chain, ONE, range(count), peers=names, workers=tuple(range(count)))

    full = named(JOURNAL_BATCH_PEERS_MAX)
    assert PEERS_WRITTEN_MAX < JOURNAL_BATCH_PEERS_MAX == 1024
    assert len(full) <= JOURNAL_BATCH_BYTES_MAX
    with pytest.raises(DecodeError):
        chain.copy().take(named(JOURNAL_BATCH_PEERS_MAX + 1))
    chain.take(full)
    assert len(chain.register.tasks()[0]) == JOURNAL_BATCH_PEERS_MAX


def test_a_copy_is_a_chain_of_its_own() -> None:
    chain = JOB.written((ONE, [[1]]))
    other = chain.copy()
    other.take(JOB.batch(other, ONE, [2]))
    assert (len(chain), 2 in chain.register) == (2, False)
    assert contents(chain.copy()) == contents(chain)


def test_a_chain_tells_its_handovers() -> None:
    chain = JOB.written((ONE, [[1]]), (TWO, [[2]]), (THREE, []))
    assert [opened for opened, _ in chain.handovers()] == [ONE, TWO, THREE]
    assert (Chain().head, Chain().last_term, Chain().hash_before(0)) == (GENESIS, NO_TERM, GENESIS)


def test_a_register_takes_a_batch_as_it_takes_its_entries_one_by_one() -> None:
    tasks = (1023, 3, 1024, 5000)
    batch = JournalBatch(
        job="1" * 32,
        epoch=0,
        term=ONE,
        sequence=1,
        previous=bytes(32),
        tasks=tasks,
        digests=b"".join(bytes([task % 251]) * 16 for task in tasks),
        workers=(1, FAILED_TASK, 0, 1),
        peers=("alice", "bob"),
        event="",
        detail="",
        certificate=(),
        at_s=0.0,
    )
    whole, single = Register(), Register()
    for register in (whole, single):
        register.put(Entry(7, bytes(16), "bob"))
    whole.put_all(batch)
    for entry in entries_of(batch):
        single.put(entry)
    assert list(whole.entries()) == list(single.entries())
    assert (whole.written, whole.failed) == (single.written, single.failed) == (5, 1)
    assert whole.holds_any([2, 4, 5000])
    assert not whole.holds_any([2, 4, 4999, 9_000_000])
    assert not whole.holds_any([])
    before = list(whole.entries())
    with pytest.raises(ProtocolError, match="written already"):
        whole.put_all(replace(batch, tasks=(6000, 8, 5000, 9)))
    assert list(whole.entries()) == before, "none of a batch with one that is written already"
    with pytest.raises(ProtocolError, match="the job has no more than"):
        whole.put_all(replace(batch, tasks=(1, 2, JOB_TASKS_MAX, 4)))
    whole.erase(tasks)
    assert (whole.written, whole.failed, list(whole.entries())) == (1, 0, [Entry(7, bytes(16), "bob")])


def test_a_register_takes_no_more_than_is_counted_for_its_job() -> None:
    tasks = 50 * JOURNAL_BATCH_TASKS_MAX + 1
    register = Register(tasks)
    batch = decode_as(JournalBatch, decode_as(Signed, Setting(tasks=tasks).batch(None, ONE, [0])).payload)
    tracemalloc.start()
    try:
        for first in range(0, tasks, JOURNAL_BATCH_TASKS_MAX):
            written = tuple(range(first, min(first + JOURNAL_BATCH_TASKS_MAX, tasks)))
            digests, workers = bytes(16 * len(written)), (0,) * len(written)
            register.put_all(replace(batch, tasks=written, digests=digests, workers=workers))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert register.written == tasks
    assert register_bytes_max(tasks) <= peak < 1.2 * register_bytes_max(tasks)
    with pytest.raises(ProtocolError, match=f"the job has no more than {tasks}"):
        register.put_all(replace(batch, tasks=(tasks,)))


def test_workers_that_refused_batches_name_are_forgotten() -> None:
    """A holder could fill an elector's memory with names that way."""
    chain = JOB.written((ONE, [[1]]))
    offered, names = chain.copy(), chain.register.names
    offered.take(JOB.batch(offered, ONE, [2], peers=("mallory",)))
    with pytest.raises(ProtocolError, match="written already"):
        extend(chain, [*offered.signed(2, 1), JOB.batch(offered, ONE, [1], peers=("trudy",))], ONE)
    assert chain.register.names == names
    extend(chain, [JOB.batch(chain, ONE, [2], peers=("alice",))], ONE)
    assert chain.register.get(2) == Entry(2, bytes(16), "alice")
    chain.check()


def test_check_notices_a_register_that_says_something_else() -> None:
    chain = JOB.written((ONE, [[1]]))
    chain.register.erase([1])
    with pytest.raises(AssertionError, match="task 1 is not as batch 1 wrote it"):
        chain.check()
    chain.register.put(Entry(1, bytes(16), "worker"))
    chain.register.put(Entry(2, bytes(16), "worker"))
    with pytest.raises(AssertionError, match="2 tasks written, 1 in the batches"):
        chain.check()
