"""What the attacks are, what must come of them, and what came of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from peerinfer.estimates import Estimate
from peerinfer.ids import Cid, PeerId
from peerinfer.placement import strategy_named
from peerinfer.placement_table import Candidate, CandidateTable, Demand
from peerinfer.reputation import Reputation
from peerinfer.trust import Received, flow_into, spread
from peerinfer.verification_events import Policy
from peerinfer_sim.attacks.arena import Arena, Attack

ERROR_MAX = 1e-4
COST_MAX = 1.20
WORKERS = 60
POLICY = Policy(audit_share=0.10, error_max=ERROR_MAX, saboteurs=0.10)
POLICY_QUICK = Policy(audit_share=0.10, error_max=10 * ERROR_MAX, saboteurs=0.10)
"""A window of a tenth, so that it fills in a tenth of the time."""

SABOTAGE = (
    Attack("always wrong", 1.0),
    Attack("always wrong, 30% of the workers", 1.0, saboteurs=0.30),
    Attack("10% wrong", 0.1),
    Attack("1% wrong", 0.01),
    Attack("sleeper, then 50%", 0.5, sleeps_until=20),
    Attack("sleeper, then 2%", 0.02, sleeps_until=20),
    Attack("sleeper, worst rate", 0.0, sleeps_until=20),
    Attack("always wrong, names without limit", 1.0, limited=False),
    Attack("no saboteur", 0.0, saboteurs=0.0),
)


@dataclass(frozen=True, slots=True)
class Figure:
    attack: str
    what: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def sabotage(seed: int, tasks: int, policy: Policy) -> Iterator[Figure]:
    """Error of final results, and executions for each task, with colluders that return as soon as they may."""
    for attack in SABOTAGE:
        if attack.name == "sleeper, worst rate":
            attack = replace(attack, rate=1 / (policy.audit_share * policy.window))
        tally = Arena(policy, attack, seed, workers=WORKERS).run(tasks)
        yield Figure(attack.name, "share of final results that are wrong", tally.error, policy.error_max)
        if attack.saboteurs <= 0.10:
            # Where names cost nothing at all, every task of theirs is thrice computed.
            yield Figure(attack.name, "executions for each task", tally.cost, COST_MAX if attack.limited else 1.35)
        yield Figure(attack.name, "honest workers caught", tally.honest_caught, 0)
        if attack.rate == 1.0:
            yield Figure(attack.name, "tasks until caught, at most", max(tally.tasks_until_caught), 50)


def whitewashing(seed: int, tasks: int, policy: Policy) -> Iterator[Figure]:
    """New names on and on, without limit: how much harm for how much work."""
    attack = Attack("whitewash loop", 0.02, limited=False)
    tally = Arena(policy, attack, seed, workers=WORKERS).run(tasks)
    share = tally.final_wrong / max(tally.computed_by_saboteurs, 1)
    yield Figure(attack.name, "wrong final results for each own execution", share, 1 / 30)
    yield Figure(attack.name, "share of final results that are wrong", tally.error, policy.error_max)


def lying_auditors(seed: int, tasks: int, policy: Policy) -> Iterator[Figure]:
    """A tenth of the partners calls every answer wrong."""
    attack = Attack("10% of auditors lie", 0.0, saboteurs=0.0, returns=False)
    tally = Arena(policy, attack, seed, workers=WORKERS, auditor_liars=0.10).run(tasks)
    yield Figure(attack.name, "honest workers punished", tally.honest_caught, 0)
    yield Figure(attack.name, "lying auditors caught", tally.caught, 1, at_least=True)


def sybils(seed: int) -> Iterator[Figure]:
    """Ten false names for each honest one, that praise each other without bound."""
    rng = random.Random(f"{seed}:sybils")
    seeds = [PeerId(f"seed-{number}") for number in range(3)]
    honest = [*seeds, *(PeerId(f"honest-{number}") for number in range(297))]
    false = [PeerId(f"sybil-{number}") for number in range(3000)]
    base = [
        Received(receiver, giver, rng.uniform(1, 50))
        for receiver in honest
        for giver in rng.sample(honest, 12)
        if giver != receiver
    ]
    praise = [Received(name, other, 1e6) for name in false for other in rng.sample(false, 8) if other != name]
    for attack_edges in (0, 4, 36, 360):
        work = [Received(rng.choice(honest[3:]), rng.choice(false), 25.0) for _ in range(attack_edges)]
        edges = base + praise + work
        trust = spread(edges, seeds)
        mass = sum(trust[name] for name in false)
        flow = flow_into(false, edges, trust)
        name = f"Sybils 10:1, {attack_edges} of {len(base)} honest edges"
        yield Figure(name, "their trust against their share of work", mass / flow if flow else mass, 1.0)
    # A third of the swarm are Sybils that do a part of the real work: they may gain that part, not more.
    names = false[:129]
    done = [Received(receiver, rng.choice(names), 1.0) for receiver in honest for _ in range(2)]
    edges = base + done + [Received(name, other, 1e6) for name in names for other in names[:20] if other != name]
    trust = spread(edges, seeds)
    units_false = sum(edge.units for edge in done)
    share = units_false / (units_false + sum(edge.units for edge in base))
    mass = sum(trust[name] for name in names)
    yield Figure("Sybils, 30% of the names", "their trust against their share of work", mass / share, 1.0)


def slander(seed: int) -> Iterator[Figure]:
    """A third of the swarm claims to have received nothing from the victims, and praises the others."""
    rng = random.Random(f"{seed}:slander")
    names = [PeerId(f"peer-{number}") for number in range(300)]
    victims = names[200:220]
    seeds = names[:3]
    edges = [Received(taker, giver, 10.0) for taker in names for giver in rng.sample(names, 12) if giver != taker]
    liars = set(names[220:])
    before, after = (
        spread(edges, seeds),
        spread([e for e in edges if e.receiver not in liars or e.giver not in victims], seeds),
    )
    trust_lost = 1 - sum(after[victim] for victim in victims) / sum(before[victim] for victim in victims)
    yield Figure("slander by 27%", "trust that victims lose", trust_lost, len(liars) / len(names))


def newcomer(seed: int) -> Iterator[Figure]:
    """An honest newcomer among veterans of the same speed: after how many tasks has it its full share?"""
    rng = random.Random(f"{seed}:newcomer")
    table, reputation, strategy = CandidateTable(), Reputation(), strategy_named("adaptive")
    demand = Demand(Cid("model"))
    names = [PeerId(f"veteran-{number}") for number in range(9)]
    fresh = PeerId("newcomer")
    for name in names:
        for _ in range(400):
            reputation.passed(name, 0.0)
            reputation.answered(name, 0.0, in_time=True)
    for name in [*names, fresh]:
        table.add(Candidate(name, rtt_s=0.02))
        table.set_load(name, demand.model, 0.0)
        table.set_speed(name, demand.model, Estimate(0.0, 0.3, 0.0 if name == fresh else 20.0))
    waiting: list[PeerId] = []
    recent: list[bool] = []
    done, full_after = 0, -1
    for _ in range(6000):
        standing = reputation.standing(fresh, 0.0)
        table.update(fresh, p_ok=standing.p_ok, copies=2.0 if standing.is_newcomer else 1.0)
        for name in names:
            table.update(name, p_ok=reputation.standing(name, 0.0).p_ok)
        chosen = strategy.choose(demand, table, 0.0, rng)
        assert chosen is not None
        table.add_load(chosen, 1, 1.0)
        waiting.append(chosen)
        if len(waiting) >= 20 * len(table):
            answered = waiting.pop(0)
            table.add_load(answered, -1, -1.0)
            recent = [*recent[-199:], answered == fresh]
            if answered == fresh:
                done += 1
                table.set_speed(fresh, demand.model, Estimate(0.0, 0.3, float(done)))
                reputation.answered(fresh, 0.0, in_time=True)
                if standing.is_newcomer or rng.random() < POLICY.audit_share:
                    reputation.passed(fresh, 0.0)
                if full_after < 0 and len(recent) == 200 and sum(recent) >= 0.95 * 200 / len(table):
                    full_after = done
    yield Figure("honest newcomer", "tasks until its share is full", full_after if full_after > 0 else 1e9, 50)
