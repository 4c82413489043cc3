"""Honest workers and saboteurs in front of the node's verification, reputation and admission.

Every step gives one task to one worker, drawn evenly among those that are here. Saboteurs collude: they give the same wrong
answer, so that two of them agree. Whoever is caught may come back at once under a new name.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from peerinfer.ids import PeerId
from peerinfer.reputation import DAY_S, NEWCOMER_AUDITS
from peerinfer.verification import Verification
from peerinfer.verification_events import (
    AuditDone,
    Caught,
    CopyArrived,
    CopyImpossible,
    Effect,
    Finalise,
    Passed,
    PeerKnown,
    Policy,
    ResultsArrived,
    Unverified,
    Void,
    WantAudit,
    WantCopy,
)
from peerinfer.whitewashing import Whitewashing

_PARTNER_TRIES = 24
NEWCOMERS_SHARE_MAX = 0.10
"""Of the tasks, the most that newcomers get here while others could do them; the coordinator has no such bound."""

DAYS = 10.0
"""A run takes so long by the clock of the admission."""


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    rate: float
    """Share of its results that a saboteur corrupts."""
    sleeps_until: float = 0.0
    """Passed audits before it begins."""
    saboteurs: float = 0.10
    returns: bool = True
    """Caught ones come back at once under a new name."""
    limited: bool = True
    """New names pay their dues: so many from one subnet in a day, and a bounded part of the work."""
    copies: bool = False
    """As a checker it computes nothing: it gives what the other gave, whoever that was."""


@dataclass(slots=True)
class Tally:
    tasks: int = 0
    executions: int = 0
    final: int = 0
    final_wrong: int = 0
    wrong_given: int = 0
    """Wrong answers given, by all saboteurs."""
    computed_by_saboteurs: int = 0
    caught: int = 0
    honest_caught: int = 0
    tasks_until_caught: list[int] = field(default_factory=list)

    @property
    def error(self) -> float:
        return self.final_wrong / max(self.final, 1)

    @property
    def cost(self) -> float:
        """Executions for each task."""
        return self.executions / max(self.tasks, 1)


@dataclass(slots=True)
class _Actor:
    peer: PeerId
    saboteur: bool
    lies_as_auditor: bool
    subnet: str
    computed: int = 0
    audits: float = 0.0

    @property
    def is_newcomer(self) -> bool:
        return self.audits < NEWCOMER_AUDITS


class Arena:
    def __init__(self, policy: Policy, attack: Attack, seed: int, *, workers: int, auditor_liars: float = 0.0) -> None:
        self.tally = Tally()
        self.attack = attack
        self._whitewashing = Whitewashing()
        self._outside: list[_Actor] = []
        self._now_s = 0.0
        self.machine = Verification(policy, random.Random(f"{seed}:machine:{attack.name}"))
        self._rng = random.Random(f"{seed}:world:{attack.name}")
        self._names = 0
        self._auditor_liars = auditor_liars
        self._answers: dict[int, dict[PeerId, bool]] = {}
        self._redo: list[int] = []
        self._effects: list[Effect] = []
        self._by_name: dict[PeerId, _Actor] = {}
        self._newcomer_tasks = 0
        self.actors: list[_Actor] = []
        for number in range(workers):
            self._enter(number < attack.saboteurs * workers, lies=number >= (1 - auditor_liars) * workers)

    def _enter(self, saboteur: bool, *, lies: bool = False, subnet: str = "") -> None:
        self._names += 1
        name = PeerId(f"peer-{self._names}")
        actor = _Actor(name, saboteur, lies, subnet or f"subnet-{self._names}")
        self._by_name[name] = actor
        self.actors.append(actor)
        self.machine.handle(PeerKnown(name, (actor.subnet,)), 0.0)

    def run(self, tasks: int) -> Tally:
        number = 0
        while number < tasks or self._redo:
            if self._redo:
                key = self._redo.pop()
            else:
                key = number
                number += 1
                self.tally.tasks += 1
                if number % 1000 == 0:
                    self._now_s = DAYS * DAY_S * number / tasks
                    self._come_back()
            self._compute(key, self._worker())
        self.machine.check()
        return self.tally

    def _worker(self) -> _Actor:
        """Drawn evenly; a newcomer only while newcomers have less than their share, where there are others."""
        for _ in range(_PARTNER_TRIES):
            actor = self._rng.choice(self.actors)
            if not self.attack.limited or not actor.is_newcomer:
                return actor
            if self._newcomer_tasks < NEWCOMERS_SHARE_MAX * max(self.tally.tasks, 20):
                self._newcomer_tasks += 1
                return actor
        return actor

    def _compute(self, key: int, actor: _Actor, *, as_copy: bool = False) -> None:
        self.tally.executions += 1
        actor.computed += 1
        is_right = True
        if actor.saboteur:
            self.tally.computed_by_saboteurs += 1
            is_right = actor.audits < self.attack.sleeps_until or self._rng.random() >= self.attack.rate
            if self.attack.copies and as_copy:
                is_right = next(iter(self._answers[key].values()))
            self.tally.wrong_given += not is_right
        elif actor.lies_as_auditor and as_copy:
            is_right = False
        before = self._answers.setdefault(key, {})
        agrees = tuple(peer for peer, right in before.items() if right == is_right)
        before[actor.peer] = is_right
        event = CopyArrived(key, actor.peer, agrees) if as_copy else ResultsArrived(actor.peer, (key,))
        self._perform(self.machine.handle(event, 0.0))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case WantCopy():
                    self._copy(effect)
                case WantAudit(key, _):
                    self.tally.executions += 1
                    right = tuple(peer for peer, is_right in self._answers[key].items() if is_right)
                    self._perform(self.machine.handle(AuditDone(key, right), 0.0))
                case Finalise(peer, keys, _, _, _):
                    self.tally.final += len(keys)
                    for key in keys:
                        self.tally.final_wrong += not self._answers.pop(key)[peer]
                case Void(_, keys, _) | Unverified(_, keys, _):
                    self._redo += keys
                    for key in keys:
                        del self._answers[key]
                case Passed(peer):
                    self._by_name[peer].audits += 1
                case Caught(peer, _, _):
                    self._caught(peer)

    def _copy(self, effect: WantCopy) -> None:
        for _ in range(_PARTNER_TRIES):
            actor = self._rng.choice(self.actors)
            if actor.peer not in effect.exclude and not (effect.trusted and actor.is_newcomer):
                self._compute(effect.task, actor, as_copy=True)
                return
        self._perform(self.machine.handle(CopyImpossible(effect.task), 0.0))

    def _caught(self, peer: PeerId) -> None:
        actor = self._by_name.pop(peer)
        self.tally.caught += 1
        self.tally.honest_caught += not actor.saboteur and not actor.lies_as_auditor
        self.tally.tasks_until_caught.append(actor.computed)
        self.actors.remove(actor)
        if self.attack.returns:
            self._whitewashing.caught((actor.subnet,), self._now_s)
            self._outside.append(actor)
            self._come_back()

    def _come_back(self) -> None:
        """Whoever was caught tries again with a new name, from the same subnet."""
        outside, self._outside = self._outside, []
        for actor in outside:
            name = PeerId(f"peer-{self._names + 1}")
            if not self.attack.limited or self._whitewashing.admits(name, (actor.subnet,), self._now_s):
                self._enter(actor.saboteur, subnet=actor.subnet)
            else:
                self._outside.append(actor)
