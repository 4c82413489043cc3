"""Saboteurs against the whole coordinator: `Coordination` with its dispatch, copies, audits and reputation, as in a node.

The arena looks at verification alone, over as many tasks as the bound needs. Here everything else takes part: frames,
windows of credit, second copies of what is late, the own device that has no time for all audits. Saboteurs give the same
wrong answer; who was caught comes back under a new name, from the same network or, `limited` no more, from another one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from peerinfer.assignment import WorkerLost
from peerinfer.ids import JobId, PeerId
from peerinfer_sim.attacks.arena import Attack
from peerinfer_sim.balance.swarm import Scenario, Swarm, SwarmFrame, SwarmWorker

COME_BACK_S = 5.0
"""A new name, and a connection."""


@dataclass(frozen=True, slots=True)
class Live:
    """What came of it."""

    error: float
    """Share of final results that are wrong."""
    cost: float
    """Executions and audits for each task of the job."""
    caught: int
    honest_caught: int
    names: int
    """Under which the saboteurs came, all together."""


class HostileSwarm(Swarm):
    def __init__(self, scenario: Scenario, attack: Attack, seed: int) -> None:
        super().__init__(scenario, "adaptive", seed)
        self._attack = attack
        self._dice = random.Random(f"{seed}:lies:{attack.name}")
        self._saboteurs = {worker.peer for worker in self.workers[: round(attack.saboteurs * len(self.workers))]}
        self._subnets = {worker.peer: f"subnet of {worker.peer}" for worker in self.workers}
        self._wrong: set[tuple[JobId, int, PeerId]] = set()
        self._caught: list[PeerId] = []
        self._final = self._final_wrong = 0
        self._names = len(self._saboteurs)

    def fight(self) -> Live:
        outcome = self.run()
        tasks = sum(spec.tasks for spec in self.jobs)
        executions = outcome.executions * (tasks + outcome.copied) + outcome.audited
        return Live(
            error=self._final_wrong / max(self._final, 1),
            cost=executions / tasks,
            caught=len(self._caught),
            honest_caught=sum(peer not in self._saboteurs for peer in self._caught),
            names=self._names,
        )

    def _answered(self, worker: SwarmWorker, life: int, frame: SwarmFrame) -> None:
        if life == worker.life and worker.peer in self._saboteurs:
            sleeps = self.machine.reputation.standing(worker.peer, self.now_s).audits < self._attack.sleeps_until
            for task in frame.numbers:
                first = self._answers.get((frame.job, task), [])
                key = (frame.job, task, worker.peer)
                if self._attack.copies and first:
                    is_wrong = (frame.job, task, first[0]) in self._wrong
                else:
                    is_wrong = not sleeps and self._dice.random() < self._attack.rate
                if is_wrong:
                    self._wrong.add(key)
                else:
                    self._wrong.discard(key)
        super()._answered(worker, life, frame)

    def _groups(self, worker: SwarmWorker) -> tuple[str, ...]:
        """Without limit: as if each name came from a network of its own."""
        return (self._subnets[worker.peer],) if self._attack.limited else ()

    def _is_right(self, job: JobId, task: int, peer: PeerId) -> bool:
        return (job, task, peer) not in self._wrong

    def _settled(self, job: JobId, peer: PeerId, tasks: tuple[int, ...]) -> None:
        self._final += len(tasks)
        self._final_wrong += sum(not self._is_right(job, task, peer) for task in tasks)

    def _dropped(self, peer: PeerId) -> None:
        worker = self._by_peer.get(peer)
        if worker is None or not worker.is_up:
            return
        if self.machine.is_barred(peer):
            self._caught.append(peer)
        self._at(self.now_s, self._tell, WorkerLost(peer, "was sent away"))
        self._stop(worker)
        subnet = self._subnets[peer]
        if self._attack.returns:
            self._at(self.now_s + COME_BACK_S, self._return, worker, subnet)

    def _return(self, worker: SwarmWorker, subnet: str) -> None:
        name = PeerId(f"{worker.peer}'")
        if worker.peer in self._saboteurs:
            self._saboteurs.add(name)
            self._names += 1
        again = replace(worker, peer=name, warm=set())
        self._subnets[name] = subnet
        self._by_peer[name] = again
        self.workers.append(again)
        self._up(again)
