"""What verification is told and what it answers: the policy, its events and its effects. How it decides is in
`verification`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peerinfer.ids import PeerId
from peerinfer.reputation import NEWCOMER_AUDITS, SABOTEURS_PRIOR

BOUND_FACTOR = 0.65
"""The largest x^2 / (e^x - 1): a saboteur that picks the worst rate, and returns at once when it is caught."""

ANSWERS_MAX = 9
"""Answers to one task; if they still differ then, all of them are void."""

SPOT_SHARE = 0.05
"""Share of a known worker's tasks that is computed again under `spot`; of a stranger's, more."""


@dataclass(frozen=True, slots=True)
class Policy:
    kind: Literal["none", "spot", "quorum", "adaptive"] = "adaptive"
    copies: int = 2
    """K of `quorum`."""
    audit_share: float = 0.10
    """p: the chance that a trusted worker's result is computed again."""
    error_max: float = 1e-4
    """Share of wrong results that may become final; the window follows from it."""
    saboteurs: float = SABOTEURS_PRIOR
    """f: the share of hostile peers that is reckoned with."""
    own_device: bool = True
    """This node can compute the model itself: audits and disputes are its own affair."""
    insist: bool = False
    """At the end of a job, compute again whatever is in more doubt than `doubt_max`; else the level reached is stated."""
    doubt_max: float = 1e-3
    """Chance of an error with which a single result is taken at the end of a job that was too short for windows."""

    def __post_init__(self) -> None:
        if not 0 < self.audit_share <= 1 or not 0 < self.error_max <= 1 or not 0 < self.saboteurs < 1:
            raise ValueError(
                f"shares lie between 0 and 1: audits {self.audit_share}, errors {self.error_max}, "
                f"saboteurs {self.saboteurs}"
            )
        if not 1 <= self.copies <= ANSWERS_MAX:
            raise ValueError(f"a quorum has 1 to {ANSWERS_MAX} copies, not {self.copies}")

    @classmethod
    def named(cls, text: str) -> Policy:
        """The policy that `--verify` names: none, spot, quorum:K or adaptive. Raises ValueError for any other text."""
        kind, _, copies = text.partition(":")
        if kind == "quorum" and copies.isdecimal():
            return cls("quorum", copies=int(copies))
        if text == "none":
            return cls("none")
        if text == "spot":
            return cls("spot", audit_share=SPOT_SHARE)
        if text == "adaptive":
            return cls("adaptive", insist=True)
        raise ValueError(f"there is no verification policy {text[:40]!r}")

    @property
    def window(self) -> int:
        """W."""
        return max(1, math.ceil(BOUND_FACTOR * self.saboteurs / (self.audit_share * self.error_max)))

    @property
    def window_error(self) -> float:
        return BOUND_FACTOR * self.saboteurs / (self.audit_share * self.window)


# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerKnown:
    """A peer that may answer. `audits`: passed checks of earlier days, as reputation has them."""

    peer: PeerId
    groups: tuple[str, ...] = ()
    """Its public subnets: peers that share one count as one."""
    audits: float = 0.0
    probation: int = NEWCOMER_AUDITS
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """It answers no more. What it answered stays."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerCaught:
    """It was caught elsewhere, in another job."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class ResultsArrived:
    """First answers to these tasks, all from one peer."""

    peer: PeerId
    tasks: Sequence[int]


@dataclass(frozen=True, slots=True)
class CopyArrived:
    """One more peer answered the task."""

    task: int
    peer: PeerId
    agrees_with: tuple[PeerId, ...] = ()
    """Which of the peers that answered this task before gave the same."""


@dataclass(frozen=True, slots=True)
class AuditDone:
    """The own device computed the task, or could not."""

    task: int
    right: tuple[PeerId, ...] | None
    """Who of those that answered gave the same; None if it could not be computed."""
    wrong: tuple[PeerId, ...] | None = None
    """Who gave something else; None: everybody else. Whoever is in neither was not looked at."""
    detail: str = ""
    imprecise: tuple[PeerId, ...] = ()
    """Who of those in `wrong` is only too coarse."""


@dataclass(frozen=True, slots=True)
class CopyImpossible:
    """Nobody is there who may compute the copy that was wanted."""

    task: int


@dataclass(frozen=True, slots=True)
class Concluded:
    """Every task of the job has been answered, and no more will be added. Said again when what was void is answered."""


Ground = Literal["own", "audit", "window", "quorum", "credibility", "unchecked"]
"""Why a result is final: computed here, checked here, its window is clean, a quorum agrees, its supporters' record, or
nobody asked."""

Event = PeerKnown | PeerLeft | PeerCaught | ResultsArrived | CopyArrived | AuditDone | CopyImpossible | Concluded

# --- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WantCopy:
    """Give the task to one more peer, as if it were any other task."""

    task: int
    exclude: tuple[PeerId, ...]
    exclude_groups: tuple[str, ...]
    trusted: bool
    """Only to a peer with at least `NEWCOMER_AUDITS` passed checks."""


@dataclass(frozen=True, slots=True)
class WantAudit:
    """Compute the task on the own device, and compare with what each of these peers answered."""

    task: int
    peers: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Finalise:
    """What this peer answered to these tasks stands."""

    peer: PeerId
    tasks: tuple[int, ...]
    error: float
    """Chance that one of them is wrong, by what was checked; 0 where it was computed here."""
    ground: Ground
    first: PeerId
    """Whose answer came first: another one's, where that was found wrong."""


@dataclass(frozen=True, slots=True)
class Void:
    """These answers, of which this peer gave the first, are not believed; the tasks must be given out again."""

    first: PeerId
    tasks: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Unverified:
    """No evidence can be had of these results that would satisfy the policy: they must not count."""

    first: PeerId
    tasks: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    """Evidence for reputation: a result of the peer was checked, and right."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Caught:
    """Evidence for reputation: a result of the peer is wrong. Nothing more is accepted of it."""

    peer: PeerId
    task: int
    detail: str


@dataclass(frozen=True, slots=True)
class Mismatched:
    """The peer computes less precisely than the job asks for. Nothing more of it is accepted in this job."""

    peer: PeerId
    detail: str


Effect = WantCopy | WantAudit | Finalise | Void | Unverified | Passed | Caught | Mismatched
