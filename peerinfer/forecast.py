"""Before a job begins: who could work for it, why the others could not, and how long it would take.

The time is when all tasks are done if they are shared out by speed (`placement_fill`), inputs on their way counted in;
before that come reading and cutting the inputs, and the job's election; after it the last results are checked, written
down by its electors and brought home. Speeds are those that were learned with the model, else the job's own guess scaled
by benchmarks. The interval is meant to hold in four cases of five: mistakes about single peers even out, a mistake of the
guess hits all of them alike. How far the other programs of those machines are in the way nobody knows beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from peerinfer.assignment import JobSpec, WorkerOffer
from peerinfer.estimates import SPREAD_FEW, SPREAD_UNKNOWN, Estimates
from peerinfer.ids import PeerId
from peerinfer.placement_fill import fill
from peerinfer.placement_table import CandidateTable
from peerinfer.track_record import BYTES_PER_S_PRIOR
from peerinfer.verification_events import Policy
from peerinfer.workforce import candidate_of, demand_of

INTERVAL_SIGMAS = 1.28
"""Eight parts in ten of a normal distribution lie within so many standard deviations."""


BEGIN_S = 0.1
"""From the last check of the inputs to the first frame: an election, and a hello."""

END_S = 0.2
"""From the last result to the end of the job as its submitter sees it: records that travel together, and their receipt."""

AROUND_FACTOR = 3.0
"""What comes before and after is as uncertain as that: disks, electors, and whoever else is at work there."""


@dataclass(frozen=True, slots=True)
class Forecast:
    eligible: tuple[PeerId, ...]
    excluded: dict[str, tuple[PeerId, ...]]
    """Who is ruled out, by the requirement, the most frequent one first."""
    expected_s: float | None
    """Until everything is computed; None where nobody could."""
    low_s: float | None
    high_s: float | None
    measured: int
    """Peers whose speed with this model is known."""


def forecast(
    spec: JobSpec,
    offers: Mapping[PeerId, WorkerOffer],
    estimates: Estimates,
    *,
    bytes_per_s: Callable[[PeerId], float] = lambda peer: BYTES_PER_S_PRIOR,
    prepare_s: float = 0.0,
) -> Forecast:
    """`spec.seconds_per_item` is what a local worker of `offers` needs, or a mere guess where there is none.

    `prepare_s` is what reading and checking model and inputs took.
    """
    table, demand = CandidateTable(), demand_of(spec)
    for peer, offer in offers.items():
        table.add(candidate_of(peer, offer, bytes_per_s=math.inf if offer.local else bytes_per_s(peer)))
    excluded = {reason: tuple(peers) for reason, peers in table.exclusions(demand).items()}
    eligible = tuple(peer for peer in offers if table.why_not(demand, peer) is None)
    if not eligible:
        return Forecast((), excluded, None, None, None, 0)
    own_speed = max((offer.speed for offer in offers.values() if offer.local), default=0.0)
    seconds, ready, alone, shared = [], [], 0.0, 0.0
    measured, rate = 0, 0.0
    for peer in eligible:
        offer, row = offers[peer], table.row_of(peer)
        known = estimates.known(peer, spec.model)
        scale = own_speed / offer.speed if own_speed > 0 and offer.speed > 0 else 1.0
        estimate = estimates.estimate(peer, spec.model, max(spec.seconds_per_item * scale, 1e-9))
        per_task_s = estimate.seconds * spec.items_per_task
        travels_s = 0.0 if offer.local else spec.bytes_per_task / bytes_per_s(peer)
        seconds.append(max(per_task_s, travels_s))  # inputs travel while others are computed
        ready.append(table.rtt_s.item(row) + (0.0 if offer.local or known else table.load_seconds(demand, row)))
        rate += 1 / per_task_s
        measured += known
        if known:
            alone += (estimate.sigma / math.sqrt(estimate.samples + 1) / per_task_s) ** 2
        elif not offer.local:
            shared += (SPREAD_FEW if scale != 1.0 else SPREAD_UNKNOWN) / per_task_s
    policy = Policy.named(spec.verify)
    _, work_s = fill(np.array(seconds), np.array(ready), math.ceil(max(spec.tasks, 1) * _executions(policy)))
    spread = math.hypot(math.sqrt(alone) / rate, shared / rate, _SPREAD_OF_TASKS)
    factor = math.exp(INTERVAL_SIGMAS * spread)
    around_s = prepare_s + BEGIN_S + END_S
    return Forecast(
        eligible,
        excluded,
        work_s + around_s,
        work_s / factor + around_s / AROUND_FACTOR,
        work_s * factor + around_s * AROUND_FACTOR,
        measured,
    )


def _executions(policy: Policy) -> float:
    """How often a task is computed, on the whole. Of strangers more is checked, which is within the spread."""
    if policy.kind == "none":
        return 1.0
    return float(policy.copies) if policy.kind == "quorum" else 1.0 + policy.audit_share


_SPREAD_OF_TASKS = 0.2
"""Even where everything is known, machines do other things too."""
