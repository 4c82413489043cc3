"""Which results are computed again, and when a result is final: commit, audit, backtrack, finalise.

Theory of operation. A worker commits to its result before it can know whether it will be checked; this machine draws
its checks when the result has arrived. A result is *provisional* until enough more work of the same worker was open to
checks: results are gathered in *windows* of W for each worker, and a window is final when it is full and every check
drawn in it has come back. One failed check voids whatever of that worker is not final (backtracking), so a cheat loses
a whole window for each time it is caught. A worker that corrupts a share s of its work survives a window with
probability (1 - p*s)^W; whatever s it picks, and even if it may return under a new name at once,

    error <= 0.65 * f / (p * W)

where f is the share of saboteurs and p the share of work that is checked (ALGORITHMS.md §5.3).

Newcomers, with fewer than 20 passed checks, are *doubled* under `adaptive`: a trusted partner of another subnet and
operator computes the same, never another newcomer, since two cheats that agree would vouch for each other. Where no
partner exists this node's own device takes its place. When answers differ, the own device decides; without one, the
side that two more trusted partners join. Whoever was on the wrong side is caught, checker or checked.

`spot` checks on the own device alone, newcomers more often; `quorum` finalises what K distinct peers agree on; `none`
believes. When a job ends before its windows are full, what is left is judged by credibility: the chance of an error
that the passed checks of its supporters leave. It is stated with the result or, where the policy insists, lowered by
further copies until it is small enough.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from peerinfer.ids import JobId, PeerId
from peerinfer.machine import NEVER, Tick
from peerinfer.reputation import epsilon
from peerinfer.verification_events import (
    ANSWERS_MAX,
    AuditDone,
    Caught,
    CopyImpossible,
    Effect,
    Event,
    Finalise,
    Ground,
    JobConcluded,
    Passed,
    PeerKnown,
    PeerLeft,
    Policy,
    ResultArrived,
    TaskKey,
    Void,
    WantAudit,
    WantCopy,
)
from peerinfer.verification_state import Answered, Provisional, Supporter, Window

MAJORITY = 2
"""So many trusted peers on the right side prove the others wrong, where no own device can."""

CAUGHT_MAX = 65_536
"""Names of caught peers that are kept here; reputation keeps the evidence."""

_GROUNDS: dict[str, tuple[Ground, ...]] = {
    "none": ("unchecked", "own"),
    "spot": ("window", "audit", "credibility", "own"),
    "adaptive": ("window", "audit", "credibility", "own"),
    "quorum": ("quorum", "audit", "own"),
}
"""Why a result may become final under each policy."""


class Verification:
    """The machine. One for each policy, over all the jobs that share it: windows go across jobs."""

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.policy = policy
        self.deadline_s = NEVER
        self._rng = rng
        self._book = Provisional()
        self._caught: dict[PeerId, TaskKey] = {}
        self._concluded: dict[JobId, None] = {}
        self._finals: dict[str, int] = {}
        self._effects: list[Effect] = []

    # --- the door --------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        match event:
            case ResultArrived(task, peer, agrees_with):
                self._arrived(task, peer, agrees_with)
            case AuditDone(task, right):
                self._audited(task, right)
            case PeerKnown():
                self._know(event)
            case PeerLeft(peer):
                if peer in self._book.peers:
                    self._book.trust_changed(self._book.peers[peer], is_here=False)
                    self._book.drop_if_gone(self._book.peers[peer])
            case CopyImpossible(task):
                self._copy_impossible(task)
            case JobConcluded(job):
                self._concluded[job] = None
            case Tick():
                pass
        if self._concluded:
            self._conclude()
        effects, self._effects = self._effects, []
        return effects

    def caught(self, peer: PeerId) -> TaskKey | None:
        """The task by which a peer was caught, or None."""
        return self._caught.get(peer)

    # --- peers -----------------------------------------------------------------------------------------------------

    def _know(self, event: PeerKnown) -> None:
        if event.peer in self._caught:
            return
        known = self._book.peers.get(event.peer)
        if known is None:
            known = Supporter(event.peer, event.groups, 0.0, event.probation, event.is_own, is_here=False)
            self._book.peers[event.peer] = known
        known.groups, known.probation = event.groups, event.probation
        self._book.trust_changed(known, is_here=True, audits=max(event.audits, known.audits))

    def _pass(self, name: PeerId) -> None:
        peer = self._book.peers[name]
        self._book.trust_changed(peer, audits=peer.audits + 1)
        self._effects.append(Passed(name))

    # --- results ---------------------------------------------------------------------------------------------------

    def _arrived(self, key: TaskKey, name: PeerId, agrees_with: tuple[PeerId, ...]) -> None:
        if name in self._caught:
            return
        if name not in self._book.peers:
            self._know(PeerKnown(name))
        task = self._book.tasks.get(key)
        if task is not None and name in task.peers:
            return
        if self._book.peers[name].is_own:
            self._computed_here(key, task, name, agrees_with)
        elif self.policy.kind == "none":
            self._final([(key, name)], 1.0, "unchecked")
        elif task is None:
            self._first(key, self._book.peers[name])
        else:
            self._further(key, task, self._book.peers[name], agrees_with)

    def _computed_here(
        self, key: TaskKey, task: Answered | None, name: PeerId, agrees_with: tuple[PeerId, ...]
    ) -> None:
        if task is None:
            self._final([(key, name)], 0.0, "own")
        else:
            self._judge(key, task, [peer for peer in task.peers if peer in agrees_with], own=name)

    def _first(self, key: TaskKey, peer: Supporter) -> None:
        task = Answered([[peer.peer]])
        self._book.answer(key, task, peer)
        policy = self.policy
        if policy.kind == "quorum":
            for _ in range(policy.copies - 1):
                self._want_copy(key, task, trusted=False)
            if policy.copies == 1:
                self._try_quorum(key, task)
        elif policy.kind == "adaptive" and not peer.is_trusted:
            task.subject = peer.peer
            self._check_by_partner(key, task)
        elif self._rng.random() < self._share(peer):
            task.subject = peer.peer
            self._check(key, task)
        self._seal(peer)

    def _share(self, peer: Supporter) -> float:
        """The chance that a result is checked; a newcomer under `spot` is checked at first every time, then less."""
        if self.policy.kind == "spot":
            return max(self.policy.audit_share, 1.0 / (peer.audits + 1.0))
        return self.policy.audit_share

    def _check(self, key: TaskKey, task: Answered) -> None:
        if self.policy.own_device:
            self._want_audit(key, task)
        else:
            self._check_by_partner(key, task)

    def _check_by_partner(self, key: TaskKey, task: Answered) -> None:
        partners = self._book.trusted_here - sum(self._book.peers[peer].is_trusted for peer in task.peers)
        if partners > 0:
            self._want_copy(key, task, trusted=True)
        elif self.policy.own_device:
            self._want_audit(key, task)
        elif task.subject is not None:
            # Nobody can check: the answer stays provisional, and is judged by credibility when the job ends.
            task.subject = None
            task.is_excused = True

    def _want_copy(self, key: TaskKey, task: Answered, *, trusted: bool) -> None:
        groups = tuple(dict.fromkeys(group for peer in task.peers for group in self._book.peers[peer].groups))
        self._book.waits(key, task, copies=task.copies_wanted + 1)
        self._effects.append(WantCopy(key, tuple(task.peers), groups, trusted))

    def _want_audit(self, key: TaskKey, task: Answered) -> None:
        if not task.audit_wanted:
            self._book.waits(key, task, audit=True)
            self._effects.append(WantAudit(key))

    # --- further answers -------------------------------------------------------------------------------------------

    def _further(self, key: TaskKey, task: Answered, peer: Supporter, agrees_with: tuple[PeerId, ...]) -> None:
        side = next((side for side in task.sides if any(other in agrees_with for other in side)), None)
        if side is None:
            task.sides.append([peer.peer])
        else:
            side.append(peer.peer)
        self._book.answer(key, task, peer)
        self._book.waits(key, task, copies=max(task.copies_wanted - 1, 0))
        if self.policy.kind == "quorum":
            self._try_quorum(key, task)
        elif len(task.sides) > 1:
            self._dispute(key, task)
        elif not task.is_waiting and task.subject is not None:
            subject, task.subject = task.subject, None
            self._pass(subject)
            # A pair that agrees may be a pair of cheats: it is audited like everybody's work.
            if self.policy.own_device and self._rng.random() < self.policy.audit_share:
                self._want_audit(key, task)
        self._seal_of(task)

    def _dispute(self, key: TaskKey, task: Answered) -> None:
        if self.policy.own_device:
            self._want_audit(key, task)
            return
        votes = [sum(self._book.peers[peer].is_trusted for peer in side) for side in task.sides]
        ranked = sorted(range(len(votes)), key=lambda position: -votes[position])
        best, second = votes[ranked[0]], votes[ranked[1]]
        if best >= MAJORITY and best > second:
            self._judge(key, task, task.sides[ranked[0]])
        elif task.is_waiting:
            return
        elif len(task.peers) >= ANSWERS_MAX:
            self._void([key], f"{len(task.peers)} answers, and no two sides agree")
        else:
            self._want_copy(key, task, trusted=True)

    def _try_quorum(self, key: TaskKey, task: Answered) -> None:
        sides = [(self._distinct(side), side) for side in task.sides]
        votes, side = max(sides, key=lambda entry: entry[0])
        if len(task.sides) > 1 and self.policy.own_device:
            self._want_audit(key, task)
        elif votes >= self.policy.copies:
            error = self._credibility(side)
            proven = sum(self._book.peers[peer].is_trusted for peer in side) >= MAJORITY
            losers = [peer for peer in task.peers if peer not in side]
            self._book.forget(key)
            self._final([(key, side[0])], error, "quorum")
            for peer in losers if proven else []:
                self._catch(peer, key)
        elif task.is_waiting:
            return
        elif len(task.peers) >= ANSWERS_MAX:
            self._void([key], f"{len(task.peers)} answers, and no {self.policy.copies} agree")
        else:
            self._want_copy(key, task, trusted=False)

    def _distinct(self, side: list[PeerId]) -> int:
        """How many of these peers share no subnet and no operator with one before."""
        seen: dict[str, None] = {}
        count = 0
        for peer in side:
            groups = self._book.peers[peer].groups
            if not any(group in seen for group in groups):
                count += 1
            seen.update(dict.fromkeys(groups))
        return count

    def _copy_impossible(self, key: TaskKey) -> None:
        task = self._book.tasks.get(key)
        if task is None or not task.copies_wanted:
            return
        self._book.waits(key, task, copies=0)
        if self.policy.own_device:
            self._want_audit(key, task)
        elif len(task.sides) > 1:
            self._void([key], "answers differ, and nobody is there to decide")
        else:
            task.subject = None
            task.is_excused = True
            if self.policy.kind == "quorum":
                self._void([key], f"there are no {self.policy.copies} distinct peers to compute it")
            else:
                self._seal_of(task)

    # --- audits ----------------------------------------------------------------------------------------------------

    def _audited(self, key: TaskKey, right: tuple[PeerId, ...] | None) -> None:
        task = self._book.tasks.get(key)
        if task is None or not task.audit_wanted:
            return
        self._book.waits(key, task, audit=False)
        if right is not None:
            self._judge(key, task, [peer for peer in task.peers if peer in right])
        elif len(task.sides) > 1:
            self._void([key], "answers differ, and this node could not compute it either")
        elif self.policy.kind == "quorum":
            self._void([key], f"no {self.policy.copies} distinct peers and not this node either could compute it")
        else:
            subject, task.subject = task.subject, None
            task.is_excused = True
            if subject is not None:
                self._check_another(subject, task.windows[subject])
            self._seal_of(task)

    def _check_another(self, subject: PeerId, window: Window) -> None:
        """A check that told nothing is drawn again: what cannot be checked must not be a hiding place."""
        others = [key for key in window.tasks if self._could_check(self._book.tasks[key])]
        if others and subject not in self._caught:
            key = self._rng.choice(others)
            self._book.tasks[key].subject = subject
            self._check(key, self._book.tasks[key])

    @staticmethod
    def _could_check(task: Answered) -> bool:
        return not task.is_waiting and not task.is_excused and len(task.peers) == 1

    def _judge(self, key: TaskKey, task: Answered, right: Sequence[PeerId], own: PeerId | None = None) -> None:
        """The truth is known: `right` gave it, everybody else did not. `own`: this node has a result of its own."""
        wrong = [peer for peer in task.peers if peer not in right]
        known = [self._book.peers[peer] for peer in task.peers]
        self._book.forget(key)
        for peer in right:
            self._pass(peer)
        if right:
            self._final([(key, right[0])], 0.0, "audit")
        elif own is not None:
            self._final([(key, own)], 0.0, "own")
        else:
            self._tell_void((key,), "a check found it wrong")
        for peer in wrong:
            self._catch(peer, key)
        for row in known:
            self._seal(row)

    def _catch(self, name: PeerId, by: TaskKey) -> None:
        if name in self._caught:
            return
        self._caught[name] = by
        if len(self._caught) > CAUGHT_MAX:
            del self._caught[next(iter(self._caught))]
        self._effects.append(Caught(name, by))
        keys = self._book.withdraw(name)
        void: list[TaskKey] = []
        for key in keys:
            found = self._book.tasks.get(key)
            if found is None:  # judged meanwhile, on account of another one
                continue
            trusted = any(self._book.peers[other].is_trusted for other in found.peers)
            if trusted or (found.peers and self.policy.kind == "quorum"):
                self._lost_a_supporter(key, found, name)
            else:
                void.append(key)
        self._void([key for key in void if key in self._book.tasks], "another result of the same peer was found wrong")

    def _lost_a_supporter(self, key: TaskKey, task: Answered, name: PeerId) -> None:
        """The task is still vouched for by somebody else."""
        if task.subject == name:
            task.subject = None
        if self.policy.kind == "quorum":
            self._try_quorum(key, task)
        elif len(task.sides) > 1 and not task.is_waiting:
            self._dispute(key, task)

    # --- windows ---------------------------------------------------------------------------------------------------

    def _seal_of(self, task: Answered) -> None:
        for name in list(task.windows):
            if name in self._book.peers:
                self._seal(self._book.peers[name])

    def _seal(self, peer: Supporter) -> None:
        """Closes the window that is full, and finalises those whose checks are all back."""
        if self.policy.kind == "quorum" or not peer.windows:
            return
        if peer.windows[-1].answers >= self.policy.window:
            peer.windows.append(Window())
        elif len(peer.windows) == 1:
            return
        for window in [window for window in peer.windows[:-1] if not window.waiting]:
            peer.windows.remove(window)
            answers = [(key, peer.peer) for key in window.tasks]
            for key, _ in answers:
                self._book.forget(key, apart_from=window)
            if answers:
                self._final(answers, self.policy.window_error, "window")
        self._book.drop_if_gone(peer)

    def _final(self, answers: Sequence[tuple[TaskKey, PeerId]], error: float, ground: Ground) -> None:
        policy = self.policy.kind
        assert ground in _GROUNDS[policy], f"{answers[0]} became final by {ground} under {policy}"
        assert not any(peer in self._caught for _, peer in answers), "a result of a caught peer became final"
        self._finals[ground] = self._finals.get(ground, 0) + len(answers)
        self._effects.append(Finalise(tuple(answers), error, ground))

    def _void(self, keys: Iterable[TaskKey], reason: str) -> None:
        keys = tuple(keys)
        for key in keys:
            self._book.forget(key)
        if keys:
            self._tell_void(keys, reason)

    def _tell_void(self, keys: tuple[TaskKey, ...], reason: str) -> None:
        for job, _ in keys:
            self._concluded.pop(job, None)
        self._effects.append(Void(keys, reason))

    # --- the end of a job ------------------------------------------------------------------------------------------

    def _conclude(self) -> None:
        """Judges what is left of jobs that have ended, once their checks are back: one that fails voids others."""
        for job in list(self._concluded):
            if self._book.waiting(job):
                continue
            by_error: dict[float, list[tuple[TaskKey, PeerId]]] = {}
            for key in list(self._book.open.get(job, ())):
                task = self._book.tasks[key]
                error = self._credibility(task.sides[0])
                if not self.policy.insist or error <= self.policy.error_max or not self._insist(key, task):
                    by_error.setdefault(error, []).append((key, task.sides[0][0]))
            if self._book.waiting(job):
                continue
            for error, answers in by_error.items():
                known = [self._book.peers[peer] for key, _ in answers for peer in self._book.tasks[key].peers]
                for key, _ in answers:
                    self._book.forget(key)
                self._final(answers, error, "credibility")
                for row in known:
                    self._book.drop_if_gone(row)
            self._concluded.pop(job, None)

    def _credibility(self, side: list[PeerId]) -> float:
        return math.prod(epsilon(self._book.peers[peer].audits, self.policy.saboteurs) for peer in side)

    def _insist(self, key: TaskKey, task: Answered) -> bool:
        """Asks for one more opinion; False if there is none to be had."""
        if task.is_excused or len(task.peers) >= ANSWERS_MAX:
            return False
        task.subject = task.sides[0][0]
        self._check_by_partner(key, task)
        return task.is_waiting

    # --- pictures --------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, int]:
        """How many results are provisional, and how many became final on which ground."""
        return {"provisional": len(self._book.tasks), **self._finals}

    def check(self) -> None:
        self._book.check()
        assert not any(name in self._caught for name in self._book.peers), "a caught peer still has results"
        for key, task in self._book.tasks.items():
            assert len(task.sides) == 1 or task.is_waiting, f"{key} is disputed and nobody looks at it"
            if self.policy.kind == "adaptive" and not task.is_waiting and not task.is_excused:
                trusted = any(self._book.peers[peer].is_trusted for peer in task.peers)
                assert trusted, f"{key} rests on newcomers alone: {task.peers}"
