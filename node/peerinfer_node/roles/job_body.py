"""What the tasks of a job consist of and where their results go, as the coordinator's role asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from peerinfer.assignment import JobEnded
from peerinfer.ids import PeerId
from peerinfer.messages import JobBrief
from peerinfer.tensors import Buffer, Port, TensorSpec
from peerinfer_node.roles.answers import Answer, Rows

if TYPE_CHECKING:
    from peerinfer_node.roles.evidence import Evidence


@dataclass(frozen=True, slots=True)
class FrameInputs:
    """Tensors of some tasks, joined along the first axis, ready to travel."""

    items: tuple[int, ...]
    tensors: tuple[TensorSpec, ...]
    body: Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit of one task found: whose answers are right (None: this node cannot tell), whose are wrong, and how."""

    right: tuple[PeerId, ...] | None
    wrong: tuple[PeerId, ...] = ()
    detail: str = ""
    imprecise: tuple[PeerId, ...] = ()
    """Who of those in `wrong` is only less precise."""


class JobBody(Protocol):
    """What the tasks of one job consist of and where their results go. The machine knows neither."""

    @property
    def brief(self) -> JobBrief: ...

    def may_act(self) -> bool:
        """False once somebody else may hold the job's lease: to be asked before every effect."""

    @property
    def outputs(self) -> dict[str, Port]:
        """The outputs wanted."""

    async def inputs(self, tasks: Sequence[int]) -> FrameInputs:
        """May raise `InputError` (a file that was there has gone)."""

    def inputs_nowait(self, tasks: Sequence[int]) -> FrameInputs | None:
        """The same where they are at hand; None where they must be waited for."""

    async def keep(self, answer: Answer, tasks: Sequence[int]) -> None:
        """Makes the results of these tasks durable. Raises `StateUnusable` when the disk is full."""

    def keep_nowait(self, answer: Answer, tasks: Sequence[int]) -> bool:
        """Does the same where nothing has to be durable; False where it must be waited for."""

    async def compare(self, answer: Answer, tasks: Sequence[int]) -> Mapping[int, tuple[PeerId, ...]]:
        """Keeps further answers to these tasks beside the first ones; returns which earlier answers say the same."""

    async def audit(
        self, asked: Mapping[int, tuple[PeerId, ...]], fresh: Mapping[int, tuple[PeerId, Rows]]
    ) -> Mapping[int, Verdict]:
        """Computes tasks here and compares with what these peers answered. `fresh`: answers that were just kept."""

    async def evidence(self, task: int, peer: PeerId) -> Evidence | None:
        """What shows others that this answer of the peer is wrong, if there is such a thing."""

    async def settle(self, peer: PeerId, tasks: Sequence[int], *, is_last: bool) -> None:
        """Writes results of `peer` into the journal; `TasksCommitted` is posted when a quorum has them.

        Where another peer answered first, the answer of `peer` takes its place.
        """

    async def void(self, tasks: Sequence[int]) -> None: ...

    def changed(self) -> None: ...

    async def failed(self, task: int, reason: str) -> None: ...

    async def ended(self, end: JobEnded) -> None: ...
