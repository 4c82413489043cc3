"""One run: nodes with an elector and a candidate each, a network and disks that fail, and true time, on a heap.

Nothing here decides anything. A node's elector performs its effects one after the other, each write takes its time, and
a crash takes what was not written; a candidate remembers nothing. A clock runs at its own rate; the elector's stands
still while its node is suspended, the holder's does not.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from peerinfer.candidacy import Candidacy
from peerinfer.candidacy_events import (
    Ask,
    Campaign,
    Committed,
    CommitteeChanged,
    Heard,
    LeaseSeen,
    Lost,
    Over,
    Phase,
    Unheard,
    Won,
    Write,
)
from peerinfer.codec import decode, encode
from peerinfer.committees import committees_of
from peerinfer.elector import Elector
from peerinfer.elector_events import Asked, Restored
from peerinfer.envelope import seal
from peerinfer.ids import PeerId
from peerinfer.journal import Chain
from peerinfer.lease_messages import (
    SealWanted,
)
from peerinfer.machine import Tick
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest, Term
from peerinfer.register import Entry
from peerinfer_sim.event_log import brief
from peerinfer_sim.lease.checks import Checks, generation_of
from peerinfer_sim.lease.electors import Electors
from peerinfer_sim.lease.harm import Harm
from peerinfer_sim.lease.liars import Liar
from peerinfer_sim.lease.links import Links
from peerinfer_sim.lease.node import Node
from peerinfer_sim.lease.owner import Owner
from peerinfer_sim.lease.scenario import Scenario
from peerinfer_sim.watch import Violation

WRITE_EVERY_S = 0.55
ENDS_WITHIN_LEASES = 8.0
ENDS_WITHIN_MORE_S = 16.0
"""After the faults have ended: a boot wait, the longest wait of a candidate, and room for both to come again."""

EVENTS_MAX = 20_000
"""A run takes seven hundred; a long one, with a committee of seven, three thousand."""

CAMPAIGNS_AT_SEAL = 3
QUIET_S = 0.5
"""So long a run goes on after the job has ended."""

Identity = Callable[[int], "tuple[PeerId, Callable[[bytes], bytes]]"]


def _through_bytes(message: Any) -> Any:
    return decode(encode(message))


def _as_it_is(message: Any) -> Any:
    return message


class World:
    """Plays one scenario. `run` may be called once."""

    def __init__(
        self, scenario: Scenario, identity: Identity, *, trace: list[str] | None = None, wire: bool = False
    ) -> None:
        """`trace` gets a line per event; with `wire` every message goes through its bytes."""
        self.scenario = scenario
        self._trace = trace
        self.wire: Callable[[Any], Any] = _through_bytes if wire else _as_it_is
        self.links = Links(scenario.latency_s, random.Random(f"{scenario.seed}:net"))
        self._work = random.Random(f"{scenario.seed}:work")
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = 0
        self.ends_s = math.inf
        self.healed = False
        self._at_seals = list(scenario.at_seals)
        self._sealers: dict[tuple[int, int, Term], None] = {}
        self.nodes = [
            Node(number, *identity(number), scenario.rates[number], scenario.slow_holders[number])
            for number in range(scenario.nodes)
        ]
        self.numbers_of = {node.peer: node.number for node in self.nodes}
        submitter = self.nodes[scenario.submitter]
        manifest = Manifest(
            submitter=submitter.peer,
            created_at_s=0.0,
            nonce=scenario.seed.to_bytes(16, "big"),
            model="",
            model_sha256=bytes(32),
            inputs=(),
            outputs=(),
            given=(),
            items=scenario.tasks,
            tasks=scenario.tasks,
            items_per_task=1,
            inputs_digest=bytes(32),
            verify="none",
            compare="exact",
            rtol=-1.0,
            atol=-1.0,
            committee=tuple(node.peer for node in self.nodes[: scenario.electors]),
            byzantine=scenario.byzantine,
            lease_s=scenario.profile.lease_s,
        )
        self._signed_manifest = seal(manifest, submitter.peer, submitter.sign)
        self._job, self._manifest = open_manifest(self._signed_manifest)
        self.owner = Owner(submitter, self._job, self._manifest, scenario.seed)
        self.harm = Harm(self)
        self.electors = Electors(self)
        self.checks = Checks(scenario.clocks_are_sound, self.numbers_of)
        self.checks.changed(submitter.number, 0, manifest.committee)

    def run(self) -> None:
        """Raises `Violation`, or AssertionError if a machine finds fault with itself."""
        scenario = self.scenario
        for node in self.nodes:
            self.start(node)
        for fault in scenario.faults:
            self.at(fault.at_s, self.harm.fault, fault)
        for number, at_s in scenario.dead.items():
            self.at(at_s, self.harm.crash, self.nodes[number], False)
        self.at(scenario.chaos_s, self.harm.heal)
        within_s, events = ENDS_WITHIN_LEASES * scenario.profile.lease_s + ENDS_WITHIN_MORE_S, 0
        ends_s = scenario.chaos_s + within_s
        while self._due and self._due[0][0] < min(self.ends_s, ends_s):
            self.now_s, _, action, arguments = heapq.heappop(self._due)
            events += 1
            if events > EVENTS_MAX:
                raise Violation(f"more than {EVENTS_MAX} events: somebody asks and asks", self._pictures())
            action(*arguments)
        if not self.checks.end_of(self.owner.generation):
            late = f"the job has not ended within {within_s:g} s after the last fault"
            raise Violation(late, self._pictures())
        for node in self.nodes:
            if node.candidate is not None:
                node.candidate.check()
            if node.elector is not None and node.number not in scenario.liars:
                node.elector.check()

    # --- time --------------------------------------------------------------------------------------------------------

    def at(self, time_s: float, action: Callable[..., None], *arguments: Any) -> None:
        self._numbers += 1
        heapq.heappush(self._due, (time_s, self._numbers, action, arguments))

    def note(self, node: Node, what: str, value: Any = None) -> None:
        if self._trace is not None:
            phase = f" ({node.candidate.phase.value})" if node.candidate is not None else ""
            text = f"{self.now_s:9.4f} node {node.number}{phase} {what}" + (
                f" {brief(value)}" if value is not None else ""
            )
            for peer, number in self.numbers_of.items():
                text = text.replace(peer, f"#{number}")
            self._trace.append(text)

    def within(self, node: Node, life: int, action: Callable[..., None], *arguments: Any) -> None:
        """Something happens to a node: now, when it goes on, or not at all."""
        if not node.is_up or node.life != life:
            return
        if self.now_s < node.stopped_until_s:
            node.stopped.append(partial(self.within, node, life, action, *arguments))
        else:
            action(node, *arguments)

    def start(self, node: Node) -> None:
        seed = f"{self.scenario.seed}:{node.number}:{node.life}"
        if node.number < self.scenario.electors or node.number in self.scenario.spares:
            kind = self.scenario.liars.get(node.number)
            if kind is None:
                node.elector = Elector(node.peer, node.sign)
            else:
                node.elector = Liar(node.peer, node.sign, kind, random.Random(f"{seed}:lies"))
            if node.row is not None:
                node.elector.handle(Restored(node.row, tuple(node.batches), node.snapshot), node.elector_s(self.now_s))
        if node.number == self.scenario.submitter:
            self.stand(node)
            self.tell(node, Campaign())
        elif node.row is not None:
            self.stand(node)

    def stand(self, node: Node) -> None:
        """The node becomes a candidate, and learns what its own elector knows of the lease."""
        if node.candidate is not None or node.number in self.scenario.liars:
            return
        node.candidate = Candidacy(
            node.peer,
            node.sign,
            self._job,
            self._manifest,
            self._signed_manifest,
            Chain(self._manifest.tasks),
            profile=self.scenario.profile,
            rng=random.Random(f"{self.scenario.seed}:{node.number}:{node.life}"),
            changes=self._known_changes(node),
            wall_s=lambda: self.now_s,
        )
        holder, until_s = "", self.scenario.profile.lease_s
        if node.elector is not None:
            for seat in node.elector.snapshot_at(node.elector_s(self.now_s)):
                holder, until_s = seat.holder, seat.remaining_s if seat.holder else self.scenario.profile.lease_s
        self.tell(node, LeaseSeen(holder, node.holder_s(self.now_s) + until_s))

    def _known_changes(self, node: Node) -> tuple[bytes, ...]:
        """What is on the node's disk."""
        sat = node.elector.changes(self._job) if node.elector is not None else ()
        owned = self.owner.changes if node is self.owner.node else ()
        return max(sat, owned, key=lambda changes: committees_of(self._job, self._manifest, changes)[0][-1].epoch)

    # --- candidates --------------------------------------------------------------------------------------------------

    def heard(self, node: Node, elector: PeerId, request: int, message: Any) -> None:
        node.open_requests.pop(request, None)
        self.tell(node, Heard(elector, message))

    def _sweep(self, node: Node) -> None:
        """Requests that were not answered in time are given up; their answer may come nevertheless."""
        node.sweep_is_due = False
        for request, (sent_s, elector) in list(node.open_requests.items()):
            if self.now_s >= sent_s + self.scenario.profile.answer_s:
                del node.open_requests[request]
                self.tell(node, Unheard(elector))
        self._sweep_later(node)

    def _sweep_later(self, node: Node) -> None:
        if node.open_requests and not node.sweep_is_due:
            node.sweep_is_due = True
            sent_s, _ = next(iter(node.open_requests.values()))
            self.at(max(sent_s + self.scenario.profile.answer_s, self.now_s), self.within, node, node.life, self._sweep)

    def tell(self, node: Node, event: Any) -> None:
        candidate = node.candidate
        if candidate is None:
            return
        self.note(node, "candidate hears", event)
        now_s = node.holder_s(self.now_s)
        effects = candidate.handle(event, now_s)
        if candidate.phase in (Phase.OPENING, Phase.HOLDING):
            self._look_at_leases()
        for effect in effects:
            if isinstance(effect, Ask):
                self._send(node, effect)
            else:
                self._happened(node, candidate, effect)
        wanted_s = candidate.deadline_s
        if wanted_s != math.inf:
            true_s = max(node.true_s(wanted_s) + 1e-6, self.now_s)
            if true_s < node.tick_s:
                node.tick_s = true_s
                self.at(true_s, self.within, node, node.life, self._tick, true_s)

    def _tick(self, node: Node, due_s: float) -> None:
        if node.tick_s != due_s or node.candidate is None:
            return
        node.tick_s = math.inf
        wanted_s = node.candidate.deadline_s
        if wanted_s <= node.holder_s(self.now_s):
            self.tell(node, Tick())
        elif wanted_s != math.inf:
            node.tick_s = max(node.true_s(wanted_s) + 1e-6, self.now_s)
            self.at(node.tick_s, self.within, node, node.life, self._tick, node.tick_s)

    def _look_at_leases(self) -> None:
        holders = [
            (node.candidate.term, node.number)
            for node in self.nodes
            if node.candidate is not None and node.candidate.has_lease(node.holder_s(self.now_s))
        ]
        self.checks.leases(holders)

    def _happened(self, node: Node, candidate: Candidacy, effect: Any) -> None:
        self.note(node, "says", effect)
        match effect:
            case Won(term):
                self.checks.won(node.number, term, candidate.chain)
                self.at(self.now_s, self.within, node, node.life, self._coordinate, term)
            case Committed(first, last):
                self.checks.committed(node.number, candidate.term, candidate.chain, first, last)
            case Over():
                self.checks.over(node.number, candidate.chain, self.scenario.tasks)
                if self.checks.end_of(self.owner.generation):
                    self.ends_s = min(self.ends_s, max(self.now_s, self.scenario.chaos_s) + QUIET_S)
            case CommitteeChanged(_, committee):
                self.checks.changed(node.number, candidate.epoch, committee)
            case Lost():
                pass

    def _coordinate(self, node: Node, term: Any) -> None:
        """Writes what is still open: slowly while faults are on, so that the job outlasts them."""
        candidate = node.candidate
        if candidate is None or candidate.term != term or not candidate.holds(node.holder_s(self.now_s)):
            return
        if node is self.owner.node and self.owner.carried and generation_of(term) == self.owner.generation:
            self.tell(node, Write(self.owner.carried))
        open_tasks = [task for task in range(self.scenario.tasks) if task not in candidate.chain.register]
        count = self._work.randint(1, 2) if not self.healed else 12
        entries = tuple(Entry(task, self._work.randbytes(16), node.peer) for task in open_tasks[:count])
        if self.healed and len(entries) == len(open_tasks):
            self.tell(node, Write(entries, "done"))
        elif self.scenario.may_be_cancelled and self._work.random() < 0.1:
            self.tell(node, Write(entries, "cancelled", "by its submitter"))
        elif len(open_tasks) > 5 or self.healed:
            self.tell(node, Write(entries, is_last=self._work.random() < 0.5))
        self.at(self.now_s + WRITE_EVERY_S, self.within, node, node.life, self._coordinate, term)

    # --- the network -------------------------------------------------------------------------------------------------

    def _begin_sealing(self, node: Node, wanted: SealWanted) -> None:
        """Whatever is to happen when a candidate closes an epoch happens now; and everybody wants its place."""
        if not self._at_seals or self.healed or (node.number, wanted.epoch, wanted.term) in self._sealers:
            return
        self._sealers[node.number, wanted.epoch, wanted.term] = None
        fault = self._at_seals.pop(0)
        if fault.groups:
            # Those who are to elect next are with whoever closes; some of those who elect now are not.
            near = (node.number, *self.scenario.spares)
            fault = replace(fault, groups=tuple(0 if n in near else side for n, side in enumerate(fault.groups)))
        self.note(node, f"FAULT {fault.kind} as it seals")
        until_s = min(self.now_s + fault.at_s + fault.for_s, self.scenario.chaos_s)
        if fault.at_s:
            self.at(self.now_s + fault.at_s, self.links.add, fault, until_s, node.number)
        else:
            self.links.add(fault, until_s, node.number)
        for other in self.nodes:
            for _ in range(CAMPAIGNS_AT_SEAL):
                at_s = self.now_s + self._work.uniform(0.05, 1.2) * self.scenario.profile.lease_s
                if at_s < self.scenario.chaos_s:
                    self.at(at_s, self.within, other, other.life, self.tell, Campaign())

    def _send(self, node: Node, ask: Ask) -> None:
        if isinstance(ask.request, SealWanted):
            self._begin_sealing(node, ask.request)
        self._numbers += 1
        request = self._numbers & 0xFFFFFFFF
        node.open_requests[request] = (self.now_s, ask.elector)
        self._sweep_later(node)
        elector = self.nodes[self.numbers_of[ask.elector]]
        event = Asked(node.peer, self.wire(ask.request), node.life << 32 | request)
        self.carry(node, elector, None, self.electors.ask, event)

    def carry(
        self, sender: Node, receiver: Node, life: int | None, action: Callable[..., None], *arguments: Any
    ) -> None:
        """Brings something to another node, or not, or late, or twice. `life`: of the receiver that it is for."""
        if sender is receiver:
            self.at(self.now_s, self._arrive, receiver, life, action, *arguments)
            return
        for delay_s in self.links.delays_s(sender.number, receiver.number, self.now_s):
            self.at(self.now_s + delay_s, self._arrive, receiver, life, action, *arguments)

    def _arrive(self, node: Node, life: int | None, action: Callable[..., None], *arguments: Any) -> None:
        self.within(node, node.life if life is None else life, action, *arguments)

    def _pictures(self) -> list[str]:
        lines = []
        for node in self.nodes:
            seats = node.elector.snapshot_at(node.elector_s(self.now_s)) if node.elector else ()
            lines.append(f"node {node.number}: {node.candidate.snapshot() if node.candidate else None} {seats}")
        return lines
