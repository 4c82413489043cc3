"""Journals without their batches: checkpoints that vouch for them, parts on their way, and what is refused at the edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_setting import LEASE_S, PEERS, Setting, keys, term

from peerinfer import journal, snapshots
from peerinfer.codec import decode, decode_as, encode
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked, PersistBatches, PersistSeat, PersistSnapshot, Restored
from peerinfer.errors import ProtocolError
from peerinfer.journal import Chain, Divergence
from peerinfer.journal_rules import CHECKPOINT
from peerinfer.lease_messages import (
    Append,
    Appended,
    JournalPart,
    JournalState,
    JournalWanted,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    Prepare,
    SeatOffered,
    SnapshotPart,
    SnapshotWanted,
)
from peerinfer.limits import (
    JOB_TASKS_MAX,
    MILESTONES_BYTES_MAX,
    REGISTERS_BYTES_MAX,
    SNAPSHOT_COPIES_MAX,
    SNAPSHOT_PART_BYTES,
    SNAPSHOT_PEERS_MAX,
)
from peerinfer.messages import Term
from peerinfer.register import Entry, Register
from peerinfer.replication import GAPS_PER_RENEWAL_MAX, Replication
from peerinfer.snapshots import Assembly, Snapshot, bytes_max, digest, newest, packed, unpacked

JOB = Setting()
ONE, TWO, THREE = term(1, 0), term(2, 1), term(3, 2)


def checkpoint(chain: Chain, by: Term, **changed: Any) -> bytes:
    state = chain.state()
    assert state is not None
    return JOB.batch(chain, by, event=CHECKPOINT, **{"state": digest(state), **changed})


def long() -> Chain:
    """Two terms, then a checkpoint at 5, and one batch behind it."""
    chain = JOB.written((ONE, [[1, 2], [5]]), (TWO, [[3]]))
    chain.take(checkpoint(chain, TWO))
    chain.take(JOB.batch(chain, TWO, [4]))
    return chain


def cut() -> Chain:
    chain = long()
    assert chain.compact(len(chain))
    return chain


def whole(chain: Chain) -> Snapshot:
    found = chain.snapshot()
    assert found is not None
    return found


def extend(chain: Chain, batches: tuple[bytes, ...], by: Term = THREE) -> tuple[int, int]:
    return chain.extend(JOB.job, JOB.manifest, by, batches)


# --- chains ----------------------------------------------------------------------------------------------------------


def test_a_chain_that_gave_up_its_batches_is_the_same_in_all_that_is_still_to_be_known() -> None:
    before, after = long(), cut()
    after.check()
    assert (after.base, len(after), len(after.signed(0, 99))) == (5, len(before), 2)
    for what in ("head", "last_term", "ended", "change", "last_at_s"):
        assert getattr(after, what) == getattr(before, what), what
    assert list(after.register.entries()) == list(before.register.entries())
    assert after.handovers() == before.handovers()
    assert after.certificate(ONE) == before.certificate(ONE) != ()
    assert [after.hash_before(place) for place in range(5, 8)] == [before.hash_before(place) for place in range(5, 8)]
    assert (after.hash_before(4), after.part(4)) == (b"", ())
    assert after.part(5) == before.part(5)
    assert after.copy().signed(0, 99) == after.signed(0, 99)
    assert not after.compact(99)


def test_nothing_is_given_up_before_the_checkpoint_is_known_to_stand() -> None:
    chain = long()
    assert not chain.compact(5)
    assert chain.compact(6)


def test_a_snapshot_is_the_same_bytes_whoever_makes_it_and_however_often_it_was_cut() -> None:
    once, twice = long(), cut()
    for chain in (once, twice):
        chain.take(JOB.batch(chain, TWO, [7, 8]))
    assert once.state() == twice.state()
    for chain in (once, twice):
        chain.take(checkpoint(chain, TWO))
        assert chain.compact(len(chain))
    assert whole(once).data == whole(twice).data


def test_a_snapshot_takes_the_place_of_a_journal_and_batches_go_on_behind_it() -> None:
    source, fresh = cut(), Chain()
    fresh.install(JOB.job, JOB.manifest, THREE, whole(source))
    fresh.check()
    assert len(fresh) == 6
    assert extend(fresh, source.signed(0, 99)) == (6, 7)
    assert fresh.head == source.head
    assert list(fresh.register.entries()) == list(source.register.entries())
    assert whole(fresh) == whole(source)


def test_a_snapshot_of_less_than_what_is_here_changes_nothing() -> None:
    chain = long()
    chain.install(JOB.job, JOB.manifest, THREE, whole(cut()))
    assert (chain.base, len(chain)) == (0, 7)


def test_batches_from_before_the_base_are_passed_over() -> None:
    full, short = long(), cut()
    full.take(JOB.batch(full, TWO, [9]))
    assert extend(short, full.signed(3, 99)) == (7, 8)
    with pytest.raises(Divergence) as gap:
        extend(short, full.signed(0, 3))
    assert gap.value.sequence == 5


def test_what_is_final_is_never_replaced() -> None:
    chain = cut()
    other = JOB.written((ONE, [[1, 2], [5]]), (TWO, [[6]]))
    other.take(checkpoint(other, TWO))
    with pytest.raises(ProtocolError):
        extend(chain, other.signed(5, 9))
    # What comes behind it still may.
    theirs = Chain()
    theirs.install(JOB.job, JOB.manifest, THREE, whole(chain))
    theirs.cut(5)
    theirs.take(JOB.batch(theirs, THREE, event="takeover"))
    assert extend(chain, theirs.signed(5, 9)) == (5, 6)
    # Whoever was replaced wrote a checkpoint that vouches as before.
    fresh = Chain()
    fresh.install(JOB.job, JOB.manifest, THREE, whole(chain))
    assert len(fresh) == 6


def test_a_checkpoint_of_another_journal_is_refused_and_nothing_changes() -> None:
    chain = JOB.written((ONE, [[1]]))
    before = (chain.signed(0, 9), list(chain.register.entries()))
    wrong = checkpoint(chain, ONE, state=bytes(32))
    with pytest.raises(ProtocolError, match="another journal"):
        extend(chain, (wrong,))
    assert (chain.signed(0, 9), list(chain.register.entries())) == before
    # Also where it comes in the middle, and takes the place of something.
    longer = chain.copy()
    longer.take(JOB.batch(longer, ONE, [2]))
    mine = chain.copy()
    mine.take(JOB.batch(mine, ONE, [3]))
    theirs = chain.copy()
    theirs.take(JOB.batch(theirs, TWO, event="takeover"))
    theirs.take(JOB.batch(theirs, TWO, event=CHECKPOINT, state=bytes(32)))
    kept = (mine.signed(0, 9), list(mine.register.entries()))
    with pytest.raises(ProtocolError):
        extend(mine, theirs.signed(2, 9))
    assert (mine.signed(0, 9), list(mine.register.entries())) == kept
    mine.check()


def test_a_checkpoint_of_a_journal_that_cannot_be_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = JOB.written((ONE, [[1]]))
    monkeypatch.setattr(snapshots, "SNAPSHOT_PEERS_MAX", 0)
    assert chain.state() is None
    with pytest.raises(ProtocolError, match="another journal"):
        extend(chain, (JOB.batch(chain, ONE, event=CHECKPOINT, state=digest(b"")),))


UNSOUND = {
    "nothing": Snapshot(b"", b""),
    "no checkpoint": replace(whole(cut()), checkpoint=long().signed(3, 1)[0]),
    "another's signature": replace(whole(cut()), checkpoint=JOB.batch(None, TWO, event=CHECKPOINT, signer=5)),
    "cut short": replace(whole(cut()), data=whole(cut()).data[:-1]),
    "one bit more": replace(whole(cut()), data=whole(cut()).data[:-1] + b"\0"),
    "the checkpoint of another": replace(whole(cut()), checkpoint=checkpoint(JOB.written((ONE, [[1]])), ONE)),
}


@pytest.mark.parametrize("unsound", UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_snapshot_is_refused_and_nothing_changes(unsound: Snapshot) -> None:
    chain = JOB.written((ONE, [[1]]))
    with pytest.raises(ProtocolError):
        chain.install(JOB.job, JOB.manifest, THREE, unsound)
    assert (len(chain), chain.register.written) == (2, 1)


def test_a_snapshot_of_another_job_or_of_a_term_that_nobody_granted_is_refused() -> None:
    other = Setting(nonce=3)
    with pytest.raises(ProtocolError):
        Chain().install(other.job, other.manifest, THREE, whole(cut()))
    with pytest.raises(ProtocolError, match="higher term"):
        Chain().install(JOB.job, JOB.manifest, ONE, whole(cut()))
    lonely = Chain()
    lonely.take(JOB.batch(None, ONE, event="accepted", certificate=JOB.grants(ONE, [0])))
    lonely.take(checkpoint(lonely, ONE))
    lonely.compact(9)
    with pytest.raises(ProtocolError, match="grants"):
        Chain().install(JOB.job, JOB.manifest, THREE, whole(lonely))
    with pytest.raises(ProtocolError, match="more are final here"):
        JOB.written((ONE, [[9], [8], [7], [6], [10], [11]])).install(
            JOB.job, JOB.manifest, THREE, whole(cut()), floor=6
        )


def test_a_journal_is_long_beyond_a_size_or_a_quarter_of_its_register(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = long()
    assert not chain.is_long
    size = sum(len(signed) for signed in chain.signed(0, 9)) + 7 * journal.JOURNAL_BATCH_OVERHEAD_BYTES
    monkeypatch.setattr(journal, "JOURNAL_TAIL_BYTES", size)
    assert not chain.is_long
    monkeypatch.setattr(journal, "JOURNAL_TAIL_BYTES", size - 1)
    assert chain.is_long
    chain.take(checkpoint(chain, TWO))
    assert not chain.is_long, "nothing has come since the last checkpoint"


def test_a_journal_with_too_many_workers_is_not_cut() -> None:
    state = JournalState(1, bytes(32), ONE, 0, (), ())
    register = Register()
    for task in range(SNAPSHOT_PEERS_MAX):
        register.put(Entry(task, bytes(16), f"worker {task}"))
    assert packed(state, register) is not None
    register.put(Entry(SNAPSHOT_PEERS_MAX, bytes(16), "one more"))
    assert packed(state, register) is None


def test_of_many_handovers_the_first_and_the_newest_are_kept() -> None:
    each = bytes(1024)
    room = MILESTONES_BYTES_MAX // 1024
    many = [number.to_bytes(4, "big") + each[4:] for number in range(room + 2)]
    kept = newest(many)
    assert kept == (many[0], *many[2:])
    assert newest(many[: room + 1]) == tuple(many[: room + 1])
    # Cut in between or not makes no difference.
    assert newest((*newest(many[:200]), *many[200:])) == kept
    assert newest(()) == ()


# --- registers as bytes ----------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 5000), st.sampled_from(["", "ada", "bob", "cyd"]), max_size=40))
def test_a_register_comes_out_of_its_bytes_as_it_went_in(workers: dict[int, str]) -> None:
    register, shuffled = Register(), Register()
    entries = [Entry(task, bytes([task % 251]) * 16, worker) for task, worker in workers.items()]
    for entry in entries:
        register.put(entry)
    for entry in reversed(entries):
        shuffled.put(entry)
    assert register.packed() == shuffled.packed()
    peers, data = register.packed()
    again = Register.unpacked(peers, data, 5001)
    assert list(again.entries()) == list(register.entries())
    assert (again.written, again.failed) == (register.written, register.failed)
    assert again.packed() == (peers, data)


def _register_bytes(tasks: int) -> tuple[tuple[str, ...], bytes]:
    register = Register()
    for task in range(tasks):
        register.put(Entry(task, bytes(16), "ada"))
    return register.packed()


@pytest.mark.parametrize(
    ("peers", "data", "tasks"),
    [
        (("ada",), b"", 9),
        (("ada",), _register_bytes(10)[1], 9),
        (("ada",), _register_bytes(9)[1][:-1], 9),
        (("ada",), _register_bytes(9)[1] + b"\0", 9),
        ((), _register_bytes(9)[1], 9),
        (("ada", "ada"), _register_bytes(9)[1], 9),
        (("",), _register_bytes(9)[1], 9),
        (("ada",), (1 << 31).to_bytes(4, "little"), 9),
    ],
    ids=["nothing", "a task too many", "cut", "too long", "no worker", "one twice", "nobody", "huge"],
)
def test_what_is_no_register_of_the_job_is_refused(peers: tuple[str, ...], data: bytes, tasks: int) -> None:
    with pytest.raises(ProtocolError):
        Register.unpacked(peers, data, tasks)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_snapshot_or_one_well_defined_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpacked(data, 100)


# --- on the way --------------------------------------------------------------------------------------------------------


def test_parts_make_a_whole_in_order_and_what_does_not_follow_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 100)
    found = whole(cut())
    parts = [found.part(JOB.job, 1, offset) for offset in range(0, len(found.data), 100)]
    assembly = Assembly(100)
    assert assembly.take(parts[0]) is None
    assert assembly.take(parts[2]) is None
    assert assembly.held == 100
    assert assembly.take(parts[0]) is None, "a first part begins anew"
    assert assembly.take(replace(parts[1], checkpoint=b"another")) is None
    assert assembly.held == 0, "it is of another snapshot, which takes the place of this one"
    assert assembly.take(parts[0]) is None
    assert [assembly.take(part) for part in parts[1:]] == [*(None for _ in parts[2:]), found]


def test_a_snapshot_that_is_larger_than_the_job_allows_is_refused_at_its_first_part() -> None:
    most = bytes_max(100)
    part = SnapshotPart(JOB.job, 1, most, 0, b"checkpoint", b"data")
    assert Assembly(100).take(part) is None
    for wrong in (
        replace(part, total=most + 1),
        replace(part, total=0),
        replace(part, data=b""),
        replace(part, total=3),
        replace(part, offset=most),
    ):
        with pytest.raises(ProtocolError):
            Assembly(100).take(wrong)


# --- electors ----------------------------------------------------------------------------------------------------------


class Disk:
    """An elector and all that it wrote."""

    def __init__(self, setting: Setting = JOB) -> None:
        self.setting = setting
        self.row: Any = None
        self.batches: list[bytes] = []
        self.base = 0
        self.snapshot: Snapshot | None = None
        self.elector = Elector(PEERS[0], keys(0).sign)
        self.offered = self.ask(7, SeatOffered(setting.signed))

    def ask(self, peer: int, request: Any) -> Any:
        answer = None
        for effect in self.elector.handle(Asked(PEERS[peer], request, 1), 0.0):
            match effect:
                case PersistSeat(row):
                    self.row = row
                case PersistBatches(_, first, batches):
                    self.batches[first - self.base :] = batches
                case PersistSnapshot(_, base, snapshot, tail):
                    del self.batches[: base - self.base]
                    self.base, self.snapshot = base, snapshot
                    self.batches = self.batches if tail is None else list(tail)
                case Answer(_, message):
                    answer = message
        self.elector.check()
        return answer

    def restart(self) -> None:
        self.elector = Elector(PEERS[0], keys(0).sign)
        self.elector.handle(Restored(self.row, tuple(self.batches), self.snapshot), 0.0)

    def hold(self, by: Term, candidate: int) -> None:
        self.ask(candidate, Prepare(JOB.job, 0, by, 1))
        self.ask(candidate, LeaseWanted(JOB.job, 0, by, 1, LEASE_S))

    @property
    def chain(self) -> Chain:
        chain = self.elector.chain(JOB.job)
        assert chain is not None
        return chain


def test_an_elector_gives_up_its_batches_when_a_checkpoint_comes_and_knows_all_after_a_restart() -> None:
    disk, chain = Disk(), long()
    disk.hold(TWO, 1)
    done = disk.ask(1, Append(JOB.job, 0, TWO, 2, chain.signed(0, 99)))
    assert (done.sequence, done.head) == (7, chain.head)
    assert (disk.base, disk.batches) == (5, list(chain.signed(5, 2)))
    disk.restart()
    assert (disk.chain.head, disk.chain.base) == (chain.head, 5)
    assert list(disk.chain.register.entries()) == list(chain.register.entries())
    assert whole(disk.chain) == whole(cut())
    more = chain.copy()
    more.take(JOB.batch(more, TWO, [9]))
    assert disk.ask(1, Append(JOB.job, 0, TWO, 3, more.signed(7, 1))).sequence == 8


def test_a_damaged_snapshot_on_disk_puts_the_seat_out_of_service() -> None:
    disk = Disk()
    disk.hold(TWO, 1)
    disk.ask(1, Append(JOB.job, 0, TWO, 2, long().signed(0, 99)))
    assert disk.snapshot is not None
    disk.snapshot = replace(disk.snapshot, data=disk.snapshot.data[:-1] + b"\x07")
    with pytest.raises(ProtocolError):
        disk.restart()


def test_an_elector_hands_out_its_snapshot_in_parts_in_place_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 100)
    disk = Disk()
    assert disk.ask(1, SnapshotWanted(JOB.job, 5, 0)).kind == "denied"
    disk.hold(TWO, 1)
    disk.ask(1, Append(JOB.job, 0, TWO, 2, long().signed(0, 99)))
    assert disk.ask(2, JournalWanted(JOB.job, 4, 0)) == JournalPart(JOB.job, 4, 0, (), 5)
    assert disk.ask(2, JournalWanted(JOB.job, 4, 5)).batches == long().signed(5, 2)
    assembly, found = Assembly(100), None
    while found is None:
        part = disk.ask(2, SnapshotWanted(JOB.job, 5, assembly.held))
        assert isinstance(part, SnapshotPart)
        found = assembly.take(part)
    assert found == whole(cut())
    assert disk.ask(5, SnapshotWanted(JOB.job, 5, 0)).kind == "denied", "strangers get nothing"


def test_an_elector_that_is_behind_takes_a_snapshot_from_who_holds_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 200)
    disk, found = Disk(), whole(cut())
    disk.hold(ONE, 0)
    disk.ask(0, Append(JOB.job, 0, ONE, 2, long().signed(0, 2)))
    disk.ask(1, Prepare(JOB.job, 0, TWO, 1))
    held = 0
    for offset in range(0, len(found.data), 200):
        stale = disk.ask(1, Append(JOB.job, 0, TWO, 3, (), encode(found.part(JOB.job, 0, offset))))
        assert isinstance(stale, LeaseRefused), "whoever does not hold the lease here brings nothing"
        disk.hold(ONE, 0)
        done = disk.ask(0, Append(JOB.job, 0, ONE, 3, (), encode(found.part(JOB.job, 0, offset))))
        if offset + 200 < len(found.data):
            held = min(held + 200, len(found.data))
            assert (done.sequence, done.snapshot_bytes) == (2, held)
    assert isinstance(done, LeaseRefused), "of a higher term than its holder's"


def test_after_the_last_part_the_journal_goes_on_behind_it() -> None:
    disk, source = Disk(), cut()
    disk.hold(TWO, 1)
    done = disk.ask(1, Append(JOB.job, 0, TWO, 3, (), encode(whole(source).part(JOB.job, 0, 0))))
    assert (done.sequence, done.head, done.snapshot_bytes) == (6, source.hash_before(6), 0)
    assert disk.ask(1, Append(JOB.job, 0, TWO, 4, source.signed(6, 1))).sequence == 7
    disk.restart()
    assert disk.chain.head == source.head


def test_a_checkpoint_while_a_snapshot_is_on_its_way_begins_anew_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 200)
    disk, source = Disk(), cut()
    disk.hold(TWO, 1)
    replication = Replication(JOB.job, 0, TWO, source, PEERS[:1], 1, count(1).__next__)
    replication.granted(PEERS[0])
    source.take(JOB.batch(source, TWO, [9]))

    def go_on() -> Any:
        """One message to the elector, and what it answers."""
        [(_, append)] = replication.appends()
        answer = disk.ask(1, append)
        if isinstance(answer, LeaseRefused):
            replication.refused(PEERS[0], answer)
        else:
            replication.appended(PEERS[0], answer)
        return answer

    assert go_on().kind == "gap"
    old = [go_on(), go_on()]
    assert [one.snapshot_bytes for one in old] == [200, 400]
    source.take(checkpoint(source, TWO))
    assert source.compact(len(source))
    [lost] = replication.appends()
    replication.unheard(PEERS[0])
    replication.appended(PEERS[0], old[1])  # A second time, and late: it is of the snapshot before.
    replication.granted(PEERS[0])
    assert [go_on().snapshot_bytes for _ in range(2)] == [200, 400]
    for _ in range(20):
        if replication.is_complete:
            break
        go_on()
    assert (disk.chain.head, replication.committed) == (source.head, len(source))
    assert decode_as(SnapshotPart, lost[1].snapshot).offset == 0


CLAIMS = {
    "a byte more each time": count(1).__next__,
    "nothing, ever": lambda: 0,
    "more than there is": lambda: 1 << 40,
    "ever less": count(10_000, -1).__next__,
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_an_elector_that_never_has_enough_of_a_snapshot_is_sent_it_a_few_times_and_then_a_part_for_each_renewal(
    monkeypatch: pytest.MonkeyPatch, claim: Callable[[], int]
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 50)
    source = cut()
    replication = Replication(JOB.job, 0, TWO, source, PEERS[:2], 1, count(1).__next__)
    source.take(JOB.batch(source, TWO, [9]))

    def renewed() -> int:
        """Bytes of a snapshot that it is sent until the next renewal."""
        replication.granted(PEERS[0])
        sent = 0
        while asked := replication.appends():
            [(elector, append)] = asked
            assert elector == PEERS[0], "nobody else is sent anything"
            sent += len(decode_as(SnapshotPart, append.snapshot).data) if append.snapshot else 0
            if append.batches:
                replication.refused(elector, LeaseRefused(JOB.job, append.nonce, "gap", "", TWO, sequence=1))
            else:
                replication.appended(elector, Appended(JOB.job, append.nonce, TWO, 1, bytes(32), claim()))
        return sent

    size = len(whole(source).data)
    assert SNAPSHOT_COPIES_MAX * size <= renewed() < SNAPSHOT_COPIES_MAX * size + 50
    assert [0 < renewed() <= 50 for _ in range(5)] == [True] * 5
    # Of the next snapshot nobody was sent anything yet.
    source.take(checkpoint(source, TWO))
    assert source.compact(len(source))
    assert renewed() >= SNAPSHOT_COPIES_MAX * len(whole(source).data)
    replication.check()


def test_an_elector_that_lost_a_snapshot_on_the_way_too_often_still_gets_it_part_by_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_PART_BYTES", 200)
    disk, source = Disk(), cut()
    disk.hold(TWO, 1)
    replication = Replication(JOB.job, 0, TWO, source, PEERS[:1], 1, count(1).__next__)
    source.take(JOB.batch(source, TWO, [9]))
    renewals = 0
    while not replication.is_complete:
        replication.granted(PEERS[0])
        renewals += 1
        assert renewals < 100
        while asked := replication.appends():
            [(_, append)] = asked
            if renewals < 50 and append.snapshot:
                replication.unheard(PEERS[0])
                break
            answer = disk.ask(1, append)
            heard = replication.refused if isinstance(answer, LeaseRefused) else replication.appended
            heard(PEERS[0], answer)
    assert disk.chain.head == source.head


def test_an_elector_that_lacks_a_batch_more_each_time_is_given_more_so_often_for_each_renewal() -> None:
    source = JOB.written((TWO, [[task] for task in range(60)]))
    replication = Replication(JOB.job, 0, TWO, source, PEERS[:1], 1, count(1).__next__)
    source.take(JOB.batch(source, TWO, [90]))
    asked_for = len(source) - 1

    def renewed() -> int:
        nonlocal asked_for
        replication.granted(PEERS[0])
        given = 0
        while asks := replication.appends():
            (_, append), asked_for = asks[0], asked_for - 1
            given += 1
            replication.refused(PEERS[0], LeaseRefused(JOB.job, append.nonce, "gap", "", TWO, sequence=asked_for))
        return given

    assert [renewed() for _ in range(3)] == [GAPS_PER_RENEWAL_MAX] * 3
    disk = Disk()
    disk.hold(TWO, 1)
    while not replication.is_complete:
        replication.granted(PEERS[0])
        for _, append in replication.appends():
            answer = disk.ask(1, append)
            heard = replication.refused if isinstance(answer, LeaseRefused) else replication.appended
            heard(PEERS[0], answer)
    assert disk.chain.head == source.head, "an honest one is told all the same"


def test_a_snapshot_that_comes_twice_changes_nothing_on_the_disk() -> None:
    """The second time the journal has gone on, and has given up more than that snapshot is of."""
    disk, source = Disk(), cut()
    disk.hold(TWO, 1)
    late = Append(JOB.job, 0, TWO, 3, (), encode(whole(source).part(JOB.job, 0, 0)))
    disk.ask(1, late)
    source.take(checkpoint(source, TWO))
    source.take(JOB.batch(source, TWO, [9]))
    assert disk.ask(1, Append(JOB.job, 0, TWO, 4, source.signed(6, 9))).sequence == len(source)
    base, kept = disk.base, list(disk.batches)
    assert base > 5
    assert disk.ask(1, late).sequence == len(source)
    assert (disk.base, disk.batches) == (base, kept)
    disk.restart()
    assert disk.chain.head == source.head


def test_a_snapshot_in_place_of_another_journal_is_one_write() -> None:
    """Were what was here before found behind it after a crash, the seat could not be restored."""
    disk, source = Disk(), cut()
    disk.hold(ONE, 0)
    other = JOB.written((ONE, [[1, 2], [5], [6], [7], [8], [9], [10]]))
    disk.ask(0, Append(JOB.job, 0, ONE, 2, other.signed(0, 99)))
    disk.ask(0, LeaseReleased(JOB.job, 0, ONE))
    disk.hold(TWO, 1)
    effects = disk.elector.handle(
        Asked(PEERS[1], Append(JOB.job, 0, TWO, 3, (), encode(whole(source).part(JOB.job, 0, 0))), 1), 0.0
    )
    written = [effect for effect in effects if not isinstance(effect, Answer)]
    assert written == [PersistSnapshot(JOB.job, 5, whole(source), source.signed(5, 1))]


def test_an_elector_takes_no_more_seats_than_their_registers_have_room_for() -> None:
    seats = 6
    part = REGISTERS_BYTES_MAX // 20 // seats
    made = [Setting(tasks=part, nonce=nonce) for nonce in range(seats)]
    one_more = Setting(tasks=1 << 5, nonce=seats)
    elector = Elector(PEERS[0], keys(0).sign)

    def offer(setting: Setting) -> Any:
        effects = elector.handle(Asked(PEERS[7], SeatOffered(setting.signed), 1), 0.0)
        return effects[-1].message  # type: ignore[union-attr]

    assert part < JOB_TASKS_MAX
    assert [offer(one).job for one in made] == [one.job for one in made]
    assert offer(one_more).kind == "full"


def test_the_largest_part_fits_a_message_both_ways() -> None:
    most = SnapshotPart(JOB.job, 1, 1, 0, bytes(16384), bytes(SNAPSHOT_PART_BYTES))
    for message in (Append(JOB.job, 0, ONE, 1, (), encode(most)), SeatOffered(JOB.signed, (), (), encode(most))):
        assert decode(encode(message)) == message
