"""What a seed decides before a run begins: committee, liars, clocks, links, and every fault. All of it is data."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from peerinfer.committee import quorum
from peerinfer.lease_profile import LAN, WAN, LeaseProfile
from peerinfer.limits import JOURNAL_TAIL_BYTES, SNAPSHOT_PART_BYTES

LIARS = ("yes", "boaster", "withholder", "refuser", "forgetful")
"""Kinds of lying electors; see `liars`."""

COMMITTEES = ((1, 0), (3, 0), (3, 0), (3, 0), (3, 0), (5, 0), (5, 0), (7, 0), (4, 1), (5, 1), (5, 1), (7, 2))
"""Electors, and how many liars among them are tolerated."""

CHANGES_SHARE = 0.5
"""So many runs without liars change their committee."""

RESCUES_SHARE = 0.4
"""In so many of these the owner names a committee anew: its quorum is lost for good, or comes back just then."""

SNAPSHOTS_SHARE = 0.5
"""In so many runs journals are cut after a few batches."""

SPARES = 2

FAR_SHARE = 0.15
"""So many runs are of electors far apart, under the profile for them."""

RHO = 0.01
"""The drift that the protocol promises to bear."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong at `at_s` and ends after `for_s`."""

    kind: str
    at_s: float
    for_s: float
    node: int = -1
    """Whom it hits; -1 is whoever holds the lease then."""
    groups: tuple[int, ...] = ()
    """cut: for each node the side that it is on, 0 and 1, or 2 for both."""
    amount: float = 0.0

    def __str__(self) -> str:
        who = f"node {self.node}" if self.node >= 0 else "the holder"
        match self.kind:
            case "crash":
                torn = "writing" if self.amount else "not writing"
                what = f"{who} crashes for {self.for_s:.2f} s, {torn} what it was about to"
            case "cut" | "cut one way":
                sides = [[node for node, side in enumerate(self.groups) if side in (mine, 2)] for mine in (0, 1)]
                arrow = "<-/->" if self.kind == "cut" else "-/->"
                what = f"{sides[0]} {arrow} {sides[1]} for {self.for_s:.2f} s"
            case "loss" | "doubling":
                what = f"{self.kind} of {self.amount:.0%} of all messages for {self.for_s:.2f} s"
            case "delay":
                what = f"messages take up to {self.amount:.2f} s longer for {self.for_s:.2f} s"
            case "isolate":
                ways = {0: "can neither send nor receive", 1: "cannot send", 2: "cannot receive"}
                what = f"{who} {ways[int(self.amount)]} for {self.for_s:.2f} s"
            case "slow":
                what = f"what is sent to {who} takes {self.amount:.2f} s longer for {self.for_s:.2f} s"
            case "hand over":
                what = f"{who} hands over"
            case "replace":
                what = f"{who} is told to replace an elector"
            case "rescue":
                what = "the owner names a new committee"
            case "campaign":
                what = f"{who} is told to campaign"
            case _:
                what = f"{who}: {self.kind} for {self.for_s:.2f} s"
        return f"{self.at_s:6.2f} s  {what}"


@dataclass(frozen=True, slots=True)
class Scenario:
    seed: int
    electors: int
    byzantine: int
    nodes: int
    """The electors, and the submitter where it is not one of them: then it is the last."""
    submitter: int
    liars: dict[int, str]
    dead: dict[int, float]
    """Nodes that end for good, and when."""
    rates: tuple[float, ...]
    """How fast each node's clocks run."""
    slow_holders: tuple[bool, ...]
    """Nodes whose holder clock does not count suspend, or runs far too slowly: beyond what the protocol promises."""
    latency_s: float
    sync_s: float
    batches_per_message: int
    may_be_cancelled: bool
    tasks: int
    chaos_s: float
    faults: tuple[Fault, ...]
    profile: LeaseProfile = LAN
    tail_bytes: int = JOURNAL_TAIL_BYTES
    """How long a journal becomes before a checkpoint is written."""
    part_bytes: int = SNAPSHOT_PART_BYTES
    spares: tuple[int, ...] = ()
    """Nodes that may become electors."""
    at_seals: tuple[Fault, ...] = ()
    """What happens when a candidate begins to close an epoch, one after the other; `at_s` counts from that moment."""

    @property
    def clocks_are_sound(self) -> bool:
        return not any(self.slow_holders)

    def only(self, faults: tuple[int, ...]) -> Scenario:
        """The same, with these of its faults."""
        return replace(self, faults=tuple(self.faults[number] for number in faults))

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.electors} electors, {self.byzantine} liars tolerated, {self.nodes} nodes, "
            f"submitter {self.submitter}, a lease of {self.profile.lease_s:g} s, "
            f"latency {1000 * self.latency_s:.1f} ms, sync {1000 * self.sync_s:.1f} ms, "
            f"{self.tasks} tasks, checkpoints after {self.tail_bytes} bytes, {self.chaos_s:.1f} s of faults"
        ]
        lines += [f"  node {node} lies: {kind}" for node, kind in self.liars.items()]
        lines += [f"  node {node} ends for good at {at_s:.2f} s" for node, at_s in self.dead.items()]
        lines += [
            f"  node {node} has a clock beyond all bounds" for node, is_slow in enumerate(self.slow_holders) if is_slow
        ]
        lines += [f"  [{number}] {fault}" for number, fault in enumerate(self.faults)]
        lines += [f"  when an epoch is closed, after {fault}" for fault in self.at_seals]
        return "\n".join(lines)


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    dice = random.Random(f"{seed}:scenario")
    electors, byzantine = dice.choice(
        [(1, 0), (3, 0), (3, 0), (3, 0), (5, 0), (5, 0), (7, 0), (4, 1), (5, 1), (5, 1), (7, 2)]
    )
    submitter = 0 if dice.random() < 0.4 else electors
    nodes = max(electors, submitter + 1)
    seats = [node for node in range(electors) if node != submitter]
    lying = dice.sample(seats, dice.choice((0, byzantine, byzantine))) if byzantine else []
    may_die = electors - quorum(electors, byzantine) - len(lying)
    honest = [node for node in seats if node not in lying]
    chaos_s = dice.uniform(5.0, 11.0)
    dead = {
        node: dice.uniform(0.5, chaos_s) for node in dice.sample(honest, min(dice.randint(0, 1), may_die, len(honest)))
    }
    is_unsound = dice.random() < 0.2
    found = Scenario(
        seed=seed,
        electors=electors,
        byzantine=byzantine,
        nodes=nodes,
        submitter=submitter,
        liars={node: dice.choice(LIARS) for node in lying},
        dead=dead,
        rates=_rates(dice, nodes, submitter),
        slow_holders=tuple(is_unsound and dice.random() < 0.5 for _ in range(nodes)),
        latency_s=dice.choice((0.001, 0.004, 0.02)),
        sync_s=dice.choice((0.0005, 0.004, 0.03)),
        batches_per_message=dice.choice((1, 2, 16)),
        may_be_cancelled=dice.random() < 0.3,
        tasks=30,
        chaos_s=chaos_s,
        faults=tuple(sorted(_faults(dice, nodes, submitter, lying, chaos_s), key=lambda fault: fault.at_s)),
    )
    epochs = random.Random(f"{seed}:epochs")
    if not found.liars and electors >= 3 and epochs.random() < CHANGES_SHARE:
        found = _changing(found, epochs)
        owner = random.Random(f"{seed}:owner")
        if not byzantine and owner.random() < RESCUES_SHARE:
            found = _rescued(found, owner)
    length = random.Random(f"{seed}:length")
    if length.random() < SNAPSHOTS_SHARE:
        found = replace(found, tail_bytes=length.choice((1, 4000, 8000)), part_bytes=length.choice((300, 1 << 19)))
    distance = random.Random(f"{seed}:distance")
    return _far(found, distance) if distance.random() < FAR_SHARE else found


def _changing(found: Scenario, dice: random.Random) -> Scenario:
    """The same with nodes to spare, and a holder that is told to replace electors by them, at bad moments too."""
    nodes, spares = found.nodes + SPARES, (0, 1, 2)
    faults = [
        replace(fault, groups=fault.groups + tuple(dice.choice(spares) for _ in range(SPARES)))
        if fault.groups
        else fault
        for fault in found.faults
    ]
    for _ in range(dice.randint(1, 4)):
        at_s = found.chaos_s * dice.choice((0.1, 0.3, 0.8)) * dice.uniform(0.5, 1.2)
        faults.append(Fault("replace", at_s, 0.0, amount=dice.random()))
        if dice.random() < 0.6:
            at_s += dice.choice((0.0, 0.002, 0.01, 0.03, 0.1, 0.5)) * dice.uniform(0.3, 1.5)
            kind = dice.choice(("isolate", "isolate", "paused", "crash"))
            faults.append(Fault(kind, at_s, dice.uniform(0.5, 5.0), amount=dice.choice((0, 1, 1, 2))))
            # Somebody else wants its place while its lease may still run.
            for _ in range(8):
                at_s += dice.uniform(0.02, 0.8)
                faults.append(Fault("campaign", at_s, 0.0, dice.randrange(nodes)))
    faults = [
        replace(one, for_s=min(one.for_s, found.chaos_s - one.at_s)) for one in faults if one.at_s < found.chaos_s
    ]
    at_seals = tuple(_at_seal(dice, nodes) for _ in range(dice.randint(0, 4)))
    if dice.random() < 0.4:
        # The first falls silent before anybody hears of it; the next is heard, and hears nothing.
        deaf = Fault("isolate", 0.0, dice.uniform(2.0, 5.0), amount=2)
        at_seals = (Fault("isolate", 0.0, dice.uniform(2.0, 3.5), amount=0), deaf, *at_seals)
    return replace(
        found,
        at_seals=at_seals,
        nodes=nodes,
        spares=tuple(range(found.nodes, nodes)),
        rates=(*found.rates, *(1 + dice.uniform(-RHO, RHO) for _ in range(SPARES))),
        slow_holders=(*found.slow_holders, *(False for _ in range(SPARES))),
        faults=tuple(sorted(faults, key=lambda fault: fault.at_s)),
    )


def _rescued(found: Scenario, dice: random.Random) -> Scenario:
    """The same with an owner that misses a quorum, and electors that are gone, or come back around that time."""
    others = [node for node in range(found.electors) if node != found.submitter]
    lost = dice.sample(others, min(found.electors - quorum(found.electors, 0) + 1, len(others)))
    at_s = dice.uniform(0.3, 0.6) * found.chaos_s
    rescue_s = min(at_s + dice.uniform(0.2, 2.5), 0.95 * found.chaos_s)  # Later ones are dropped; not this.
    faults, dead = list(found.faults), dict(found.dead)
    for node in lost:
        if dice.random() < 0.4:
            dead[node] = min(at_s, dead.get(node, at_s))
            continue
        for_s = max(rescue_s + dice.choice((-0.3, -0.05, 0.0, 0.05, 0.3, 1.5)) * dice.random() - at_s, 0.1)
        faults.append(Fault("crash", at_s, for_s, node, amount=float(dice.random() < 0.5)))
        # Whoever comes back wants to go on at once.
        faults += [Fault("campaign", at_s + for_s + dice.uniform(0.0, 2.5), 0.0, dice.choice(lost)) for _ in range(4)]
    if dice.random() < 0.5:
        # The old committee sees itself, and for a while neither the owner nor the new one.
        groups = tuple(0 if node in others else dice.choice((1, 1, 2)) for node in range(found.nodes))
        faults.append(Fault("cut", rescue_s - dice.uniform(0.0, 0.2), dice.uniform(0.5, 3.0), groups=groups))
    faults.append(Fault("rescue", rescue_s, 0.0))
    if dice.random() < 0.3:
        faults.append(Fault("rescue", rescue_s + dice.uniform(0.0, 2.0), 0.0))
    faults = [
        replace(one, for_s=min(one.for_s, found.chaos_s - one.at_s)) for one in faults if one.at_s < found.chaos_s
    ]
    return replace(found, dead=dead, faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))


def _at_seal(dice: random.Random, nodes: int) -> Fault:
    at_s, for_s = dice.choice((0.0, 0.0, 0.01, 0.04, 0.15)), dice.uniform(2.0, 6.0)
    if dice.random() < 0.4:
        return Fault("isolate", at_s, for_s, amount=dice.choice((0, 1, 2)))
    for_s = dice.uniform(4.0, 7.0)
    return Fault("cut", at_s, for_s, groups=tuple(dice.randrange(2) for _ in range(nodes)))


def _far(near: Scenario, dice: random.Random) -> Scenario:
    """The same over long links, with the long lease: everything takes as many times longer as the lease does."""
    longer = WAN.lease_s / LAN.lease_s
    return replace(
        near,
        profile=WAN,
        latency_s=dice.choice((0.03, 0.08, 0.2)),
        chaos_s=near.chaos_s * longer,
        dead={node: at_s * longer for node, at_s in near.dead.items()},
        faults=tuple(replace(fault, at_s=fault.at_s * longer, for_s=fault.for_s * longer) for fault in near.faults),
        at_seals=tuple(replace(fault, at_s=fault.at_s * longer, for_s=fault.for_s * longer) for fault in near.at_seals),
    )


def _rates(dice: random.Random, nodes: int, submitter: int) -> tuple[float, ...]:
    if dice.random() < 0.25:
        # The worst there is: the first holder's clock is slow, all others are fast.
        return tuple(1 - RHO if node == submitter else 1 + RHO for node in range(nodes))
    return tuple(1 + dice.choice((-RHO, RHO, dice.uniform(-RHO, RHO))) for _ in range(nodes))


def _faults(dice: random.Random, nodes: int, submitter: int, lying: list[int], chaos_s: float) -> list[Fault]:
    found: list[Fault] = []
    for _ in range(dice.randint(2, 7)):
        at_s = dice.uniform(0.0, chaos_s)
        found += _one(dice, nodes, at_s) if dice.random() < 0.7 else _attack(dice, nodes, submitter, lying, at_s)
    return [replace(fault, for_s=min(fault.for_s, chaos_s - fault.at_s)) for fault in found if fault.at_s < chaos_s]


def _one(dice: random.Random, nodes: int, at_s: float) -> list[Fault]:
    for_s = dice.choice((0.3, 1.5, 4.0)) * dice.uniform(0.5, 1.5)
    node = dice.choice((-1, dice.randrange(nodes)))
    torn = float(dice.random() < 0.5)
    match dice.randrange(12):
        case 0 | 1:
            return [Fault("crash", at_s, for_s, node, amount=torn)]
        case 2:
            return [Fault("crash", at_s, dice.uniform(0.05, 0.9), every, amount=torn) for every in range(nodes)]
        case 3 | 4:
            groups = tuple(dice.choice((0, 1, 1, 2)) for _ in range(nodes))
            return [Fault(dice.choice(("cut", "cut", "cut one way")), at_s, for_s, groups=groups)]
        case 5:
            return [Fault("isolate", at_s, for_s, node, amount=dice.randrange(3))]
        case 6:
            return [Fault("loss", at_s, for_s, amount=dice.choice((0.05, 0.2, 0.5)))]
        case 7:
            return [Fault("doubling", at_s, for_s, amount=dice.choice((0.1, 0.5)))]
        case 8:
            return [Fault("delay", at_s, for_s, amount=dice.choice((0.05, 0.3, 1.5)))]
        case 9:
            return [Fault(dice.choice(("paused", "suspended")), at_s, dice.uniform(0.5, 5.0), node)]
        case 10:
            return [Fault("disk full", at_s, for_s, dice.randrange(nodes))]
        case _:
            return [Fault("hand over", at_s, 0.0, node)]


def _attack(dice: random.Random, nodes: int, submitter: int, lying: list[int], at_s: float) -> list[Fault]:
    """Faults that belong together: the holder falls silent while its lease runs, and everybody wants its place."""
    if lying and dice.random() < 0.5:
        # The honest ones see half of each other, and all see those that lie.
        honest = [node for node in range(nodes) if node not in lying]
        dice.shuffle(honest)
        groups = tuple(2 if node in lying else honest.index(node) % 2 for node in range(nodes))
        return [Fault("cut", at_s, dice.uniform(4.0, 6.0), groups=groups)]
    slow_s = dice.choice((0.0, 0.7, 1.0))
    found = [Fault("slow", at_s, 5.0, -1, amount=slow_s)] if slow_s else []
    at_s += dice.uniform(0.8, 1.6)
    found.append(Fault("isolate", at_s, dice.uniform(3.0, 4.5), -1, amount=dice.choice((0, 1, 1))))
    if dice.random() < 0.5:
        moment_s, spared = at_s + dice.uniform(0.0, 1.0), dice.choice((submitter, dice.randrange(nodes)))
        found += [Fault("crash", moment_s, dice.uniform(0.05, 0.2), node) for node in range(nodes) if node != spared]
    # Around the time at which the lease lapses at the electors, as closely as the round trips allow.
    moment_s = at_s + dice.uniform(1.8, 2.6)
    for _ in range(14):
        moment_s += dice.uniform(0.02, 0.12)
        found.append(Fault("campaign", moment_s, 0.0, dice.randrange(nodes)))
    return found
