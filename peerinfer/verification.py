"""Which results of a job are computed again, and when a result is final: commit, audit, backtrack, finalise.

Theory of operation. A worker commits to its result before it can know whether it will be checked; this machine draws
its checks when the result has arrived. A result is *provisional* until enough more work of the same worker was open to
checks: results are gathered in *windows* for each worker, and a window is final when it is full and every check drawn
in it, and in the windows before it, has come back. One failed check voids whatever of that worker is not final
(backtracking), here and in every other job. Under `adaptive` a window is full with W results. A worker that corrupts a
share s of its work survives a window with probability (1 - p*s)^W; whatever s it picks, and even if it may return under
a new name at once,

    error <= 0.65 * f / (p * W)

where f is the share of saboteurs and p the share of work that is checked (ALGORITHMS.md §5.3).

Newcomers, with fewer than 20 passed checks, are *doubled* under `adaptive`: a trusted partner of another public subnet
computes the same, never another newcomer, since two cheats that agree would vouch for each other. Where no
partner exists this node's own device takes its place. When answers differ, the own device decides; without one, the
side that two more trusted partners join. Whoever was on the wrong side is caught, checker or checked.

`spot` checks on the own device, newcomers more often, and a window of it is full when it holds a check: results flow, and
the error is what the worker's passed checks leave (`reputation.epsilon`). `quorum` finalises what K distinct peers agree
on; `none` believes.

When a job ends before its windows are full, what is left is judged by credibility: the chance of an error that the passed
checks of its supporters leave. It is stated with the result or, where the policy insists, lowered by further copies. A
check that nobody could compute is drawn again elsewhere, and never counts as passed. What no evidence at all can be had
of is `Unverified`, and does not count.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from peerinfer.ids import PeerId
from peerinfer.machine import NEVER, Tick
from peerinfer.verification_checks import Checks
from peerinfer.verification_events import (
    ANSWERS_MAX,
    AuditDone,
    Caught,
    Concluded,
    CopyArrived,
    CopyImpossible,
    Effect,
    Event,
    Ground,
    Mismatched,
    Passed,
    PeerCaught,
    PeerKnown,
    PeerLeft,
    Policy,
    ResultsArrived,
    Void,
)
from peerinfer.verification_rulings import Rulings
from peerinfer.verification_sealing import Sealing
from peerinfer.verification_state import Answered, Provisional, Supporter, Window

MAJORITY = 2
"""So many trusted peers on the right side prove the others wrong, where no own device can."""


class Verification:
    """The machine, over the results of one job."""

    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self.policy = policy
        self.deadline_s = NEVER
        self.is_concluded = False
        self.audited = 0
        """Results that this node's own device has computed again."""
        self.audits_failed = 0
        self._rng = rng
        self._book = Provisional()
        self._caught: dict[PeerId, str] = {}
        self._effects: list[Effect] = []
        self._checks = Checks(policy, rng, self._book, self._effects)
        self._rulings = Rulings(policy, self._book, self._effects)
        self._sealing = Sealing(
            policy, rng, self._book, checks=self._checks, rulings=self._rulings, caught=self._caught
        )

    # --- the door --------------------------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        self._checks.now_s = now_s
        match event:
            case ResultsArrived(name, tasks):
                self._arrived(name, tasks)
            case CopyArrived(task, name, agrees_with):
                self._copy_arrived(task, name, agrees_with)
            case AuditDone():
                self._audited(event)
            case PeerKnown():
                self._know(event)
            case PeerLeft(name):
                if name in self._book.peers:
                    self._book.trust_changed(self._book.peers[name], is_here=False)
                    self._book.drop_if_gone(self._book.peers[name])
            case PeerCaught(name, reason):
                if name not in self._caught:
                    self._expel(name, reason)
            case CopyImpossible(task):
                self._copy_impossible(task)
            case Concluded():
                self.is_concluded = True
            case Tick():
                pass
        if any(isinstance(effect, Void) for effect in self._effects):
            self.is_concluded = False  # Its tasks will be answered once more.
        if self.is_concluded:
            self._sealing.conclude()
        self._checks.go_on()
        effects = list(self._effects)
        self._effects.clear()
        return effects

    @property
    def provisional(self) -> int:
        """How many results are neither final nor void."""
        return len(self._book)

    @property
    def doubt(self) -> float | None:
        """Expected share of wrong ones among the results that became final here; None if none did."""
        return self._rulings.doubt

    @property
    def finals(self) -> dict[Ground, int]:
        """How many results became final on which ground."""
        return dict(self._rulings.finals)

    def is_trusted(self, name: PeerId) -> bool:
        peer = self._book.peers.get(name)
        return peer is not None and (peer.is_trusted or peer.is_own)

    def caught(self, name: PeerId) -> str | None:
        """By what a peer was caught, or None."""
        return self._caught.get(name)

    # --- peers -----------------------------------------------------------------------------------------------------

    def _know(self, event: PeerKnown) -> None:
        if event.peer in self._caught:
            return
        known = self._book.peers.get(event.peer)
        if known is None:
            known = Supporter(event.peer, event.groups, 0.0, event.probation, event.is_own, is_here=False)
            self._book.peers[event.peer] = known
        self._book.trust_changed(known, is_here=False)
        known.groups, known.probation = event.groups, event.probation
        self._book.trust_changed(known, is_here=True, audits=max(event.audits, known.audits))

    def _known(self, name: PeerId) -> Supporter:
        if name not in self._book.peers:
            self._know(PeerKnown(name))
        return self._book.peers[name]

    def _pass(self, name: PeerId, window: Window | None) -> None:
        if window is not None:
            window.passed += 1
        peer = self._book.peers.get(name)
        if peer is not None and not peer.is_own:
            self._book.trust_changed(peer, audits=peer.audits + 1)
            self._effects.append(Passed(name))

    # --- first answers ---------------------------------------------------------------------------------------------

    def _arrived(self, name: PeerId, tasks: Sequence[int]) -> None:
        if name in self._caught or not tasks:
            return
        peer, policy = self._known(name), self.policy
        if peer.is_own:
            self._rulings.final(tasks, name, 0.0, "own")
        elif policy.kind == "none":
            self._rulings.final(tasks, name, 1.0, "unchecked")
        else:
            self._book.answer_all(tasks, peer)
            if policy.kind == "quorum":
                for key in tasks:
                    self._begin_quorum(key)
            elif policy.kind == "adaptive" and not peer.is_trusted:
                for key in tasks:
                    self._checks.draw(key, name, by_partner=True)
            else:
                for key in self._checks.chosen(peer, tasks):
                    self._checks.draw(key, name)
            self._sealing.seal(peer)

    # --- further answers -------------------------------------------------------------------------------------------

    def _copy_arrived(self, key: int, name: PeerId, agrees_with: tuple[PeerId, ...]) -> None:
        task = self._book.find(key)
        if task is None or name in self._caught or name in task.peers:
            return
        peer = self._known(name)
        if peer.is_own:
            right = [other for other in task.peers if other in agrees_with]
            self._judge(key, task, right, [other for other in task.peers if other not in right], own=name)
            return
        side = next((side for side in task.sides if any(other in agrees_with for other in side)), None)
        if side is None:
            task.sides.append([name])
        else:
            side.append(name)
        self._book.answer(key, task, peer)
        self._book.waits(task, copies=max(task.copies_wanted - 1, 0))
        if self.policy.kind == "quorum":
            self._try_quorum(key, task)
        elif len(task.sides) > 1:
            self._dispute(key, task)
        elif not task.is_waiting and task.subject is not None:
            self._agreed(key, task, peer)
        self._sealing.seal_of(task)

    def _agreed(self, key: int, task: Answered, partner: Supporter) -> None:
        """The partner gave the same. Only a trusted one's word is worth a passed check."""
        subject, task.subject = task.subject, None
        assert subject is not None
        window = task.windows.get(subject)
        if partner.is_trusted:
            self._pass(subject, window)
        elif window is not None:
            window.passed += 1
        # A pair that agrees may be a pair of cheats: it is audited like everybody's work.
        if self._checks.can_audit(task) and self._rng.random() < self.policy.audit_share:
            self._checks.want_audit(key, task)

    def _dispute(self, key: int, task: Answered) -> None:
        if self._checks.can_audit(task):
            self._checks.want_audit(key, task)
            return
        votes = [sum(self._book.peers[peer].is_trusted for peer in side) for side in task.sides]
        ranked = sorted(range(len(votes)), key=lambda position: -votes[position])
        best, second = votes[ranked[0]], votes[ranked[1]]
        if best >= MAJORITY and best > second:
            right = task.sides[ranked[0]]
            self._judge(key, task, right, [peer for peer in task.peers if peer not in right])
        elif task.is_waiting:
            return
        elif len(task.peers) >= ANSWERS_MAX or task.no_copy:
            self._rulings.unverified([key], f"{len(task.peers)} peers gave different answers, and nobody could decide")
        else:
            self._checks.want_copy(key, task, trusted=self._checks.partners(task) > 0)

    # --- quorum ----------------------------------------------------------------------------------------------------

    def _begin_quorum(self, key: int) -> None:
        task = self._book.find(key)
        assert task is not None
        for _ in range(self.policy.copies - 1):
            self._checks.want_copy(key, task, trusted=False)
        if self.policy.copies == 1:
            self._try_quorum(key, task)

    def _try_quorum(self, key: int, task: Answered) -> None:
        votes, side = max(((self._distinct(side), side) for side in task.sides), key=lambda entry: entry[0])
        if len(task.sides) > 1 and self._checks.can_audit(task):
            self._checks.want_audit(key, task)
        elif votes >= self.policy.copies:
            error = self._rulings.credibility(side)
            proven = sum(self._book.peers[peer].is_trusted for peer in side) >= MAJORITY
            losers = [peer for peer in task.peers if peer not in side]
            first = task.first
            self._book.forget(key)
            self._rulings.final([key], side[0], error, "quorum", first=first)
            for peer in losers if proven else []:
                self._catch(peer, key, f"task {key}: {len(side)} others agreed on another result")
        elif task.is_waiting:
            return
        elif len(task.peers) >= ANSWERS_MAX or task.no_copy:
            self._rulings.unverified(
                [key], f"{len(task.peers)} answers, and no {self.policy.copies} distinct peers agree"
            )
        else:
            self._checks.want_copy(key, task, trusted=False)

    def _distinct(self, side: list[PeerId]) -> int:
        """How many of these peers share no public subnet with one before."""
        seen: dict[str, None] = {}
        count = 0
        for peer in side:
            groups = self._book.peers[peer].groups
            if not any(group in seen for group in groups):
                count += 1
            seen.update(dict.fromkeys(groups))
        return count

    def _copy_impossible(self, key: int) -> None:
        task = self._book.tasks.get(key)
        if task is None or not task.copies_wanted:
            return
        self._book.waits(task, copies=0)
        task.no_copy = True
        if self._checks.can_audit(task):
            self._checks.want_audit(key, task)
        elif self.policy.kind == "quorum":
            self._try_quorum(key, task)
        elif len(task.sides) > 1:
            self._dispute(key, task)
        else:
            self._checks.no_check(key, task)
            self._sealing.seal_of(task)

    # --- audits ----------------------------------------------------------------------------------------------------

    def _audited(self, event: AuditDone) -> None:
        key, right = event.task, event.right
        task = self._book.tasks.get(key)
        self._checks.audited(is_known=right is not None)
        if task is None or not task.audit_wanted:
            return
        if right is not None:
            wrong = event.wrong if event.wrong is not None else tuple(peer for peer in task.peers if peer not in right)
            good, bad = ([peer for peer in task.peers if peer in side] for side in (right, wrong))
            if good or bad:  # else it was about answers that are void since
                self.audited += 1
                self.audits_failed += bool(bad)
                self._book.waits(task, audit=False)
                coarse = [peer for peer in bad if peer in event.imprecise]
                self._judge(key, task, good, bad, detail=event.detail, coarse=coarse)
            return
        self._book.waits(task, audit=False)
        task.no_audit = True
        if self.policy.kind == "quorum":
            self._try_quorum(key, task)
        elif len(task.sides) > 1:
            self._dispute(key, task)
        elif task.subject is not None and self._checks.partners(task) > 0:
            self._checks.want_copy(key, task, trusted=True)
        elif task.subject is not None:
            self._checks.no_check(key, task)
        self._sealing.seal_of(task)

    def _judge(
        self,
        key: int,
        task: Answered,
        right: Sequence[PeerId],
        wrong: Sequence[PeerId],
        *,
        own: PeerId | None = None,
        detail: str = "",
        coarse: Sequence[PeerId] = (),
    ) -> None:
        """The truth is known. `own`: this node has a result of its own. Who is on neither side came too late for it."""
        known = [self._book.peers[peer] for peer in task.peers]
        windows = dict(task.windows)
        self._book.forget(key)
        for peer in right:
            self._pass(peer, windows.get(peer))
        if right:
            self._rulings.final([key], right[0], 0.0, "audit", first=task.first)
        elif own is not None:
            self._rulings.final([key], own, 0.0, "own", first=task.first)
        else:
            self._rulings.tell_void(task.first, (key,), "a check found it wrong")
        for peer in coarse:
            self._effects.append(Mismatched(peer, detail))
            self._expel(peer, detail)
        for peer in wrong:
            self._catch(peer, key, detail or f"task {key}: a check found another result")
        for row in known:
            self._sealing.seal(row)

    def _catch(self, name: PeerId, by: int, detail: str) -> None:
        if name not in self._caught:
            self._effects.append(Caught(name, by, detail))
            self._expel(name, detail)

    def _expel(self, name: PeerId, detail: str) -> None:
        """Nothing of the peer that is not final counts any more."""
        self._caught[name] = detail
        if name not in self._book.peers:
            return
        alone, others = self._book.withdraw(name)
        reason = "another result of the same peer was found wrong"
        if alone:
            self._rulings.tell_void(name, tuple(alone), reason)
        void: list[int] = []
        for key in others:
            found = self._book.tasks.get(key)
            if found is None:  # judged meanwhile, on account of another one
                continue
            trusted = any(self._book.peers[other].is_trusted for other in found.peers)
            if trusted or (found.peers and self.policy.kind == "quorum"):
                self._lost_a_supporter(key, found, name)
            else:
                void.append(key)
        self._rulings.void([key for key in void if key in self._book.tasks], reason)

    def _lost_a_supporter(self, key: int, task: Answered, name: PeerId) -> None:
        """The task is still vouched for by somebody else."""
        if task.subject == name:
            task.subject = None
        if self.policy.kind == "quorum":
            self._try_quorum(key, task)
        elif len(task.sides) > 1 and not task.is_waiting:
            self._dispute(key, task)

    # --- pictures --------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, int]:
        """How many results are provisional, and how many became final on which ground."""
        return {"provisional": len(self._book)} | {str(ground): n for ground, n in self._rulings.finals.items()}

    def check(self) -> None:
        self._book.check()
        assert not any(name in self._caught for name in self._book.peers), "a caught peer still has results"
        for key, task in self._book.tasks.items():
            assert len(task.sides) == 1 or task.is_waiting, f"{key} is disputed and nobody looks at it"
