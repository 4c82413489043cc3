"""What the tests of lease and journal have in common: keys, manifests, grants and batches, signed for real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from peerinfer.blobs import chunks_of, index_of
from peerinfer.envelope import seal
from peerinfer.journal import Chain
from peerinfer.journal_rules import GENESIS
from peerinfer.lease_messages import (
    FAILED_TASK,
    Grant,
    JournalBatch,
)
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest, Term
from peerinfer_node.keys import MemoryKeys

LEASE_S = 3.0


@cache
def keys(number: int) -> MemoryKeys:
    return MemoryKeys(b"node %d" % number)


PEERS = [keys(number).peer_id for number in range(8)]


class Setting:
    """A job whose electors are nodes 0, 1, …; node `submitter` signed its manifest."""

    def __init__(self, electors: int = 3, byzantine: int = 0, submitter: int = 7, tasks: int = 100, nonce: int = 0):
        self.electors = electors
        self.signed = seal(
            Manifest(
                submitter=PEERS[submitter],
                created_at_s=0.0,
                nonce=nonce.to_bytes(16, "big"),
                model=index_of(chunks_of(b"y = 2 x + 1")).cid,  # what the worlds of `role_world` run
                model_sha256=bytes(32),
                inputs=(),
                outputs=(),
                given=(),
                items=tasks,
                tasks=tasks,
                items_per_task=1,
                inputs_digest=bytes(32),
                verify="none",
                compare="exact",
                rtol=-1.0,
                atol=-1.0,
                committee=tuple(PEERS[:electors]),
                byzantine=byzantine,
            ),
            PEERS[submitter],
            keys(submitter).sign,
        )
        self.job, self.manifest = open_manifest(self.signed)

    def grants(self, term: Term, electors: Sequence[int] | None = None, **changed: Any) -> tuple[bytes, ...]:
        grant = replace(Grant(self.job, 0, term, 1, LEASE_S), **changed)
        chosen = range(self.electors) if electors is None else electors
        return tuple(seal(grant, PEERS[number], keys(number).sign) for number in chosen)

    def batch(
        self,
        chain: Chain | None,
        term: Term,
        tasks: Sequence[int] = (),
        *,
        event: str = "",
        signer: int | None = None,
        digest: bytes = bytes(16),
        **changed: Any,
    ) -> bytes:
        """The batch that continues `chain`, as the candidate of `term` would sign it."""
        made = JournalBatch(
            job=self.job,
            epoch=0,
            term=term,
            sequence=len(chain) if chain is not None else 0,
            previous=chain.head if chain is not None else GENESIS,
            tasks=tuple(tasks),
            digests=digest * len(tasks),
            workers=tuple(0 if task % 5 else FAILED_TASK for task in tasks),
            peers=("worker",) if tasks else (),
            event=event,
            certificate=self.grants(term) if event in ("accepted", "takeover") else (),
        )
        number = PEERS.index(term.candidate) if signer is None else signer
        return seal(replace(made, **changed), PEERS[number], keys(number).sign)

    def written(self, *parts: tuple[Term, Sequence[Sequence[int]]]) -> Chain:
        """A chain: for each term its opening batch, and one batch for each group of tasks."""
        chain = Chain()
        for term, groups in parts:
            chain.take(self.batch(chain, term, event="takeover" if len(chain) else "accepted"))
            for tasks in groups:
                chain.take(self.batch(chain, term, tasks))
        return chain


def term(round_: int, candidate: int) -> Term:
    return Term(round_, PEERS[candidate])
