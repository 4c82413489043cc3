"""Scenarios as data: what a world consists of, what befalls it, and what is expected in the end.

A scenario is a TOML file. Everything uncertain in it is a range or a spread; a seed turns it into one world.
"""

from __future__ import annotations

import math
import random
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from peerinfer.errors import UsageError
from peerinfer_sim.internet import LinkProfile

FOLDER = Path(__file__).resolve().parent.parent / "scenarios"
FAULT_KINDS = ("crash", "power-cut", "cut", "break", "delay", "full-disk")
COORDINATOR = "coordinator"
"""As a fault's group: whichever node coordinates the job when the fault strikes."""

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind. They are named after the group: volunteer-0, volunteer-1, …"""

    name: str
    count: int = 1
    lends: bool = True
    daemon: bool = False
    """Goes on after its jobs, and is an elector of others'."""
    drift_max: float = 0.0
    """Its clock runs fast or slow by up to this share."""
    items_per_s: float = 100.0
    """Median of what a device computes."""
    speed_spread: float = 0.5
    """Sigma of its logarithm."""
    load_s: float = 0.2
    """To load a model."""
    lies: float = 0.0
    """Chance of each task's result to be a lie."""
    fails: float = 0.0
    """Chance of each task to be answered with a failure."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the submitter asks for."""

    items: int
    items_per_task: int = 1
    verify: str = "spot"
    detach: bool = False
    """Handed over to a committee. The submitter then comes back for the results, if a fault has taken it."""
    submit_at_s: float = 3.0
    ends_within_s: float = 300.0
    """Of virtual time after it was submitted; otherwise the run fails."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Some faults of one kind, each at a moment of its own."""

    kind: str
    group: str
    count: int
    between_s: tuple[float, float]
    """After the job was submitted."""
    lasts_s: float = 0.0
    """Of a cut, a delay or a full disk; afterwards all is well again. A node that crashed starts again after it, or
    never if it is 0."""
    lost_s: float = 0.0
    """Of a power cut: what `state.db` was told in these last seconds is gone."""
    one_way: bool = False
    """A cut that only what the node sends does not pass."""
    extra_s: float = 0.0
    """Of a delay, each way."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that will happen."""

    at_s: float
    node: str
    plan: FaultPlan


@dataclass(frozen=True, slots=True)
class Scenario:
    """One world, up to its seed. The first node of the first group submits the job."""

    name: str
    about: str
    floor: Literal["whole", "discrete"]
    groups: tuple[NodeGroup, ...]
    job: Job
    links: LinkProfile = field(default_factory=LinkProfile)
    discovery: str = "bootstrap"
    """How nodes find each other: "bootstrap" (all know the submitter's address) or "lan" (they hear each other)."""
    starts_within_s: float = 1.0
    check_every: int = 1
    """Steps between two checks of a machine's invariants."""
    faults: tuple[FaultPlan, ...] = ()

    def draw_faults(self, rng: random.Random) -> list[Fault]:
        """The faults of one run, in the order in which they happen."""
        drawn = []
        for plan in self.faults:
            if plan.group == COORDINATOR:
                drawn += [Fault(rng.uniform(*plan.between_s), COORDINATOR, plan) for _ in range(plan.count)]
                continue
            group = next(group for group in self.groups if group.name == plan.group)
            for number in rng.sample(range(group.count), plan.count):
                drawn.append(Fault(rng.uniform(*plan.between_s), f"{group.name}-{number}", plan))
        return sorted(drawn, key=lambda fault: fault.at_s)

    def smaller(self, *, nodes: int | None = None, items: int | None = None) -> Scenario:
        """The same with at most so many nodes in each group, as many faults for each of them, and so many items."""
        groups = tuple(replace(group, count=min(group.count, nodes or group.count)) for group in self.groups)
        shares = {now.name: now.count / before.count for now, before in zip(groups, self.groups, strict=True)}
        shares[COORDINATOR] = 1.0
        faults = tuple(replace(plan, count=math.ceil(plan.count * shares[plan.group])) for plan in self.faults)
        job = replace(self.job, items=min(self.job.items, items or self.job.items))
        return replace(self, groups=groups, faults=faults, job=job)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Scenario:
    """A scenario by its name, or by the path of a file. Raises `UsageError` if there is none, or it says nonsense."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"there is no scenario {name}; there are {', '.join(names())}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    try:
        return _scenario(path.stem, raw)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: {error}") from None


def _scenario(name: str, raw: dict[str, Any]) -> Scenario:
    groups = tuple(_build(NodeGroup, group) for group in raw.pop("nodes"))
    faults = tuple(_build(FaultPlan, fault) for fault in raw.pop("faults", ()))
    job = _build(Job, raw.pop("job"))
    links = _build(LinkProfile, raw.pop("links", {}))
    built = _build(Scenario, {**raw, "name": name, "groups": groups, "faults": faults, "job": job, "links": links})
    counts = {group.name: group.count for group in groups}
    _check(len(counts) == len(groups), "two groups have one name")
    _check(COORDINATOR not in counts or built.floor == "discrete", f"{COORDINATOR!r} is whoever coordinates, no group")
    _check(built.floor in ("whole", "discrete"), f"there is no floor {built.floor!r}")
    _check(built.discovery in ("bootstrap", "lan"), f"there is no discovery {built.discovery!r}")
    for plan in faults:
        _check(plan.kind in FAULT_KINDS, f"there is no fault {plan.kind!r}")
        if plan.group == COORDINATOR:
            _check(job.detach, f"a {plan.kind} of the coordinator needs a job with detach = true")
            _check(plan.lasts_s > 0, f"a {plan.kind} of the coordinator must pass: give lasts_s")
            continue
        _check(plan.count <= counts.get(plan.group, 0), f"{plan.count} faults in group {plan.group!r} are too many")
        survives = job.detach and plan.lasts_s > 0
        _check(plan.group != groups[0].name or survives, "the submitter comes back from detached jobs' faults only")
    return built


def _build(cls: type[S], raw: dict[str, Any]) -> S:
    known = {known.name for known in fields(cls)}  # type: ignore[arg-type]
    for name in raw:
        _check(name in known, f"{cls.__name__} has no {name!r}; it has {', '.join(sorted(known))}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()})


def _check(good: bool, problem: str) -> None:
    if not good:
        raise ValueError(problem)
