"""What the attacks are, what must come of them, and what came of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from peerinfer.estimates import Estimate
from peerinfer.evidence_messages import Attestation, Attested
from peerinfer.ids import Cid, PeerId, peer_id_of, public_key_of
from peerinfer.limits import ATTESTED_MAX
from peerinfer.placement import strategy_named
from peerinfer.placement_table import Candidate, CandidateTable, Demand
from peerinfer.reputation import UNITS_MAX, Reputation
from peerinfer.trust import Received, flow_into, spread
from peerinfer.verification_events import Policy
from peerinfer.vouching import ATTESTATION_LASTS_S, ATTESTERS_MAX, Vouching
from peerinfer_sim.attacks.arena import Arena, Attack
from peerinfer_sim.attacks.live import HostileSwarm
from peerinfer_sim.balance.swarm import Scenario

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
    Attack("free-riders who copy", 0.3, copies=True),
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

    @property
    def line(self) -> str:
        sign, verdict = "≥" if self.at_least else "≤", "holds" if self.holds else "MISSED"
        return f"{self.attack:44} {self.what:42} {self.value:>12.3g}  {sign} {self.bound:<8.3g} {verdict}"


TASKS, TASKS_QUICK = 800_000, 80_000


def setting(seed: int, *, quick: bool) -> str:
    policy, tasks = (POLICY_QUICK, TASKS_QUICK) if quick else (POLICY, TASKS)
    return f"seed {seed}, {tasks:,} tasks, {WORKERS} workers, p {policy.audit_share:g}, W {policy.window:,}"


def all_figures(seed: int, *, quick: bool) -> Iterator[Figure]:
    policy, tasks = (POLICY_QUICK, TASKS_QUICK) if quick else (POLICY, TASKS)
    yield from newcomer(seed)
    yield from hearsay(seed)
    yield from sybils(seed)
    yield from slander(seed)
    yield from lying_auditors(seed, tasks // 10, policy)
    yield from whitewashing(seed, tasks, policy)
    yield from sabotage(seed, tasks, policy)
    yield from live(seed, quick=quick)


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


def hearsay(seed: int) -> Iterator[Figure]:
    """What attestations buy in the node's own `Vouching`: ballots stuffed by a veteran, and a flood of false names."""
    rng = random.Random(f"{seed}:hearsay")
    veterans = [_peer(f"veteran {number}") for number in range(12)]
    reputation = Reputation()
    for name in veterans:
        for _ in range(150):
            reputation.passed(name, 0.0)
        reputation.worked(name, 0.0, rng.uniform(1e9, 1e12))
    vouching = Vouching(reputation)
    honest, friends = _peer("honest newcomer"), [_peer(f"friend {number}") for number in range(ATTESTED_MAX)]
    for name in veterans[1:]:
        vouching.hear(name, _saying((honest, 1e9, 100)), b"", 0.0)
    vouching.hear(veterans[0], _saying(*((name, UNITS_MAX, 10**9) for name in friends)), b"", 0.0)
    for number in range(2 * ATTESTERS_MAX):
        vouching.hear(_peer(f"sybil {number}"), _saying(*((name, UNITS_MAX, 10**9) for name in friends)), b"", 0.0)
    spared = 20 - vouching.opinion(honest, 0.0).probation
    yield Figure("eleven veterans vouch for a newcomer", "doubled tasks that it is spared", spared, 3, at_least=True)
    yield Figure("eleven veterans vouch for a newcomer", "the same, at most", spared, 10)
    stuffed = f"one veteran and {2 * ATTESTERS_MAX:,} Sybils stuff ballots"
    bought = max(20 - vouching.opinion(friend, 0.0).probation for friend in friends)
    yield Figure(stuffed, "doubled tasks that a friend is spared", bought, 1)
    trust = sum(vouching.opinion(friend, 0.0).trust for friend in friends)
    yield Figure(
        stuffed, "trust of all friends against the veteran's", trust / vouching.opinion(veterans[0], 0.0).trust, 1.0
    )


def _peer(name: str) -> PeerId:
    return peer_id_of(hashlib.sha256(name.encode()).digest())


def _saying(*about: tuple[PeerId, float, int]) -> Attestation:
    attested = tuple(Attested(public_key_of(name), units, audits) for name, units, audits in about)
    return Attestation(0.0, ATTESTATION_LASTS_S, attested)


LIVE = (
    Attack("always wrong", 1.0),
    Attack("always wrong, names without limit", 1.0, limited=False),
    Attack("1% wrong", 0.01),
    Attack("free-riders who copy", 0.3, copies=True),
    Attack("no saboteur", 0.0, saboteurs=0.0),
)
LIVE_TASKS, LIVE_TASKS_QUICK = 800_000, 60_000
"""Sixty workers have full windows after 390,000 tasks. A short job is settled by its peers' record."""

LIVE_QUICK_ERROR_MAX, LIVE_QUICK_COST_MAX = 1e-3, 1.35
"""What `adaptive` promises of short jobs (`Policy.doubt_max`), which state the error they expect."""


def live(seed: int, *, quick: bool) -> Iterator[Figure]:
    """The whole coordinator against a tenth of saboteurs."""
    tasks = LIVE_TASKS_QUICK if quick else LIVE_TASKS
    scenario = Scenario("live", WORKERS, ideal_s=tasks * 3e-4, task_s=0.02, verify="adaptive", rtt_s=(0.005, 0.05))
    for attack in LIVE:
        found = HostileSwarm(scenario, attack, seed).fight()
        name = f"coordinator: {attack.name}"
        error_max, cost_max = (LIVE_QUICK_ERROR_MAX, LIVE_QUICK_COST_MAX) if quick else (ERROR_MAX, COST_MAX)
        yield Figure(name, "share of final results that are wrong", found.error, error_max)
        yield Figure(name, "executions for each task", found.cost, cost_max)
        yield Figure(name, "honest workers caught", found.honest_caught, 0)
        if attack.saboteurs:
            yield Figure(name, "names caught", found.caught, 1, at_least=True)


FULL_SHARE = 0.95


def newcomer(seed: int) -> Iterator[Figure]:
    """An honest newcomer among veterans of the same speed: after how many tasks has it its full share?"""
    full_after = next((done for done, share in newcomer_path(seed) if share >= FULL_SHARE), 10**9)
    yield Figure("honest newcomer", "tasks until its share is full", full_after, 50)


def newcomer_path(seed: int) -> list[tuple[int, float]]:
    """Tasks that it has done, and its part of the last 200 tasks, of what would be its fair one."""
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
    done, path = 0, []
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
                if len(recent) == 200:
                    path.append((done, sum(recent) * len(table) / 200))
    return path
