"""What a coordinator believes: audits, copies, and who was caught."""

import pytest
from coordination_bench import ADA, BEN, CAL, JOB, LOCAL, OTHER, OWN, Bench, play_spot, spec_of

from peerinfer.assignment import (
    Audit,
    AuditDone,
    CancelFrame,
    CompareCopies,
    DropWorker,
    JobAccepted,
    JobCancelled,
    JobDropped,
    JobEnded,
    SendFrame,
    Settle,
    TasksCommitted,
    VoidResults,
    WorkerLost,
    WorkerOffer,
)
from peerinfer.ids import JobId, PeerId
from peerinfer.whitewashing import KEPT_OUT, NEW_NAMES_PER_DAY_MAX


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.machine.check()


# --- audits --------------------------------------------------------------------------------------------------------


def test_every_worker_is_audited_at_least_once(bench):
    audits = play_spot(bench, tasks=6, peers=(ADA, BEN, CAL))
    worked = {peer for peer, count in bench.picture().peers.items() if count}
    assert {audit.peers[0] for audit in audits} == worked


def test_about_one_task_in_twenty_is_audited_and_of_strangers_more_at_first(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=1000, verify="spot")))
    audits = []
    while frames := bench.take(SendFrame):
        for frame in frames:
            bench.answer(frame)
            drawn = bench.take(Audit)
            audits += drawn
            for audit in drawn:
                bench.tell(AuditDone(JOB, audit.task, audit.peers))
    assert 50 <= len(audits) <= 130
    assert sum(audit.task < 100 for audit in audits) > 2 * sum(audit.task >= 900 for audit in audits)


def test_a_job_ends_only_after_its_last_audit(bench):
    (*others, last) = play_spot(bench)
    for audit in others:
        bench.tell(AuditDone(JOB, audit.task, audit.peers))
    assert bench.take(JobEnded) == []
    assert bench.picture().provisional > 0
    bench.audit([last])
    end = bench.end()
    assert (end.state, end.picture.final) == ("done", 200)
    assert end.picture.audited >= len(others) + 1


def test_results_are_final_when_the_journal_has_them(bench):
    bench.commits = False
    bench.join(ADA, window=1).tell(JobAccepted(spec_of(tasks=1)))
    bench.work_off()
    assert (bench.picture().provisional, bench.picture().final) == (1, 0)
    (settle,) = bench.take(Settle)
    assert settle == Settle(JOB, ADA, (0,), True)
    bench.tell(TasksCommitted(JOB, (0,)))
    assert bench.end().picture.final == 1


def test_nothing_goes_into_the_journal_before_an_audit_has_covered_it(bench):
    bench.commits = False
    audits = play_spot(bench)
    assert bench.take(Settle) == []
    bench.audit(audits)
    settled = [task for settle in bench.take(Settle) for task in settle.tasks]
    assert sorted(settled) == list(range(200))


def test_what_was_final_before_this_term_is_counted_apart_from_what_was_judged_in_it(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=200, verify="spot", final=tuple(range(60)))))
    bench.work_off()
    bench.audit(bench.take(Audit))
    picture = bench.end().picture
    assert (picture.final, picture.earlier, sum(picture.grounds.values())) == (200, 60, 140)


def test_a_job_that_somebody_else_coordinates_now_stops_without_an_end(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=100)))
    sent = {frame.frame for frame in bench.take(SendFrame)}
    bench.tell(JobDropped(JOB, "the lease is lost"))
    assert {cancel.frame for cancel in bench.take(CancelFrame)} == sent
    assert bench.take(JobEnded) == []
    assert bench.machine.jobs == ()


def test_this_nodes_own_devices_are_believed(bench):
    bench.join(OWN, offer=LOCAL).tell(JobAccepted(spec_of(verify="spot")))
    bench.work_off()
    assert bench.take(Audit) == []
    assert bench.end().picture.final == 8


def test_an_audit_that_could_not_be_computed_here_is_not_passed_but_done_by_somebody_else(bench):
    audits = play_spot(bench)
    for _ in range(20):
        bench.audit(audits, agrees=None)
        audits = []
        bench.work_off()
    end = bench.end()
    assert (end.state, end.picture.audited, end.picture.final) == ("done", 0, 200)
    assert end.picture.copied >= 2
    assert {copies.peer for copies in bench.take(CompareCopies)} == {ADA, BEN}


def test_results_that_nobody_can_check_do_not_count(bench):
    bench.join(ADA).tell(JobAccepted(spec_of(tasks=4, verify="spot")))
    for _ in range(20):
        bench.work_off()
        bench.audit(agrees=None)
    bench.pass_time(10.0)
    end = bench.end()
    assert (end.state, end.kind, end.picture.final) == ("failed", "VerificationFailed", 0)
    assert end.reason.startswith("results of all 4 tasks could not be verified: unverified: ")
    assert len(end.picture.failed) == 4
    assert all(reason.startswith("unverified: ") for reason in end.picture.failed.values())


def test_a_worker_that_is_caught_loses_all_its_provisional_results_of_every_job(bench):
    bench.join(ADA, BEN).tell(JobAccepted(spec_of(tasks=100, verify="spot")))
    bench.tell(JobAccepted(spec_of(OTHER, tasks=100, verify="spot")))
    bench.work_off()
    audits = bench.take(Audit)
    held = {job: bench.picture(job).peers[ADA] for job in (JOB, OTHER)}
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(caught.job, caught.task, (), (ADA,), "task 3: wrong"))
    voided = bench.take(VoidResults)
    lost = {job: sum(len(void.tasks) for void in voided if void.job == job) for job in (JOB, OTHER)}
    assert lost == held
    assert all(void.peer == ADA for void in voided)
    assert [drop.peer for drop in bench.take(DropWorker)] == [ADA]
    assert bench.machine.caught == {ADA: "a result did not stand up to its check: task 3: wrong"}


def test_who_was_caught_comes_back_under_few_new_names_from_the_same_network(bench):
    here, elsewhere = (WorkerOffer(False, ("cpu",), 1 << 33, groups=(net,)) for net in ("9.9.9.0/24", "8.8.8.0/24"))
    bench.join(ADA, offer=here).join(BEN, offer=here).tell(JobAccepted(spec_of(tasks=1000, verify="spot")))
    for frame in bench.take(SendFrame):
        bench.answer(frame)
    caught = next(audit for audit in bench.take(Audit) if audit.peers[0] == ADA)
    bench.tell(AuditDone(caught.job, caught.task, (), (ADA,), "wrong"))
    names = [PeerId(f"name {number}") for number in range(NEW_NAMES_PER_DAY_MAX + 3)]
    for name in names:
        bench.join(name, offer=here)
    bench.join(CAL, offer=elsewhere).join(BEN, offer=here)
    kept_out = [name for name in names if bench.machine.why_not(JOB, name) == KEPT_OUT]
    assert kept_out == names[NEW_NAMES_PER_DAY_MAX:] == [name for name in names if bench.machine.is_kept_out(name)]
    given = {frame.peer for frame in bench.take(SendFrame)}
    assert given >= {BEN, CAL, *names[:NEW_NAMES_PER_DAY_MAX]}, "who is known, or from elsewhere, comes as before"
    assert not given & set(kept_out)


def test_a_caught_workers_tasks_are_computed_again_by_others_and_the_job_ends(bench):
    audits = play_spot(bench)
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(JOB, caught.task, (), (ADA,), "wrong"))
    void = [task for void in bench.take(VoidResults) for task in void.tasks]
    frames = bench.take(SendFrame)
    assert all(frame.peer == BEN for frame in frames)
    bench.effects += frames
    assert sorted(bench.work_off()) == sorted(void)
    bench.audit([audit for audit in audits if audit.peers[0] == BEN])
    end = bench.end()
    assert (end.state, end.picture.final, end.picture.audits_failed) == ("done", 200, 1)
    assert ADA not in end.picture.peers


def test_a_caught_worker_gets_nothing_more_even_when_it_comes_back(bench):
    audits = play_spot(bench)
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(JOB, caught.task, (), (ADA,), "wrong"))
    bench.take(SendFrame)
    bench.join(ADA).tell(JobAccepted(spec_of(OTHER)))
    assert all(frame.peer != ADA for frame in bench.take(SendFrame))
    assert bench.machine.why_not(OTHER, ADA) == "gave a wrong result"


def test_audits_of_a_caught_worker_that_are_under_way_are_not_waited_for(bench):
    audits = [audit for audit in play_spot(bench) if audit.peers[0] == ADA]
    bench.tell(AuditDone(JOB, audits[0].task, (), (ADA,), "wrong"))
    bench.work_off()
    before = bench.picture().audits_failed
    for audit in audits[1:]:
        bench.tell(AuditDone(JOB, audit.task, (), (ADA,), "wrong"))
    assert bench.picture().audits_failed == before == 1


def test_verdicts_that_nobody_waits_for_are_ignored(bench):
    bench.tell(AuditDone(JOB, 0, (), (ADA,), "wrong"))
    bench.join(ADA).tell(JobAccepted(spec_of(verify="none")), AuditDone(JOB, 0, (), (ADA,), "wrong"))
    assert bench.machine.caught == {}


def test_results_that_an_earlier_job_left_unchecked_are_checked_now(bench):
    bench.tell(JobAccepted(spec_of(tasks=4, verify="spot", kept=((ADA, False, (0, 2)), (BEN, False, (3,))))))
    audits = bench.take(Audit)
    assert {audit.peers[0] for audit in audits} == {ADA, BEN}
    assert {audit.task for audit in audits} <= {0, 2, 3}
    bench.join(CAL)
    assert bench.work_off() == [1]


def test_unchecked_results_of_a_peer_that_was_caught_since_are_computed_again(bench):
    audits = play_spot(bench)
    caught = next(audit for audit in audits if audit.peers[0] == ADA)
    bench.tell(AuditDone(JOB, caught.task, (), (ADA,), "wrong"), JobCancelled(JOB, ""))
    bench.take(SendFrame)
    bench.tell(JobAccepted(spec_of(OTHER, tasks=2, verify="spot", kept=((ADA, False, (0, 1)),))))
    assert bench.picture(OTHER).provisional == 0


# --- copies --------------------------------------------------------------------------------------------------------


def audits_of(bench, *peers, count=30):
    """Peers that have stood up to so many checks before."""
    for peer in peers:
        for _ in range(count):
            bench.machine.reputation.passed(peer, bench.now_s)


def play(bench, verify, *, tasks=40, honest_audits=True, rounds=200):
    """To the end of a job, whatever is asked: copies, audits, redoing."""
    bench.tell(JobAccepted(spec_of(tasks=tasks, verify=verify)))
    for _ in range(rounds):
        bench.work_off()
        for audit in bench.take(Audit):
            wrong = tuple(peer for peer in audit.peers if peer in bench.liars)
            right = tuple(peer for peer in audit.peers if peer not in bench.liars)
            told = (
                AuditDone(audit.job, audit.task, right, wrong, "no")
                if honest_audits
                else AuditDone(JOB, audit.task, None)
            )
            bench.tell(told)
        if not bench.machine.jobs:
            break
        bench.pass_time(1.0)
    return bench.end()


def test_a_quorum_is_computed_twice_and_counts_when_both_agree(bench):
    bench.join(ADA, BEN)
    end = play(bench, "quorum:2")
    assert (end.state, end.picture.final, end.picture.copied, end.picture.audited) == ("done", 40, 40, 0)
    assert end.picture.grounds == {"quorum": 40}


def test_copies_never_go_to_peers_of_the_same_subnet(bench):
    for peer, subnet in ((ADA, "9.9.9.0/24"), (BEN, "9.9.9.0/24"), (CAL, "8.8.8.0/24")):
        bench.join(peer, offer=WorkerOffer(False, ("cpu",), 1 << 33, groups=(subnet,)))
    end = play(bench, "quorum:2")
    assert end.state == "done"
    kept = {(kept.job, task): kept.peer for kept in bench.kept for task in kept.tasks}
    assert kept
    for key, others in bench.copied.items():
        assert {kept[key], *others} != {ADA, BEN}


def test_a_quorum_that_cannot_be_had_is_this_nodes_own_affair(bench):
    bench.join(ADA)
    end = play(bench, "quorum:2")
    assert (end.state, end.picture.final, end.picture.audited) == ("done", 40, 40)


def test_a_quorum_that_cannot_be_had_at_all_makes_no_result_final(bench):
    bench.join(ADA)
    end = play(bench, "quorum:2", tasks=3, honest_audits=False)
    assert (end.picture.final, len(end.picture.failed)) == (0, 3)
    assert "no 2 distinct peers agree" in end.picture.failed[0]


@pytest.mark.parametrize("verify", ["quorum:2", "adaptive", "spot"])
def test_a_liar_is_caught_under_every_policy_and_what_is_final_is_right(bench, verify):
    bench.liars = {BEN}
    bench.join(ADA, BEN, CAL)
    audits_of(bench, CAL)
    end = play(bench, verify)
    assert (end.state, end.picture.final) == ("done", 40)
    assert BEN not in end.picture.peers
    assert list(bench.machine.caught) == [BEN]


def test_newcomers_are_doubled_with_somebody_who_has_proven_himself(bench):
    bench.join(ADA, CAL)
    audits_of(bench, CAL)
    bench.join(CAL)
    end = play(bench, "adaptive")
    first = {task for kept in bench.kept if kept.peer == ADA for task in kept.tasks}
    doubled = {task for (_, task), peers in bench.copied.items() if CAL in peers}
    assert first <= doubled | set(range(40))
    assert len(first & doubled) >= min(len(first), 20)
    assert (end.state, end.picture.final) == ("done", 40)
    assert end.picture.error_bound < 1e-3


def test_a_copy_that_a_worker_took_along_goes_to_another(bench):
    bench.join(ADA)
    bench.tell(JobAccepted(spec_of(tasks=1, verify="quorum:2")))
    bench.work_off()
    bench.join(BEN)
    (double,) = bench.take(SendFrame)
    assert (double.peer, double.tasks) == (BEN, (0,))
    bench.tell(WorkerLost(BEN, "gone")).join(CAL)
    (again,) = bench.take(SendFrame)
    assert (again.peer, again.tasks) == (CAL, (0,))
    bench.answer(again)
    assert bench.end().state == "done"


def test_a_device_that_is_only_too_coarse_is_no_liar_until_it_happens_again_and_again(bench):
    for number, job in enumerate((JOB, OTHER, JobId("3" * 32))):
        bench.join(ADA)
        bench.tell(JobAccepted(spec_of(job, tasks=2, verify="spot")))
        bench.work_off()
        (audit, *_) = bench.take(Audit)
        bench.tell(AuditDone(job, audit.task, (), (ADA,), "0.51 where 0.5 is right", (ADA,)))
        bench.take(SendFrame)
        assert bench.machine.is_barred(ADA) == (number == 2)
        if number < 2:
            assert "less precisely" in bench.machine.why_not(job, ADA)
            assert bench.machine.reputation.standing(ADA, bench.now_s).faults == 0
        bench.tell(JobCancelled(job, ""))


def test_what_was_seen_of_a_peer_outlives_the_job(bench):
    bench.join(ADA)
    play(bench, "spot")
    standing = bench.machine.reputation.standing(ADA, bench.now_s)
    assert standing.audits >= 4
    bench.liars = {ADA}
    bench.tell(JobAccepted(spec_of(OTHER, tasks=4, verify="quorum:2")))
    bench.work_off()
    bench.pass_time(6.0)
    for audit in bench.take(Audit):
        bench.tell(AuditDone(OTHER, audit.task, (), (ADA,), "no"))
    assert bench.machine.reputation.standing(ADA, bench.now_s).faults == 1
