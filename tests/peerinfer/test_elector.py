"""An elector grants one candidate at a time, keeps every promise, and answers only what its disk has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_setting import LEASE_S, PEERS, Setting, keys, term
from wire_strategies import SAME_EVERY_TIME

from peerinfer.committees import candidates_in, first_committee, highest_round
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked, ForgetSeat, PersistBatches, PersistSeat, Restored, SeatGivenUp
from peerinfer.envelope import seal, unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.journal import Chain
from peerinfer.journal_rules import NO_TERM
from peerinfer.lease_messages import (
    Append,
    Appended,
    Grant,
    Granted,
    JournalPart,
    JournalWanted,
    LeaseRefused,
    LeaseReleased,
    LeaseWanted,
    Prepare,
    Promise,
    SeatOffered,
    SeatTaken,
)
from peerinfer.lease_profile import LEASE_S_MAX, LEASE_S_MIN
from peerinfer.limits import SEATS_MAX, TERM_ROUND_MAX, TERM_ROUND_STEP_MAX
from peerinfer.machine import NEVER, Tick
from peerinfer.manifests import open_manifest
from peerinfer.messages import Term

JOB = Setting()
SUBMITTER = 7
ONE, TWO, THREE = term(1, 0), term(2, 1), term(3, 2)


class Disk:
    """Performs an elector's effects: what is durable, and what was answered when."""

    def __init__(self, elector: Elector) -> None:
        self.elector = elector
        self.rows: dict[str, Any] = {}
        self.batches: dict[str, list[bytes]] = {}

    def perform(self, effects: list[Any]) -> list[Any]:
        answers = []
        for effect in effects:
            match effect:
                case PersistSeat(row):
                    self.rows[row.job] = row
                case PersistBatches(job, first, batches):
                    kept = self.batches.setdefault(job, [])
                    assert first <= len(kept)
                    kept[first:] = batches
                case ForgetSeat(job):
                    self.rows.pop(job), self.batches.pop(job, None)
                case Answer(_, message):
                    self.is_durable()
                    answers.append(message)
        return answers

    def is_durable(self) -> None:
        """What the elector knows is on the disk: an elector that starts again from there promises the same."""
        for row in self.elector.snapshot():
            chain = self.elector.chain(row.job)
            assert chain is not None
            assert self.rows[row.job] == row
            assert tuple(self.batches.get(row.job, [])) == chain.signed(0, len(chain))

    def restart(self, now_s: float) -> Disk:
        fresh = Disk(Elector(PEERS[0], keys(0).sign))
        fresh.rows, fresh.batches = dict(self.rows), {job: list(kept) for job, kept in self.batches.items()}
        for job, row in self.rows.items():
            assert fresh.perform(fresh.elector.handle(Restored(row, tuple(self.batches.get(job, []))), now_s)) == []
        return fresh


class Talk:
    """Node 0's elector, asked by candidates. Every answer is checked to be on the disk before it is given."""

    def __init__(self, setting: Setting = JOB, *, seated: bool = True) -> None:
        self.setting = setting
        self.disk = Disk(Elector(PEERS[0], keys(0).sign))
        if seated:
            assert self.ask(SUBMITTER, SeatOffered(setting.signed), 0.0) == SeatTaken(setting.job)

    def ask(self, peer: int, request: Any, now_s: float) -> Any:
        effects = self.disk.elector.handle(Asked(PEERS[peer], request, 17), now_s)
        assert [effect.token for effect in effects if isinstance(effect, Answer)] == [17]
        (answer,) = self.disk.perform(effects)
        self.disk.elector.check()
        return answer

    def restart(self, now_s: float) -> None:
        self.disk = self.disk.restart(now_s)

    def prepare(self, by: Term, now_s: float) -> Any:
        return self.ask(PEERS.index(by.candidate), Prepare(self.setting.job, 0, by, 5), now_s)

    def want(self, by: Term, now_s: float, lease_s: float = LEASE_S) -> Any:
        return self.ask(PEERS.index(by.candidate), LeaseWanted(self.setting.job, 0, by, 6, lease_s), now_s)

    def release(self, by: Term, now_s: float, *, is_over: bool = False) -> Any:
        return self.ask(PEERS.index(by.candidate), LeaseReleased(self.setting.job, 0, by, is_over), now_s)

    def append(self, by: Term, batches: tuple[bytes, ...], now_s: float = 0.0) -> Any:
        return self.ask(PEERS.index(by.candidate), Append(self.setting.job, 0, by, 8, batches), now_s)

    def hold(self, by: Term, now_s: float) -> None:
        assert isinstance(self.prepare(by, now_s), Promise)
        assert isinstance(self.want(by, now_s), Granted)

    @property
    def chain(self) -> Chain:
        chain = self.disk.elector.chain(self.setting.job)
        assert chain is not None
        return chain

    def refusal(self, answer: Any) -> str:
        assert isinstance(answer, LeaseRefused), answer
        return answer.kind


# --- seats -----------------------------------------------------------------------------------------------------------


def test_a_seat_is_taken_once_and_kept() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    assert talk.ask(1, SeatOffered(JOB.signed), 1.0) == SeatTaken(JOB.job)
    assert talk.refusal(talk.prepare(TWO, 1.0)) == "held"
    assert talk.disk.elector.jobs == (JOB.job,)
    assert talk.disk.elector.manifest(JOB.job) == JOB.signed


def _strange_manifests() -> dict[str, tuple[bytes, str]]:
    def signed_by(number: int, **changed: Any) -> bytes:
        return seal(replace(JOB.manifest, **changed), PEERS[number], keys(number).sign)

    return {
        "nonsense": (b"nonsense", ""),
        "signed by another": (signed_by(1), "not signed by its submitter"),
        "a committee of strangers": (signed_by(SUBMITTER, committee=tuple(PEERS[1:4])), "not of the committee"),
        "an elector twice": (signed_by(SUBMITTER, committee=(PEERS[0], PEERS[0], PEERS[1])), "twice"),
        "nobody": (signed_by(SUBMITTER, committee=()), "0 electors"),
        "names that are none": (signed_by(SUBMITTER, committee=(PEERS[0], "b", "c")), "names 'b'"),
        "more liars than it bears": (signed_by(SUBMITTER, byzantine=1), "cannot tolerate"),
        "no liars that one could count": (signed_by(SUBMITTER, byzantine=255), "cannot tolerate"),
        "damaged": (JOB.signed[:-1] + bytes([JOB.signed[-1] ^ 1]), ""),
        "cut": (JOB.signed[:100], ""),
    }


@pytest.mark.parametrize("name", list(_strange_manifests()))
def test_a_seat_is_refused_for_a_manifest_that_is(name: str) -> None:
    manifest, why = _strange_manifests()[name]
    talk = Talk(seated=False)
    answer = talk.ask(SUBMITTER, SeatOffered(manifest), 0.0)
    assert talk.refusal(answer) == "denied"
    assert why in answer.reason
    assert talk.disk.elector.jobs == ()


def test_only_the_committee_and_the_submitter_may_offer_a_seat() -> None:
    talk = Talk(seated=False)
    assert talk.refusal(talk.ask(5, SeatOffered(JOB.signed), 0.0)) == "denied"
    assert isinstance(talk.ask(2, SeatOffered(JOB.signed), 0.0), SeatTaken)


def test_seats_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerinfer.elector.SEATS_MAX", 2)
    talk = Talk(seated=False)
    jobs = [Setting(nonce=number) for number in range(3)]
    kinds = [type(talk.ask(SUBMITTER, SeatOffered(job.signed), 0.0)) for job in jobs]
    assert kinds == [SeatTaken, SeatTaken, LeaseRefused]
    talk.disk.perform(talk.disk.elector.handle(SeatGivenUp(jobs[0].job), 1.0))
    assert isinstance(talk.ask(SUBMITTER, SeatOffered(jobs[2].signed), 1.0), SeatTaken)
    assert SEATS_MAX > 1000


def test_manifests_of_all_seats_have_a_limit_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerinfer.elector.SEATS_BYTES_MAX", 2 * len(JOB.signed))
    talk = Talk(seated=False)
    jobs = [Setting(nonce=number) for number in range(3)]
    answers = [talk.ask(SUBMITTER, SeatOffered(job.signed), 0.0) for job in jobs]
    assert talk.refusal(answers[2]) == "full"
    talk.restart(1.0)
    assert talk.refusal(talk.ask(SUBMITTER, SeatOffered(jobs[2].signed), 1.0)) == "full"
    talk.disk.perform(talk.disk.elector.handle(SeatGivenUp(jobs[1].job), 1.0))
    assert isinstance(talk.ask(SUBMITTER, SeatOffered(jobs[2].signed), 1.0), SeatTaken)


def test_a_seat_that_is_given_up_is_forgotten_on_the_disk_too() -> None:
    talk = Talk()
    talk.disk.perform(talk.disk.elector.handle(SeatGivenUp(JOB.job), 1.0))
    assert talk.disk.rows == {}
    assert talk.disk.elector.handle(SeatGivenUp(JOB.job), 1.0) == []
    assert talk.refusal(talk.prepare(ONE, 1.0)) == "unknown"


# --- who may ask what ------------------------------------------------------------------------------------------------

REQUESTS = {
    "prepare": Prepare(JOB.job, 0, ONE, 5),
    "want": LeaseWanted(JOB.job, 0, ONE, 5, LEASE_S),
    "release": LeaseReleased(JOB.job, 0, ONE),
    "append": Append(JOB.job, 0, ONE, 5, ()),
    "journal": JournalWanted(JOB.job, 5, 0),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_an_elector_that_knows_nothing_of_a_job_says_so(name: str) -> None:
    talk = Talk(seated=False)
    assert talk.refusal(talk.ask(0, REQUESTS[name], 0.0)) == "unknown"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stranger_is_denied(name: str) -> None:
    assert Talk().refusal(Talk().ask(5, REQUESTS[name], 0.0)) == "denied"


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "journal"])
def test_nobody_asks_in_the_name_of_another(name: str) -> None:
    talk = Talk()
    before = talk.disk.rows
    assert talk.refusal(talk.ask(1, REQUESTS[name], 0.0)) == "denied"
    assert talk.disk.rows == before


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "journal"])
def test_another_epoch_is_refused(name: str) -> None:
    assert Talk().refusal(Talk().ask(0, replace(REQUESTS[name], epoch=1), 0.0)) == "unknown"


@pytest.mark.parametrize("kind", [Prepare, LeaseWanted, LeaseReleased, Append])
@pytest.mark.parametrize("round_", [TERM_ROUND_STEP_MAX + 1, TERM_ROUND_MAX - 1, TERM_ROUND_MAX])
def test_a_term_that_leaps_to_the_edge_is_refused(kind: type, round_: int) -> None:
    """Whoever could use up all terms would end all elections of the job."""
    talk = Talk()
    leap = Term(round_, PEERS[0])
    more = {LeaseWanted: (5, LEASE_S), Prepare: (5,), LeaseReleased: (), Append: (5, ())}[kind]
    assert talk.refusal(talk.ask(0, kind(JOB.job, 0, leap, *more), 0.0)) == "denied"
    assert isinstance(talk.prepare(ONE, 0.0), Promise)


def test_the_last_term_of_all_can_be_given_back() -> None:
    talk = Talk()
    row = talk.disk.rows[JOB.job]
    last = Term(highest_round(0), PEERS[0])
    talk.disk.rows[JOB.job] = replace(row, promised=Term(highest_round(0) - 1, PEERS[0]))
    talk.restart(0.0)
    talk.hold(last, 0.0)
    assert isinstance(talk.release(last, 0.0), SeatTaken)
    assert talk.disk.rows[JOB.job].promised == last


# --- promises and grants ---------------------------------------------------------------------------------------------


def test_a_promise_says_how_far_the_journal_goes() -> None:
    talk = Talk()
    assert talk.prepare(ONE, 0.0) == Promise(JOB.job, 0, ONE, 5, NO_TERM, 0)
    talk.want(ONE, 0.0)
    talk.append(ONE, JOB.written((ONE, [[1], [2]])).signed(0, 9))
    assert talk.prepare(TWO, 9.0) == Promise(JOB.job, 0, TWO, 5, ONE, 3)


@pytest.mark.parametrize(("promised", "asked"), [(TWO, ONE), (TWO, TWO), (term(2, 1), term(2, 0))])
def test_a_term_as_high_as_one_that_was_promised_is_stale(promised: Term, asked: Term) -> None:
    if promised.order < asked.order:
        promised, asked = asked, promised
    talk = Talk()
    talk.prepare(promised, 0.0)
    answer = talk.prepare(asked, 0.0)
    assert (talk.refusal(answer), answer.promised) == ("stale", promised)


def test_a_grant_is_signed_and_names_what_was_asked() -> None:
    talk = Talk()
    talk.prepare(ONE, 0.0)
    granted = talk.want(ONE, 0.0)
    author, grant = unseal(Grant, granted.grant)
    assert (author, grant, granted.nonce) == (PEERS[0], Grant(JOB.job, 0, ONE, 6, LEASE_S), 6)


def test_while_a_lease_runs_nobody_else_gets_a_promise_and_no_promise_is_raised() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    for asked in (talk.prepare(TWO, LEASE_S - 0.01), talk.want(TWO, LEASE_S - 0.01)):
        assert (asked.kind, asked.promised) == ("held", ONE)
        assert asked.remaining_s == pytest.approx(0.01)
    assert isinstance(talk.want(ONE, LEASE_S - 0.01), Granted)
    assert talk.disk.rows[JOB.job].promised == ONE


def test_when_a_lease_has_lapsed_the_next_candidate_gets_it_and_the_last_one_does_not() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.hold(TWO, LEASE_S)
    assert talk.refusal(talk.want(ONE, LEASE_S)) == "stale"
    assert talk.refusal(talk.append(ONE, (), LEASE_S)) == "stale"


def test_a_holder_may_campaign_again_while_its_lease_runs() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.hold(term(5, 0), 1.0)
    assert talk.refusal(talk.want(ONE, 1.0)) == "stale"


def test_an_unchanged_renewal_is_not_written_down() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    effects = talk.disk.elector.handle(Asked(PEERS[0], LeaseWanted(JOB.job, 0, ONE, 9, LEASE_S), 1), 1.0)
    assert [type(effect) for effect in effects] == [Answer]


@pytest.mark.parametrize("lease_s", [LEASE_S_MIN / 2, LEASE_S_MAX * 2, 0.0, -1.0])
def test_a_lease_too_short_or_too_long_is_denied(lease_s: float) -> None:
    talk = Talk()
    talk.prepare(ONE, 0.0)
    assert talk.refusal(talk.want(ONE, 0.0, lease_s)) == "denied"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_lease_is_never_shortened_while_it_runs(restarts: bool) -> None:
    """Somebody may still count on it: the same holder, in the answer to an earlier request."""
    talk = Talk()
    talk.prepare(ONE, 0.0)
    talk.want(ONE, 0.0, 10.0)
    talk.want(ONE, 1.0, 1.0)
    if restarts:
        talk.restart(1.0)
    assert talk.refusal(talk.prepare(TWO, 9.5)) == "held"
    assert isinstance(talk.prepare(TWO, 10.0), Promise)


def test_a_lease_that_is_given_back_is_free_at_once_and_its_term_retired() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    assert isinstance(talk.release(ONE, 0.1), SeatTaken)
    for late in (talk.want(ONE, 0.2), talk.prepare(ONE, 0.2), talk.append(ONE, (), 0.2)):
        assert talk.refusal(late) == "stale"
    assert isinstance(talk.prepare(TWO, 0.2), Promise)


def test_a_lease_is_given_back_before_its_request_arrives() -> None:
    talk = Talk()
    talk.prepare(ONE, 0.0)
    talk.release(ONE, 0.1)
    assert talk.refusal(talk.want(ONE, 0.2)) == "stale"
    assert isinstance(talk.prepare(term(2, 0), 0.2), Promise)


@pytest.mark.parametrize("by", [term(9, 1), term(1, 1), term(0, 1)])
def test_nobody_gives_back_what_is_anothers(by: Term) -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    before = talk.disk.rows[JOB.job]
    talk.release(by, 0.1)
    assert talk.disk.rows[JOB.job] == before
    assert talk.refusal(talk.prepare(TWO, 0.2)) == "held"


def test_a_late_release_of_an_older_term_takes_nothing_from_the_newer() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.hold(term(3, 0), 0.5)
    talk.release(ONE, 0.6)
    assert talk.refusal(talk.prepare(term(4, 1), 0.7)) == "held"


# --- restarts --------------------------------------------------------------------------------------------------------


def test_after_a_restart_a_granted_lease_runs_for_its_whole_length_again() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.restart(1000.0)
    assert talk.refusal(talk.prepare(TWO, 1000.0 + LEASE_S - 0.01)) == "held"
    assert isinstance(talk.want(ONE, 1000.0), Granted)
    talk.restart(5.0)  # The clock begins anew.
    assert talk.refusal(talk.prepare(TWO, 5.0 + LEASE_S - 0.01)) == "held"
    assert isinstance(talk.prepare(TWO, 5.0 + LEASE_S), Promise)


def test_after_a_restart_without_a_grant_nobody_waits() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.release(ONE, 0.5)
    talk.restart(1.0)
    assert isinstance(talk.prepare(TWO, 1.0), Promise)


def test_after_a_restart_promises_hold() -> None:
    talk = Talk()
    talk.prepare(THREE, 0.0)
    talk.restart(1.0)
    assert talk.refusal(talk.want(TWO, 1.0)) == "stale"
    assert talk.refusal(talk.prepare(THREE, 1.0)) == "stale"


def test_what_could_not_be_written_is_unsaid_by_restoring_what_is_there() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.append(ONE, JOB.written((ONE, [[1]])).signed(0, 9))
    elector = talk.disk.elector
    more = JOB.written((ONE, [[1], [2]]))
    elector.handle(Asked(PEERS[0], Append(JOB.job, 0, ONE, 1, more.signed(2, 1)), 1), 0.5)  # The disk is full.
    elector.handle(Restored(talk.disk.rows[JOB.job], tuple(talk.disk.batches[JOB.job])), 0.5)
    assert len(talk.chain) == 2
    assert talk.refusal(talk.prepare(TWO, 0.5 + LEASE_S - 0.01)) == "held"
    assert talk.append(ONE, more.signed(2, 1)).sequence == 3


@pytest.mark.parametrize(
    "damage", ["manifest", "another job", "granted above promised", "journal", "journal of a term not promised"]
)
def test_a_seat_that_was_damaged_on_the_disk_is_not_used(damage: str) -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.append(ONE, JOB.written((ONE, [[1]])).signed(0, 9))
    row, batches = talk.disk.rows[JOB.job], tuple(talk.disk.batches[JOB.job])
    match damage:
        case "manifest":
            row = replace(row, manifest=row.manifest[:-1])
        case "another job":
            row = replace(row, job=JobId("0" * 32))
        case "granted above promised":
            row = replace(row, granted=TWO)
        case "journal":
            batches = (batches[0], batches[1][:-1])
        case "journal of a term not promised":
            row = replace(row, promised=NO_TERM, granted=NO_TERM)
    with pytest.raises((DecodeError, ProtocolError)):
        Elector(PEERS[0], keys(0).sign).handle(Restored(row, batches), 0.0)


# --- the journal -----------------------------------------------------------------------------------------------------


def test_batches_are_on_the_disk_before_they_are_acknowledged() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    chain = JOB.written((ONE, [[1], [2]]))
    answer = talk.append(ONE, chain.signed(0, 2))
    assert answer == Appended(JOB.job, 8, ONE, 2, chain.hash_before(2))
    assert talk.append(ONE, chain.signed(0, 3)) == Appended(JOB.job, 8, ONE, 3, chain.head)
    assert talk.append(ONE, chain.signed(0, 1)) == Appended(JOB.job, 8, ONE, 1, chain.hash_before(1))
    assert talk.append(ONE, ()).sequence == 0


def test_a_promise_alone_is_no_leave_to_write() -> None:
    talk = Talk()
    talk.prepare(ONE, 0.0)
    assert talk.refusal(talk.append(ONE, JOB.written((ONE, [])).signed(0, 9))) == "stale"


@pytest.mark.parametrize("appended", [0, 2])
def test_a_holder_that_was_overtaken_writes_nothing_any_more(appended: int) -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    chain = JOB.written((ONE, [[1], [2]]))
    talk.append(ONE, chain.signed(0, appended))
    talk.prepare(TWO, LEASE_S)
    answer = talk.append(ONE, chain.signed(appended, 9), LEASE_S)
    assert (talk.refusal(answer), answer.promised, len(talk.chain)) == ("stale", TWO, appended)


def test_what_is_missing_is_said() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    chain = JOB.written((ONE, [[1], [2], [3]]))
    talk.append(ONE, chain.signed(0, 2))
    answer = talk.append(ONE, chain.signed(3, 1))
    assert (talk.refusal(answer), answer.sequence) == ("gap", 2)


def test_batches_of_an_older_term_that_were_not_committed_are_replaced_on_the_disk() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.append(ONE, JOB.written((ONE, [[1], [2]])).signed(0, 9))
    talk.hold(TWO, LEASE_S)
    theirs = JOB.written((ONE, [[1]]), (TWO, [[5]]))
    assert talk.append(TWO, theirs.signed(2, 9), LEASE_S).sequence == 4
    assert tuple(talk.disk.batches[JOB.job]) == theirs.signed(0, 9)


@pytest.mark.parametrize("bad", [b"", b"nonsense", JOB.batch(None, ONE, [1])])
def test_a_bad_batch_is_denied_and_leaves_memory_and_disk_as_they_were(bad: bytes) -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    talk.append(ONE, JOB.written((ONE, [[1]])).signed(0, 9))
    talk.hold(TWO, LEASE_S)
    fork = JOB.written((ONE, []), (TWO, [[7]]))
    assert talk.refusal(talk.append(TWO, (*fork.signed(1, 2), bad), LEASE_S)) == "denied"
    assert len(talk.chain) == 2
    talk.disk.is_durable()


def test_the_committee_and_the_submitter_may_read_the_journal_at_any_time() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    chain = JOB.written((ONE, [[task] for task in range(1, 30)]))
    for first in range(0, 30, 16):
        talk.append(ONE, chain.signed(first, 16))
    found: list[bytes] = []
    while True:
        part = talk.ask(2, JournalWanted(JOB.job, 4, len(found)), 99.0)
        assert isinstance(part, JournalPart)
        if not part.batches:
            break
        found += part.batches
    assert tuple(found) == chain.signed(0, 99)
    assert talk.ask(2, JournalWanted(JOB.job, 4, (1 << 32) - 1), 99.0).batches == ()


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_seat_knows_that_the_job_is_over_when_the_holder_says_so_and_the_end_is_here() -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    chain = JOB.written((ONE, [[1]]))
    chain.take(JOB.batch(chain, ONE, event="cancelled"))
    talk.append(ONE, chain.signed(0, 9))
    (before,) = talk.disk.elector.snapshot_at(0.5)
    talk.release(ONE, 1.0, is_over=True)
    (after,) = talk.disk.elector.snapshot_at(1.0)
    assert (before.is_over, after.is_over) == (False, True)
    talk.restart(2.0)
    assert [seat.is_over for seat in talk.disk.elector.snapshot_at(2.0)] == [True]


@pytest.mark.parametrize("case", ["no end here", "another holds it", "only handed over"])
def test_a_job_is_not_over_on_somebodys_word_alone(case: str) -> None:
    talk = Talk()
    talk.hold(ONE, 0.0)
    chain = JOB.written((ONE, [[1]]))
    if case != "no end here":
        chain.take(JOB.batch(chain, ONE, event="cancelled"))
    talk.append(ONE, chain.signed(0, 9))
    talk.release(TWO if case == "another holds it" else ONE, 1.0, is_over=case != "only handed over")
    assert [seat.is_over for seat in talk.disk.elector.snapshot_at(1.0)] == [False]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_seat_shows_who_coordinates_in_which_term_since_when() -> None:
    talk = Talk()
    (nobody,) = talk.disk.elector.snapshot_at(0.0)
    assert (nobody.holder, nobody.term, nobody.remaining_s, nobody.held_for_s) == ("", NO_TERM, 0.0, 0.0)
    talk.hold(ONE, 10.0)
    talk.want(ONE, 12.0)
    (seat,) = talk.disk.elector.snapshot_at(12.5)
    assert (seat.holder, seat.term, seat.remaining_s, seat.held_for_s) == (PEERS[0], ONE, 2.5, 2.5)
    (lapsed,) = talk.disk.elector.snapshot_at(15.0)
    assert (lapsed.holder, lapsed.term) == ("", NO_TERM)


def test_an_elector_needs_no_clock_to_wake_it() -> None:
    talk = Talk()
    assert talk.disk.elector.deadline_s == NEVER
    assert talk.disk.elector.handle(Tick(), 5.0) == []


def test_candidates_are_the_submitter_and_the_committee() -> None:
    other = Setting(submitter=1).manifest
    assert candidates_in(JOB.manifest, first_committee(JOB.manifest)) == (PEERS[7], *PEERS[:3])
    assert candidates_in(other, first_committee(other)) == (PEERS[1], PEERS[0], PEERS[2])
    assert [first_committee(Setting(electors=n).manifest).quorum for n in (1, 3, 5)] == [1, 2, 3]
    assert open_manifest(JOB.signed)[0] == JOB.job


# --- anything --------------------------------------------------------------------------------------------------------

FULL = JOB.written((ONE, [[1], [2]]), (TWO, [[3]]))
TERMS = st.builds(term, st.integers(0, 4), st.sampled_from([0, 1, 2, 5, 7]))
ANY_REQUEST = st.one_of(
    st.builds(Prepare, st.just(JOB.job), st.integers(0, 1), TERMS, st.integers(1, 9)),
    st.builds(
        LeaseWanted, st.just(JOB.job), st.just(0), TERMS, st.integers(1, 9), st.sampled_from([LEASE_S, 0.5, 1e300])
    ),
    st.builds(LeaseReleased, st.just(JOB.job), st.just(0), TERMS, st.booleans()),
    st.builds(
        Append,
        st.just(JOB.job),
        st.just(0),
        TERMS,
        st.integers(1, 9),
        st.lists(st.sampled_from(FULL.signed(0, 9)), max_size=3).map(tuple) | st.just(FULL.signed(0, 9)),
    ),
    st.builds(JournalWanted, st.just(JOB.job), st.integers(1, 9), st.integers(0, 9)),
    st.just(SeatOffered(JOB.signed)),
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 5, 7]), ANY_REQUEST, st.floats(0.0, 2.0), st.sampled_from([False] * 6 + [True])
        ),
        max_size=30,
    )
)
@SAME_EVERY_TIME
def test_whatever_it_is_asked_it_answers_once_keeps_its_promises_and_its_disk(steps: list[Any]) -> None:
    talk = Talk()
    now_s, promised = 0.0, NO_TERM
    leases: dict[str, float] = {}
    for peer, request, passed_s, restarts in steps:
        now_s += passed_s
        if restarts:
            talk.restart(now_s)
            # The lease that was granted counts as renewed just now.
            row = talk.disk.rows[JOB.job]
            leases = {row.granted.candidate: now_s + row.lease_s} if row.granted != NO_TERM else {}
        # A candidate asks in its own name; others are denied, which has its own test.
        who = request.term.candidate if hasattr(request, "term") else PEERS[peer]
        answer = talk.ask(PEERS.index(PeerId(who)), request, now_s)
        row = talk.disk.rows[JOB.job]
        assert row.promised.order >= promised.order
        promised = row.promised
        if isinstance(answer, Granted):
            others = [until_s for holder, until_s in leases.items() if holder != who]
            assert all(until_s <= now_s for until_s in others)
            leases[who] = max(leases.get(who, 0.0), now_s + request.lease_s)
        if isinstance(request, LeaseReleased) and row.granted == NO_TERM:
            leases.pop(who, None)
