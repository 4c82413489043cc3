"""Proofs that peers lied: made where one is caught, told to everybody, computed again by whoever has to do with the liar.

What a proof is, and why it cannot be used for slander, is in `peerinfer.fault_proofs`. Looking at one costs a download
and three runs of a model, so it is done seldom (`peerinfer.accusations` says when, and at which), and by nodes that lend
their devices: a model is a stranger's, and runs in the sandbox like that of any job. A node that only submits
relies on its own checks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import trio

from peerinfer.accusations import Accusations
from peerinfer.envelope import seal
from peerinfer.errors import DecodeError, PeerinferError
from peerinfer.evidence_messages import FaultProof
from peerinfer.fault_proofs import (
    KIND,
    LARGE_KIND,
    PROOF_LASTS_S,
    Accusation,
    Case,
    check_proof,
    deflated,
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

OF_SIGNER_MAX = 4
"""Proofs of one signer that are held and passed on."""

MADE_MAX = 16
MADE_BYTES_MAX = 128 * MIB
"""Proofs whose evidence this node keeps for others, and how much that may be beside the models."""

LOOK_EVERY_S = 20.0
"""So seldom an accusation is looked at."""

RENEWED_EVERY_S = PROOF_LASTS_S - 3600.0
RENEWALS_MAX = 7
FETCH_TIMEOUT_S = 60.0
MODEL_JUDGED_BYTES_MAX = 256 * MIB
RUN_TIMEOUT_S = 20.0
_PINNED = "proofs"
_MADE = "made "
"""Begins the note beside a proof of this node's own; after it, how often that was renewed."""

Fetch = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Made:
    """A proof of this node's own."""

    said: Accusation
    renewals: int


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
        self._may_run, self._convict = may_run, convict
        self._accusations = Accusations(keys.peer_id, matters=matters, trust=trust, caught=caught)
        self._fetched_bytes = 0
        """For the look that is taken now."""
        self._found: list[Evidence] = []
        self._has_found = trio.Event()
        self._made: dict[PeerId, _Made] = {}
        """By whom they are against."""
        statements.accept(KIND, self._take, of_signer_max=OF_SIGNER_MAX)
        statements.accept(LARGE_KIND, self._take_large, of_signer_max=OF_SIGNER_MAX)

    # --- what others say ---------------------------------------------------------------------------------------------

    def _take(self, signed: bytes, kind: str = KIND) -> float:
        wall_s = self._clock.wall_s()
        return self._accusations.take(check_proof(signed, wall_s, kind=kind), wall_s)

    def _take_large(self, signed: bytes) -> float:
        return self._take(signed, LARGE_KIND)

    # --- over restarts -----------------------------------------------------------------------------------------------

    def kept(self) -> list[tuple[str, bytes, str]]:
        """Kind, signed bytes and a note of what is worth writing down."""
        rows = [(each.kind, each.signed, note) for each, note in self._accusations.kept(self._clock.wall_s())]
        return rows + [(made.said.kind, made.said.signed, f"{_MADE}{made.renewals}") for made in self._made.values()]

    def recall(self, kind: str, signed: bytes, note: str) -> None:
        """Goes on with what was written down before this process began. Raises `DecodeError`."""
        said = check_proof(signed, self._clock.wall_s(), kind=kind)
        if said.issuer != self._keys.peer_id:
            self._accusations.recall(said, note)
        elif note.startswith(_MADE) and len(self._made) < MADE_MAX:
            self._made[said.accused] = _Made(said, int(note.removeprefix(_MADE)))

    async def _pin_made(self) -> None:
        """Proofs of a life before are told on as long as this node has what shows them."""
        await self._blobs.unpin(_PINNED)
        for accused, made in list(self._made.items()):
            cid = Cid(made.said.proof.evidence)
            try:
                case = open_evidence(await self._blobs.read(cid), made.said)
                await self._pin(cid, Cid(case.manifest.model))
            except (PeerinferError, KeyError) as error:
                del self._made[accused]
                self._log.info("a proof is not told any more", peer=accused, reason=str(error))

    async def _pin(self, *cids: Cid) -> None:
        """Raises KeyError if one of them is not here."""
        for cid in cids:
            if not await self._blobs.has(cid):
                raise KeyError(cid)
            await self._blobs.pin(cid, _PINNED)

    # --- what this node found ----------------------------------------------------------------------------------------

    def found(self, evidence: Evidence) -> None:
        """This node has caught somebody, and has it in writing."""
        if len(self._found) < MADE_MAX:
            self._found.append(evidence)
            self._has_found.set()

    async def run(self) -> None:
        await self._pin_made()
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
        receipt = deflated(evidence.receipt) if evidence.kind == LARGE_KIND else evidence.receipt
        proof = FaultProof(now_s, now_s + PROOF_LASTS_S, receipt, evidence.task, cid, len(evidence.packed))
        accusation = self._sealed(proof, evidence.kind)
        held = sum(made.said.proof.evidence_bytes for made in self._made.values())
        if (
            accusation.accused in self._made
            or len(self._made) >= MADE_MAX
            or held + len(evidence.packed) > MADE_BYTES_MAX
        ):
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
        try:
            await self._pin(cid, Cid(evidence.model))
        except KeyError:
            self._log.info("no proof for others", peer=accusation.accused, reason="its blobs are gone")
            return
        self._made[accusation.accused] = _Made(accusation, 0)
        self._say(accusation)
        self._log.info("proof told", peer=accusation.accused, task=evidence.task)

    def _renew(self) -> None:
        now_s = self._clock.wall_s()
        for accused, made in list(self._made.items()):
            proof = made.said.proof
            if made.renewals < RENEWALS_MAX and now_s >= proof.issued_at_s + RENEWED_EVERY_S:
                again = replace(proof, issued_at_s=now_s, until_s=now_s + PROOF_LASTS_S)
                self._made[accused] = _Made(self._sealed(again, made.said.kind), made.renewals + 1)
                self._say(self._made[accused].said)

    def _sealed(self, proof: FaultProof, kind: str) -> Accusation:
        return check_proof(seal(proof, self._keys.peer_id, self._keys.sign), proof.issued_at_s, kind=kind)

    def _say(self, said: Accusation) -> None:
        self._statements.spread(said.kind, said.signed, said.proof.until_s)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _look_at_one(self) -> None:
        accusation = self._accusations.next(self._clock.now_s(), self._clock.wall_s())
        if accusation is None:
            return
        who = {"peer": accusation.accused, "told_by": accusation.issuer}
        started_s, self._fetched_bytes = self._clock.now_s(), 0
        try:
            case, model = await self._evidence(accusation)
            problem = await self._judge(case, model, accusation)
        except DecodeError as error:
            self._accusations.settle(accusation, is_slander=True)
            self._log.warning("a proof is none", **who, reason=str(error))
        except (PeerinferError, KeyError) as error:
            self._accusations.missing(accusation, self._clock.now_s())
            self._log.info("a proof could not be looked at", **who, reason=str(error))
        else:
            self._accusations.settle(accusation, is_slander=not problem)
            if problem:
                detail = f"task {accusation.proof.task} of another node's job: {problem}"
                self._convict(
                    accusation.accused, f"{detail}; told by {accusation.issuer[-8:]}, and computed again here"
                )
                self._log.warning("a proof holds", **who, reason=problem)
            else:
                self._log.warning("a proof does not hold", **who)
        now_s = self._clock.now_s()
        self._accusations.spent(now_s - started_s, self._fetched_bytes, now_s)

    async def _evidence(self, accusation: Accusation) -> tuple[Case, bytes]:
        """Raises `DecodeError` if it is not what was signed, `PeerinferError` or KeyError if it cannot be had."""
        proof, issuer = accusation.proof, [accusation.issuer]
        packed = await self._fetched(Cid(proof.evidence), issuer, proof.evidence_bytes)
        case = open_evidence(packed, accusation)
        return case, await self._fetched(Cid(case.manifest.model), issuer, MODEL_JUDGED_BYTES_MAX)

    async def _fetched(self, cid: Cid, providers: Sequence[PeerId], bytes_max: int) -> bytes:
        is_here = await self._blobs.has(cid)
        with trio.move_on_after(FETCH_TIMEOUT_S) as scope:

            def watch(there: int, total: int) -> None:
                if total > bytes_max:
                    scope.cancel()

            await self._fetch_blob(cid, providers, watch)
        data = await read_blob(self._blobs, cid, bytes_max=bytes_max, what="the evidence")
        self._fetched_bytes += 0 if is_here else len(data)
        return data

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
