"""What a coordinator believes: results on their way from a worker's answer to the journal, and who was caught.

Each job has a `Verification` for its policy. This turns what it wants into the coordinator's effects: copies for other
workers, audits for this node's own device, results that count and results that are void. What is learned of a peer goes
to `Reputation`, which outlives the job, and what a peer was caught at in one job counts in all others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from peerinfer import verification_events as told
from peerinfer.assignment import (
    Audit,
    AuditDone,
    CopiesCompared,
    DropWorker,
    Effect,
    JobChanged,
    Settle,
    TaskFailedForGood,
    VoidResults,
)
from peerinfer.ids import JobId, PeerId
from peerinfer.job_ends import UNVERIFIED
from peerinfer.reputation import NEWCOMER_AUDITS, Reputation
from peerinfer.verification import Verification
from peerinfer.vouching import Vouching
from peerinfer.whitewashing import KEPT_OUT, Whitewashing
from peerinfer.workforce import CoordinatedJob, Worker, Workforce

LATE_MIN_S = 1.0
"""An answer that takes twice what was expected, and this much longer, is a late one."""

REFUSAL_WEIGHT = 0.1
"""A refusal tells so little of a peer's reliability: its owner may pause it at any time."""

MISMATCHES_MAX = 3
"""So many jobs in which a peer was too coarse, and it is taken for a liar that stays close to the truth."""


class Judgement:
    """Over a coordinator's jobs and workers, which are the coordinator's; effects go to `say`, in order."""

    def __init__(
        self,
        force: Workforce,
        *,
        reputation: Reputation,
        vouching: Vouching,
        wall_offset_s: float,
        rng: random.Random,
        say: Callable[[Effect], None],
        lose: Callable[[PeerId, str, float], None],
        refuse: Callable[[CoordinatedJob, PeerId, str, float], None],
        touch: Callable[[JobId], None],
    ) -> None:
        self._force = force
        self._jobs, self._workers = force.jobs, force.workers
        self._rng = rng
        self._say = say
        self._lose = lose
        self._touch = touch
        self._refuse = refuse
        self._wall_offset_s = wall_offset_s
        self.reputation = reputation
        self.vouching = vouching
        self.now_s = 0.0
        self.whitewashing = Whitewashing()
        self.kept_out: dict[PeerId, None] = {}
        """Workers that are here and get nothing, since too many new names came from their network."""

    @property
    def wall_s(self) -> float:
        """Reputation lives by a clock that goes on while the node does not."""
        return self.now_s + self._wall_offset_s

    # --- jobs and workers ------------------------------------------------------------------------------------------

    def begin(self, job: CoordinatedJob) -> None:
        policy = told.Policy.named(job.spec.verify)
        if policy.kind == "none" or (job.spec.online and policy.kind != "quorum"):
            return  # requests are answered at once: only what several peers say together is waited for
        job.verification = Verification(policy, self._rng)
        for worker in self._workers.values():
            job.verification.handle(self._known(worker.peer, worker), self.now_s)

    def _known(self, peer: PeerId, worker: Worker | None) -> told.PeerKnown:
        audits = self.reputation.standing(peer, self.wall_s).audits
        probation = self.vouching.opinion(peer, self.wall_s).probation if audits < NEWCOMER_AUDITS else NEWCOMER_AUDITS
        if worker is None:
            return told.PeerKnown(peer, (), audits, probation)
        return told.PeerKnown(peer, worker.offer.groups, audits, probation, is_own=worker.offer.local)

    def joined(self, worker: Worker) -> None:
        offer, is_known = worker.offer, self.reputation.knows(worker.peer)
        if not (offer.local or is_known or self.whitewashing.admits(worker.peer, offer.groups, self.wall_s)):
            self._force.keep_out(worker.peer, KEPT_OUT)
            self.kept_out[worker.peer] = None
        self._rate(worker.peer)
        self._tell_all(self._known(worker.peer, worker))

    def _rate(self, peer: PeerId) -> None:
        """Placement reckons with the chance that a result of the peer comes, and is right."""
        worker = self._workers.get(peer)
        if worker is not None and not worker.offer.local:
            self._force.table.update(peer, p_ok=self.reputation.standing(peer, self.wall_s).p_ok)

    def recall(self) -> None:
        """Peers that were caught before this node started get nothing either, and few new names from there come in."""
        for peer, detail in self.reputation.barred(self.wall_s).items():
            self._force.bar(peer, f"gave a wrong result before this node started: {detail}")
        for caught_s, networks in self.reputation.networks():
            self.whitewashing.caught(networks, caught_s)

    def answered(self, worker: Worker, *, late_s: float, weight: float = 1.0, energy_j: float = 0.0) -> None:
        """A frame was answered, so long after its time, or never; says nothing of whether it was right."""
        if not worker.offer.local:
            if energy_j:
                self.reputation.took(worker.peer, self.wall_s, energy_j)
            self.reputation.answered(worker.peer, self.wall_s, in_time=late_s <= LATE_MIN_S, weight=weight)

    def vanished(self, worker: Worker) -> None:
        """It left with work in hand."""
        if not worker.offer.local and worker.peer not in self._force.caught:
            self.reputation.vanished(worker.peer, self.wall_s)

    def left(self, peer: PeerId) -> None:
        self.kept_out.pop(peer, None)
        self._tell_all(told.PeerLeft(peer))

    def _tell_all(self, event: told.Event) -> None:
        for job in list(self._jobs.values()):
            self._verify(job, event)

    def conclude(self, job: CoordinatedJob) -> None:
        """Every task has an answer: what has too little evidence yet is looked at once more."""
        if job.verification is not None and job.verification.provisional and not job.verification.is_concluded:
            self._verify(job, told.Concluded())

    def look_for_copies(self, job: CoordinatedJob) -> None:
        """Gives up copies that nobody here may compute."""
        machine = job.verification
        if machine is None or self.now_s < job.doubles.look_s:
            return
        candidates = [(peer, self._workers[peer].offer.groups, machine.is_trusted(peer)) for peer in job.usable]
        for task in job.doubles.impossible(candidates, self.now_s):
            self._verify(job, told.CopyImpossible(task))

    # --- answers ---------------------------------------------------------------------------------------------------

    def took(self, job: CoordinatedJob, peer: PeerId, tasks: Sequence[int], *, local: bool) -> None:
        """First answers are kept: they count at once, or when there is evidence for them."""
        job.kept[peer] = job.kept.get(peer, 0) + len(tasks)
        if job.verification is None:
            job.believed += 0 if local else len(tasks)
            self._settle(job, peer, tasks)
            return
        if peer not in self._workers:  # kept by an earlier coordinator
            self._verify(job, told.PeerKnown(peer, is_own=True) if local else self._known(peer, None))
        self._verify(job, told.ResultsArrived(peer, tasks))
        if peer not in self._workers:
            self._verify(job, told.PeerLeft(peer))

    def compared(self, event: CopiesCompared) -> None:
        job = self._jobs.get(event.job)
        if job is None:
            return
        for task, agrees_with in event.agrees:
            job.copied += 1
            self._verify(job, told.CopyArrived(task, event.peer, agrees_with))
        self._touch(event.job)
        self._say(JobChanged(event.job))

    def audited(self, event: AuditDone) -> None:
        job = self._jobs.get(event.job)
        if job is None or job.verification is None:
            return
        self._verify(job, told.AuditDone(event.task, event.right, event.wrong, event.detail, event.imprecise))
        self._touch(event.job)
        self._say(JobChanged(event.job))

    # --- what the verification wants -------------------------------------------------------------------------------

    def _verify(self, job: CoordinatedJob, event: told.Event) -> None:
        if job.verification is None:
            return
        effects = job.verification.handle(event, self.now_s)
        if effects:
            self._touch(job.spec.job)
        for effect in effects:
            match effect:
                case told.WantCopy(task, exclude, groups, trusted):
                    job.doubles.want(task, exclude, groups, trusted=trusted, now_s=self.now_s)
                case told.WantAudit(task, peers):
                    self._say(Audit(job.spec.job, task, peers))
                case told.Finalise(peer, tasks, _, ground, first):
                    worker = self._workers.get(peer)
                    if ground not in ("own", "unchecked") and not (worker is not None and worker.offer.local):
                        items = len(tasks) * job.spec.items_per_task
                        self.reputation.worked(peer, self.wall_s, items * job.spec.flops_per_item)
                    if first != peer:
                        job.kept[first] = job.kept.get(first, 0) - len(tasks)
                        job.kept[peer] = job.kept.get(peer, 0) + len(tasks)
                    job.doubles.forget(tasks)
                    self._settle(job, peer, tasks)
                case told.Void(first, tasks, reason):
                    self._void(job, first, tasks, reason)
                case told.Unverified(first, tasks, reason):
                    self._reject(job, first, tasks, reason)
                case told.Passed(peer):
                    self.reputation.passed(peer, self.wall_s)
                    self._rate(peer)
                case told.Mismatched(peer, detail):
                    self._mismatched(job, peer, detail)
                case told.Caught(peer, _, detail):
                    self._catch(peer, detail)

    def _settle(self, job: CoordinatedJob, peer: PeerId, tasks: Sequence[int]) -> None:
        if job.spec.online:
            job.ledger.finalise(tasks)
            if job.verification is not None:
                self._say(Settle(job.spec.job, peer, tuple(tasks), False))
            return
        job.settling += len(tasks)
        is_last = job.ledger.all_answered and not job.unsettled
        self._say(Settle(job.spec.job, peer, tuple(tasks), is_last))

    def _void(self, job: CoordinatedJob, first: PeerId, tasks: tuple[int, ...], reason: str) -> None:
        job.doubles.forget(tasks)
        for task in tasks:
            job.ledger.void(task, first, reason)
        job.retried += len(tasks)
        job.kept[first] = job.kept.get(first, 0) - len(tasks)
        self._say(VoidResults(job.spec.job, first, tasks, reason))

    def _reject(self, job: CoordinatedJob, first: PeerId, tasks: tuple[int, ...], reason: str) -> None:
        job.doubles.forget(tasks)
        reason = UNVERIFIED + reason
        job.kept[first] = job.kept.get(first, 0) - len(tasks)
        self._say(VoidResults(job.spec.job, first, tasks, reason))
        for task in tasks:
            job.ledger.reject(task, first, reason)
            self._say(TaskFailedForGood(job.spec.job, task, reason))

    def _mismatched(self, job: CoordinatedJob, peer: PeerId, detail: str) -> None:
        """Coarse is not false: it gets no more of this job, and is punished only where it happens again and again."""
        if self.reputation.mismatched(peer, self.wall_s) >= MISMATCHES_MAX:
            self._catch(peer, f"{detail}, for the {MISMATCHES_MAX}rd time")
        elif peer in self._workers:
            self._refuse(job, peer, f"computes this model less precisely than asked: {detail}", self.now_s)

    def proven(self, peer: PeerId, detail: str) -> None:
        """It lied to somebody else, and this node has seen it."""
        if peer not in self._force.caught:
            self._catch(peer, detail)

    def _catch(self, peer: PeerId, detail: str) -> None:
        reason = f"a result did not stand up to its check: {detail}"
        networks = self._workers[peer].offer.groups if peer in self._workers else ()
        self.whitewashing.caught(networks, self.wall_s)
        self._force.bar(peer, reason)
        self.reputation.caught(peer, self.wall_s, detail, networks)
        self._tell_all(told.PeerCaught(peer, reason))
        self._lose(peer, reason, self.now_s)
        self._say(DropWorker(peer, reason))
