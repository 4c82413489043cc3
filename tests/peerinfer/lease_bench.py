"""Candidates and electors around a table: their messages pass by hand, and some of them can be made to lie."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from lease_setting import PEERS, Setting, keys

from peerinfer.candidacy import Candidacy
from peerinfer.candidacy_events import Ask, Campaign, Heard, LeaseSeen, Write
from peerinfer.elector import Elector
from peerinfer.elector_events import Answer, Asked
from peerinfer.journal import Chain
from peerinfer.lease_messages import (
    Granted,
)
from peerinfer.lease_profile import LAN, LeaseProfile
from peerinfer.machine import NEVER, Tick
from peerinfer.register import Entry

SUBMITTER = 7
ROUND_TRIP_S = 0.01
FOREVER = (NEVER, -1, -1, None)

Lie = Callable[[Any, Any], Any]
"""What an elector answers: of the request and the honest answer. None is silence."""


class Bench:
    """Candidates and honest electors with a perfect network of 10 ms there and back, which can be cut or lied on."""

    def __init__(self, setting: Setting, profile: LeaseProfile = LAN) -> None:
        self.setting = setting
        self.profile = profile
        self.now_s = 100.0
        self.electors = {number: Elector(PEERS[number], keys(number).sign) for number in range(setting.electors)}
        self.candidates: dict[int, Candidacy] = {}
        self.said: dict[int, list[Any]] = {}
        self.asked: list[tuple[float, int, int, Any]] = []
        """Every request: when, whose, of which elector."""
        self.deaf: set[tuple[int, int]] = set()
        """Pairs of candidate and elector between which nothing arrives."""
        self.lies: dict[int, Lie] = {}
        self._waiting: list[tuple[float, int, int, Any]] = []
        self._numbers = 0

    def stand(self, number: int, chain: Chain | None = None) -> Candidacy:
        self.candidates[number] = Candidacy(
            PEERS[number],
            keys(number).sign,
            self.setting.job,
            self.setting.manifest,
            self.setting.signed,
            chain or Chain(),
            profile=self.profile,
            rng=random.Random(number),
        )
        self.said[number] = []
        return self.candidates[number]

    def tell(self, number: int, event: Any) -> list[Any]:
        """Gives a candidate an event; what it asks is on its way, what it says is returned."""
        said = []
        for effect in self.candidates[number].handle(event, self.now_s):
            if isinstance(effect, Ask):
                self._ask(number, PEERS.index(effect.elector), effect.request)
            else:
                said.append(effect)
        self.said[number] += said
        return said

    def _ask(self, number: int, elector: int, request: Any) -> None:
        self.asked.append((self.now_s, number, elector, request))
        if (number, elector) in self.deaf:
            return
        (answer,) = [
            effect.message
            for effect in self.electors[elector].handle(Asked(PEERS[number], request, 0), self.now_s)
            if isinstance(effect, Answer)
        ]
        if elector in self.lies:
            answer = self.lies[elector](request, answer)
        if answer is not None:
            self._waiting.append((self.now_s + ROUND_TRIP_S, number, elector, answer))
        if isinstance(answer, Granted) and elector in self.candidates and elector != number:
            self.tell(elector, LeaseSeen(PEERS[number], self.now_s + request.lease_s, request.term))

    def run(self, for_s: float) -> None:
        """Lets time pass: answers arrive, and machines are woken when they want to be."""
        ends_s = self.now_s + for_s
        for _ in range(100_000):
            due = [(candidate.deadline_s, number, -1, Tick()) for number, candidate in self.candidates.items()]
            self._waiting = [one for one in self._waiting if one[1] in self.candidates]
            at_s, number, elector, what = min([*self._waiting, *due, FOREVER], key=lambda one: one[0])
            if at_s > ends_s:
                break
            self.now_s = max(self.now_s, at_s)
            if elector >= 0:
                self._waiting.remove((at_s, number, elector, what))
                if (number, elector) not in self.deaf:
                    self.tell(number, Heard(PEERS[elector], what))
            else:
                self.tell(number, what)
        else:
            raise AssertionError("the machines never come to rest")
        self.now_s = ends_s

    def requests(self, number: int, kind: type = object) -> list[Any]:
        return [request for _, asker, _, request in self.asked if asker == number and isinstance(request, kind)]

    def elected(self, number: int) -> Candidacy:
        candidate = self.candidates.get(number) or self.stand(number)
        self.tell(number, Campaign())
        self.run(0.3)
        assert candidate.holds(self.now_s), candidate.snapshot()
        return candidate

    def check(self) -> None:
        for machine in (*self.candidates.values(), *self.electors.values()):
            machine.check()


def entries(*tasks: int) -> tuple[Entry, ...]:
    return tuple(Entry(task, bytes([task % 256]) * 16, "worker") for task in tasks)


def write(bench: Bench, number: int, *tasks: int, event: str = "") -> None:
    bench.tell(number, Write(entries(*tasks), event, is_last=True))
    bench.run(0.1)
