"""Each guard of the protocol, broken on purpose. Whatever the checks do not notice here, they would not notice anywhere.

A mutant lives in this table alone: it replaces a method of a machine for as long as its context lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any
from unittest.mock import patch

from peerinfer import committees, lease_certificate
from peerinfer.candidacy_events import Over, Phase
from peerinfer.committees import Seated
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, PersistSeat
from peerinfer.envelope import unseal
from peerinfer.journal import Chain
from peerinfer.lease_messages import (
    Grant,
    Granted,
    SealWanted,
)
from peerinfer.lease_profile import LeaseProfile
from peerinfer.messages import Term
from peerinfer.recovery import Recovery
from peerinfer.register import Register
from peerinfer.replication import Replication
from peerinfer.sealing import Sealing
from peerinfer.seat import Seat
from peerinfer.tenure import Tenure
from peerinfer_sim.lease.node import Node

Patches = list[tuple[Any, str, Any]]


def _restart_forgets_its_wait() -> Patches:
    restored = Seat.restored

    def mutant(*arguments: Any) -> Seat:
        seat = restored(*arguments)
        seat.deadline_s = 0.0
        return seat

    return [(Seat, "restored", mutant)]


def _holder_counts_from_receipt() -> Patches:
    granted = Tenure.granted

    def mutant(self: Tenure, peer: Any, message: Granted, why: str, now_s: float) -> None:
        asked = self._renewals.get(message.nonce)
        if asked is not None:
            asked.sent_s = now_s
        granted(self, peer, message, why, now_s)

    return [(Tenure, "granted", mutant)]


def _no_drift_margin() -> Patches:
    return [(LeaseProfile, "held_s", property(lambda self: self.lease_s))]


def _a_higher_term_pre_empts() -> Patches:
    return [(Seat, "_is_held_by_other", lambda self, peer, now_s: False)]


def _a_bare_majority_is_enough() -> Patches:
    def majority(electors: int, byzantine: int) -> int:
        return electors // 2 + 1

    return [(module, "quorum", majority) for module in (committees, lease_certificate)]


def _the_journal_is_not_read() -> Patches:
    return [(Recovery, "is_complete", property(lambda self: self.has_quorum))]


def _a_stale_term_is_accepted() -> Patches:
    append = Seat._append

    def mutant(self: Seat, asked: Any, token: int) -> None:
        promised, granted = self.promised, self.granted
        self.promised = self.granted = asked.term
        append(self, asked, token)
        self.promised, self.granted = promised, granted

    return [(Seat, "_append", mutant)]


def _replies_before_it_writes() -> Patches:
    handle = Elector.handle

    def mutant(self: Elector, event: Any, now_s: float) -> Any:
        return sorted(handle(self, event, now_s), key=lambda effect: not isinstance(effect, Answer))

    return [(Elector, "handle", mutant)]


def _a_grant_is_not_written() -> Patches:
    handle = Elector.handle

    def mutant(self: Elector, event: Any, now_s: float) -> Any:
        effects = handle(self, event, now_s)
        if any(isinstance(effect, Answer) and isinstance(effect.message, Granted) for effect in effects):
            return [effect for effect in effects if not isinstance(effect, PersistSeat)]
        return effects

    return [(Elector, "handle", mutant)]


def _any_grant_counts_for_the_newest_request() -> Patches:
    def mutant(self: Tenure, peer: Any, message: Granted, why: str, now_s: float) -> None:
        _, grant = unseal(Grant, message.grant)
        if self.phase is Phase.OVER or peer in self.asked.grants or grant.term != self._term:
            return
        self.asked.grants[peer] = message.grant
        self._replication.granted(peer)
        if len(self.asked.grants) >= self._quorum:
            self._extend(self.asked, why, now_s)
        if self.phase is not Phase.LEASING:
            self._send_batches()

    return [(Tenure, "granted", mutant)]


def _suspend_is_not_counted() -> Patches:
    def mutant(self: Node, now_s: float) -> float:
        return 1000.0 + self._rate * (now_s - self._suspended_s)

    def true_s(self: Node, holder_s: float) -> float:
        return (holder_s - 1000.0) / self._rate + self._suspended_s

    return [(Node, "holder_s", mutant), (Node, "true_s", true_s)]


def _older_terms_are_counted() -> Patches:
    def mutant(self: Replication) -> bool:
        reached = sorted((copy.matched for copy in self._copies.values()), reverse=True)[self._quorum - 1]
        grew = reached > self.committed
        self.committed = max(self.committed, reached)
        return grew

    return [(Replication, "_commit", mutant)]


def _an_uncommitted_end_is_believed() -> Patches:
    begin = Tenure.begin

    def mutant(self: Tenure, now_s: float) -> None:
        begin(self, now_s)
        if self._chain.ended:
            self.effects.append(Over())

    return [(Tenure, "begin", mutant)]


def _the_change_names_the_holder() -> Patches:
    start_of = committees.start_of

    def mutant(change: Any, statements: Any) -> Any:
        granted, lease_s = start_of(change, statements)
        return Term(granted.round, change.term.candidate), lease_s

    return [(committees, "start_of", mutant)]


def _new_electors_start_free() -> Patches:
    start_of = committees.start_of

    def mutant(change: Any, statements: Any) -> Any:
        granted, _ = start_of(change, statements)
        return Term(granted.round, ""), 0.0

    begin = Seat.begin_epoch

    def forgetful(self: Seat, *arguments: Any) -> None:
        self.deadline_s = 0.0
        begin(self, *arguments)

    return [(committees, "start_of", mutant), (Seat, "begin_epoch", forgetful)]


def _a_change_needs_no_seals() -> Patches:
    record, follow = Sealing.record, committees.follow

    def mutant(job: Any, before: Seated, signed: bytes) -> Any:
        return follow(job, _Unsealed(before.epoch, before.electors, before.byzantine), signed)

    def first(self: Sealing) -> bytes:
        self._seated = _Unsealed(self._seated.epoch, self._seated.electors, self._seated.byzantine)
        found: bytes = record.fget(self)  # type: ignore[attr-defined]
        return found

    return [(committees, "follow", mutant), (Sealing, "record", property(first))]


class _Unsealed(Seated):
    """A committee of which one elector is enough."""

    @property
    def quorum(self) -> int:
        return 1


def _a_sealed_elector_goes_on() -> Patches:
    asked = Seat.asked

    def mutant(self: Seat, peer: Any, request: Any, token: int, now_s: float) -> None:
        if not self.sealed or isinstance(request, SealWanted):
            asked(self, peer, request, token, now_s)
            return
        self.sealed = False
        asked(self, peer, request, token, now_s)
        self.sealed = True

    return [(Seat, "asked", mutant)]


def _an_old_generation_goes_on() -> Patches:
    """The elector takes its seat in the new one, and serves those who do not know it as if nothing had happened."""
    begin, asked = Seat.begin_epoch, Seat.asked

    def mutant(self: Seat, changes: Any, known: Any, start: Any, now_s: float) -> None:
        if known[0].generation > self.seated.generation:
            kept = self._earlier = copy(self)  # type: ignore[attr-defined]
            kept.chain, kept.effects = self.chain.copy(), []
        begin(self, changes, known, start, now_s)

    def answer(self: Seat, peer: Any, request: Any, token: int, now_s: float) -> None:
        old: Seat | None = getattr(self, "_earlier", None)
        if old is None or getattr(request, "epoch", self.epoch) > old.epoch:
            asked(self, peer, request, token, now_s)
            return
        asked(old, peer, request, token, now_s)
        self.effects += [effect for effect in old.effects if isinstance(effect, Answer)]
        old.effects = []

    return [(Seat, "begin_epoch", mutant), (Seat, "asked", answer)]


def _terms_begin_anew_with_a_generation() -> Patches:
    return [(committees, "lowest_term", lambda generation: Term(0, ""))]


def _a_checkpoint_comes_before_the_commit() -> Patches:
    def mutant(self: Tenure) -> None:
        self._chain.compact(self.committed)
        if self._chain.is_long and not self._chain.change:
            self._writer.checkpoint(self._term)

    flush = Tenure._flush

    def flushed(self: Tenure, event: str = "", detail: str = "") -> None:
        flush(self, event, detail)
        if self.phase is Phase.HOLDING and not self._chain.ended:
            self._checkpoint()
            self._send_batches()

    return [(Tenure, "_checkpoint", mutant), (Tenure, "_flush", flushed)]


def _a_snapshot_loses_its_register() -> Patches:
    begin = Chain._begin_with

    def mutant(self: Chain, state: Any, register: Any, checkpoint: bytes) -> None:
        begin(self, state, Register(), checkpoint)

    return [(Chain, "_begin_with", mutant)]


MUTANTS: dict[str, Callable[[], Patches]] = {
    "restart-forgets-its-wait": _restart_forgets_its_wait,
    "holder-counts-from-receipt": _holder_counts_from_receipt,
    "no-drift-margin": _no_drift_margin,
    "pre-emption": _a_higher_term_pre_empts,
    "bare-majority": _a_bare_majority_is_enough,
    "journal-not-read": _the_journal_is_not_read,
    "stale-term-accepted": _a_stale_term_is_accepted,
    "replies-before-it-writes": _replies_before_it_writes,
    "grant-not-written": _a_grant_is_not_written,
    "nonce-not-matched": _any_grant_counts_for_the_newest_request,
    "suspend-not-counted": _suspend_is_not_counted,
    "older-terms-counted": _older_terms_are_counted,
    "uncommitted-end-believed": _an_uncommitted_end_is_believed,
    "change-names-the-holder": _the_change_names_the_holder,
    "new-electors-start-free": _new_electors_start_free,
    "change-without-seals": _a_change_needs_no_seals,
    "sealed-elector-goes-on": _a_sealed_elector_goes_on,
    "old-generation-goes-on": _an_old_generation_goes_on,
    "terms-begin-anew": _terms_begin_anew_with_a_generation,
    "checkpoint-before-commit": _a_checkpoint_comes_before_the_commit,
    "register-lost": _a_snapshot_loses_its_register,
}


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The machines with one guard less."""
    with ExitStack() as stack:
        for owner, attribute, replacement in MUTANTS[name]():
            stack.enter_context(patch.object(owner, attribute, replacement))
        yield
