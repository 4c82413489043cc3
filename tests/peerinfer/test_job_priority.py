"""A job's priority is its owner's word, the newest one, whoever writes it down and in whatever order."""

from __future__ import annotations

import pytest
from lease_setting import PEERS, Setting, keys, term

from peerinfer.envelope import seal
from peerinfer.errors import ProtocolError
from peerinfer.fairness import Priority
from peerinfer.ids import JobId, PeerId
from peerinfer.job_priority import (
    ENDED,
    WRITTEN,
    JobPriority,
    check_room,
    detail_of,
    in_batch,
    newest,
    opened,
    stated,
    told,
)
from peerinfer.journal import Chain
from peerinfer.journal_rules import PRIORITY
from peerinfer.limits import PRIORITY_CHANGES_MAX, REASON_CHARS_MAX

JOB = Setting()
OWNER = PeerId(JOB.manifest.submitter)
ONE, TWO = term(1, 0), term(2, 1)


def said(word: str, *, wall_s: float = 1e9, before: JobPriority | None = None, job: str = "") -> bytes:
    return stated(JobId(job or JOB.job), word, wall_s, before, OWNER, keys(7).sign)


def write(chain: Chain, statement: bytes, *, by: int = 0, at: object = ONE) -> None:
    batch = JOB.batch(chain, at, event=PRIORITY, detail=detail_of(statement), signer=by)  # type: ignore[arg-type]
    chain.extend(JOB.job, JOB.manifest, at, (batch,))  # type: ignore[arg-type]


def test_what_the_owner_said_last_counts_across_terms() -> None:
    chain = JOB.written((ONE, [[1]]))
    assert newest(chain, JOB.job, OWNER) is None
    first = said("high")
    write(chain, first)
    later = said("urgent", before=opened(first, JOB.job, OWNER))  # the clock stood still meanwhile
    chain.take(JOB.batch(chain, TWO, event="takeover"))
    write(chain, later, by=1, at=TWO)
    write(chain, first, by=1, at=TWO)  # a coordinator brings the old one back
    found = newest(chain, JOB.job, OWNER)
    assert found is not None
    assert (found.word, found.priority) == ("urgent", Priority.URGENT)


def test_a_clock_that_was_set_back_does_not_make_the_owner_unheard() -> None:
    first = opened(said("high", wall_s=2e9), JOB.job, OWNER)
    assert opened(said("low", wall_s=1e9, before=first), JOB.job, OWNER).sequence == first.sequence + 1


def test_what_is_not_the_owners_word_on_this_job_is_passed_over() -> None:
    forged = seal(JobPriority(JOB.job, 1 << 40, 0), PEERS[0], keys(0).sign)
    beyond = seal(JobPriority(JOB.job, 1 << 40, 4), OWNER, keys(7).sign)
    for statement in (forged, beyond, said("urgent", job="f" * 32), b"", b"x" * 200, said("high")[:-1]):
        with pytest.raises(ProtocolError):
            opened(statement, JOB.job, OWNER)
        assert in_batch(detail_of(statement), JOB.job, OWNER) is None
    assert in_batch("not base64!", JOB.job, OWNER) is None
    chain = JOB.written((ONE, [[1]]))
    write(chain, said("low"))
    write(chain, forged)
    found = newest(chain, JOB.job, OWNER)
    assert found is not None
    assert found.word == "low"


def test_a_statement_fits_into_a_batch() -> None:
    assert len(detail_of(said("normal", wall_s=(1 << 48) / 1000 - 1))) < REASON_CHARS_MAX


def test_a_job_takes_so_many_changes_and_no_more() -> None:
    chain = JOB.written((ONE, [[1]]))
    for number in range(PRIORITY_CHANGES_MAX):
        check_room(chain)
        chain.take(JOB.batch(chain, ONE, event=PRIORITY, detail=str(number)))
    with pytest.raises(ProtocolError, match="256 times"):
        check_room(chain)


def test_nothing_changes_after_the_end() -> None:
    chain = JOB.written((ONE, [[1]]))
    chain.take(JOB.batch(chain, ONE, event="cancelled"))
    with pytest.raises(ProtocolError, match="nothing follows"):
        write(chain, said("high"))


def test_an_elector_tells_of_its_journal_the_statement_that_counts_and_whether_it_has_an_end() -> None:
    assert told(None, JOB.job, OWNER) == {WRITTEN: 0, ENDED: False}
    chain = JOB.written((ONE, [[1]]))
    assert told(chain, JOB.job, OWNER) == {WRITTEN: 0, ENDED: False}
    statement = said("high", wall_s=1e9)
    write(chain, statement)
    chain.extend(JOB.job, JOB.manifest, ONE, (JOB.batch(chain, ONE, event="cancelled"),))
    assert told(chain, JOB.job, OWNER) == {WRITTEN: 10**12, ENDED: True}
