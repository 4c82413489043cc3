"""Proofs that peers lied: made where one is caught, told to everybody, computed again by whoever has to do with the liar.

What a proof is, and why it cannot be used for slander, is in `peerinfer.fault_proofs`. Looking at one costs a download
and three runs of a model, so it is done seldom, for peers that matter here, the word of trusted peers first, and by nodes
that lend their devices: a model is a stranger's, and runs in the sandbox like that of any job. A node that only submits
relies on its own checks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from peerinfer.envelope import seal
from peerinfer.errors import DecodeError, PeerinferError
from peerinfer.evidence_messages import FaultProof
from peerinfer.fault_proofs import (
    PROOF_LASTS_S,
    Accusation,
    Case,
    check_proof,
    nudged,
    open_evidence,
    ruling,
)
from peerinfer.ids import Cid, PeerId
from peerinfer.limits import MIB
from peerinfer.messages import OutputGroup
from peerinfer_node.log import Log
from peerinfer_node.ports import Batch, BlobStore, Executor, Keys, LocalClock
from peerinfer_node.roles.answers import Rows, cut
from peerinfer_node.roles.evidence import Evidence
from peerinfer_node.roles.statements import StatementsRole
from peerinfer_node.roles.work_stream import read_blob

KIND = "fault"
OF_SIGNER_MAX = 4
"""Proofs of one signer that are held and passed on."""

OPEN_MAX = 256
"""Accusations that nobody here has looked at, one for each accused; the oldest goes."""

SETTLED_MAX = 1024
MADE_MAX = 16
"""Proofs whose evidence this node keeps for others: 128 MB at most, and the models."""

LOOK_EVERY_S = 20.0
"""So seldom an accusation is looked at."""

FAILURES_MAX = 3

RENEWED_EVERY_S = PROOF_LASTS_S - 3600.0
RENEWALS_MAX = 7
FETCH_TIMEOUT_S = 60.0
MODEL_JUDGED_BYTES_MAX = 256 * MIB
RUN_TIMEOUT_S = 20.0
_PINNED = "proofs"

Fetch = Callable[..., Awaitable[None]]


class ProvingRole:
    """`may_run` says why no stranger's model may run here now, or nothing; `matters` whether a peer has to do with this
    node; `trust` how much a peer's word counts; `caught` whether it needs no further proof; `convict` is told."""

    def __init__(
        self,
        *,
        statements: StatementsRole,
        blobs: BlobStore,
        fetch_blob: Fetch,
        executor: Executor,
        keys: Keys,
        clock: LocalClock,
        log: Log,
        may_run: Callable[[], str],
        matters: Callable[[PeerId], bool],
        trust: Callable[[PeerId], float],
        caught: Callable[[PeerId], bool],
        convict: Callable[[PeerId, str], None],
    ) -> None:
        self._statements = statements
        self._blobs = blobs
        self._fetch_blob = fetch_blob
        self._executor = executor
        self._keys = keys
        self._clock = clock
        self._log = log
        self._may_run, self._matters, self._trust = may_run, matters, trust
        self._caught, self._convict = caught, convict
        self._open: dict[PeerId, Accusation] = {}
        self._settled: dict[tuple[PeerId, bytes], None] = {}
        """Who said what: receipts that were looked at."""
        self._failed: dict[PeerId, int] = {}
        """How often the evidence of somebody could not be had."""
        self._slanderers: dict[PeerId, None] = {}
        self._found: list[Evidence] = []
        self._has_found = trio.Event()
        self._made: dict[PeerId, tuple[FaultProof, int]] = {}
        """By whom they are against; how often each was renewed."""
        statements.accept(KIND, self._take, of_signer_max=OF_SIGNER_MAX)

    # --- what others say ---------------------------------------------------------------------------------------------

    def _take(self, signed: bytes) -> float:
        accusation = check_proof(signed, self._clock.wall_s())
        proof = accusation.proof
        if proof.until_s <= self._clock.wall_s() or accusation.issuer in self._slanderers:
            return 0.0
        own = self._keys.peer_id
        if own in (accusation.accused, accusation.issuer) or (accusation.issuer, proof.receipt) in self._settled:
            return proof.until_s
        if accusation.accused not in self._open or self._weightier(accusation):
            self._open[accusation.accused] = accusation
            if len(self._open) > OPEN_MAX:
                del self._open[next(iter(self._open))]
        return proof.until_s

    def _weightier(self, accusation: Accusation) -> bool:
        return self._trust(accusation.issuer) > self._trust(self._open[accusation.accused].issuer)

    # --- what this node found ----------------------------------------------------------------------------------------

    def found(self, evidence: Evidence) -> None:
        """This node has caught somebody, and has it in writing."""
        if len(self._found) < MADE_MAX:
            self._found.append(evidence)
            self._has_found.set()

    async def run(self) -> None:
        await self._blobs.unpin(_PINNED)  # of a life before
        while True:
            with trio.move_on_after(LOOK_EVERY_S) as scope:
                await self._has_found.wait()
            if scope.cancelled_caught:
                await self.look()
            else:
                self._has_found = trio.Event()
                while self._found:
                    await self._make(self._found.pop(0))

    async def look(self) -> None:
        """Says again what would be forgotten, and looks at somebody else's proof."""
        self._renew()
        if not self._may_run():
            await self._look_at_one()

    async def _make(self, evidence: Evidence) -> None:
        """Says only what would convince this node itself."""
        now_s = self._clock.wall_s()
        cid = await self._blobs.put(evidence.packed)
        proof = FaultProof(now_s, now_s + PROOF_LASTS_S, evidence.receipt, evidence.task, cid, len(evidence.packed))
        accusation = check_proof(seal(proof, self._keys.peer_id, self._keys.sign), now_s)
        if accusation.accused in self._made or len(self._made) >= MADE_MAX:
            return
        try:
            case = open_evidence(evidence.packed, accusation)
            model = await self._blobs.read(Cid(evidence.model))
            problem = await self._judge(case, model, accusation)
        except (PeerinferError, KeyError) as error:
            self._log.info("no proof for others", peer=accusation.accused, reason=str(error))
            return
        if not problem:
            self._log.info("no proof for others", peer=accusation.accused, reason="the result may differ by device")
            return
        await self._blobs.pin(cid, _PINNED)
        await self._blobs.pin(Cid(evidence.model), _PINNED)
        self._made[accusation.accused] = (proof, 0)
        self._say(proof)
        self._log.info("proof told", peer=accusation.accused, task=evidence.task)

    def _renew(self) -> None:
        now_s = self._clock.wall_s()
        for accused, (proof, renewals) in list(self._made.items()):
            if renewals < RENEWALS_MAX and now_s >= proof.issued_at_s + RENEWED_EVERY_S:
                again = FaultProof(
                    now_s, now_s + PROOF_LASTS_S, proof.receipt, proof.task, proof.evidence, proof.evidence_bytes
                )
                self._made[accused] = (again, renewals + 1)
                self._say(again)

    def _say(self, proof: FaultProof) -> None:
        self._statements.spread(KIND, seal(proof, self._keys.peer_id, self._keys.sign), proof.until_s)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _look_at_one(self) -> None:
        now_s = self._clock.wall_s()
        self._open = {
            accused: each
            for accused, each in self._open.items()
            if each.proof.until_s > now_s and each.issuer not in self._slanderers and not self._caught(accused)
        }
        here = [each for accused, each in self._open.items() if self._matters(accused)]
        if not here:
            return
        accusation = max(here, key=lambda each: self._trust(each.issuer))
        who = {"peer": accusation.accused, "told_by": accusation.issuer}
        try:
            case, model = await self._evidence(accusation)
            problem = await self._judge(case, model, accusation)
        except DecodeError as error:
            self._slander(accusation.issuer)
            self._log.warning("a proof is none", **who, reason=str(error))
        except (PeerinferError, KeyError) as error:
            self._failed[accusation.issuer] = self._failed.get(accusation.issuer, 0) + 1
            self._log.info("a proof could not be looked at", **who, reason=str(error))
            if self._failed[accusation.issuer] < FAILURES_MAX:
                return  # it stays open
        else:
            if problem:
                detail = f"task {accusation.proof.task} of another node's job: {problem}"
                self._convict(
                    accusation.accused, f"{detail}; told by {accusation.issuer[-8:]}, and computed again here"
                )
                self._log.warning("a proof holds", **who, reason=problem)
            else:
                self._slander(accusation.issuer)
                self._log.warning("a proof does not hold", **who)
        self._failed.pop(accusation.issuer, None)
        self._open.pop(accusation.accused, None)
        self._settled[accusation.issuer, accusation.proof.receipt] = None
        if len(self._settled) > SETTLED_MAX:
            del self._settled[next(iter(self._settled))]

    def _slander(self, issuer: PeerId) -> None:
        self._slanderers[issuer] = None
        if len(self._slanderers) > SETTLED_MAX:
            del self._slanderers[next(iter(self._slanderers))]

    async def _evidence(self, accusation: Accusation) -> tuple[Case, bytes]:
        """Raises `DecodeError` if it is not what was signed, `PeerinferError` or KeyError if it cannot be had."""
        proof, issuer = accusation.proof, [accusation.issuer]
        packed = await self._fetched(Cid(proof.evidence), issuer, proof.evidence_bytes)
        case = open_evidence(packed, accusation)
        return case, await self._fetched(Cid(case.manifest.model), issuer, MODEL_JUDGED_BYTES_MAX)

    async def _fetched(self, cid: Cid, providers: Sequence[PeerId], bytes_max: int) -> bytes:
        with trio.move_on_after(FETCH_TIMEOUT_S) as scope:

            def watch(there: int, total: int) -> None:
                if total > bytes_max:
                    scope.cancel()

            await self._fetch_blob(cid, providers, watch)
        return await read_blob(self._blobs, cid, bytes_max=bytes_max, what="the evidence")

    async def _judge(self, case: Case, model: bytes, accusation: Accusation) -> str:
        """How the claim is wrong, or nothing."""
        cid = Cid(case.manifest.model)
        claimed = _rows_of(case.work.groups, case.outputs, case)
        if not await self._executor.holds(cid):
            await self._executor.load(cid, model)
        here, again = await self._run(case, case.inputs), await self._run(case, case.inputs)
        body = nudged(case, case.position)
        moved = await self._run(case, body) if body is not None else None
        if claimed is None or here is None or again is None or (body is not None and moved is None):
            return ""
        return ruling(claimed, here, again, moved)

    async def _run(self, case: Case, body: bytes) -> Rows | None:
        batch = Batch(case.work.items, case.work.tensors, [body], case.binding.merge, ())
        result = await self._executor.run(Cid(case.manifest.model), batch, RUN_TIMEOUT_S)
        for group in result.groups:
            rows = _rows_of([OutputGroup(group.positions, group.tensors)], bytes(group.body), case)
            if rows is not None:
                return rows
        return None


def _rows_of(groups: Sequence[OutputGroup], body: bytes, case: Case) -> Rows | None:
    """The outputs of the task that the case is about."""
    start = 0
    for group in groups:
        first = 0
        for position in group.positions:
            items = case.work.items[position] if position < len(case.work.items) else 0
            if position == case.position:
                return cut(group.tensors, body, start, first, items)
            first += items
        start += sum(spec.size_bytes for spec in group.tensors)
    return None
