"""The committees of a job, epoch by epoch: each decides, signed and sealed, which one follows.

Theory of operation. The first committee is in the manifest. The holder of its lease proposes the next one as the last
entry of the epoch's journal. When a quorum holds that entry, each elector is asked to *seal* the epoch, which is one way:
it grants and accepts nothing in it any more. The change with the seals of a quorum is a record that anybody can check who
knows the committee before, so it needs no place of its own and no clock.

An elector of the new epoch does not know what leases still run. It takes from the seals the longest, and waits for it
from the moment at which it takes its seat. Only if *all* seals of the record name the same candidate may that one go on
at once: an elector that granted somebody else before has waited until that lease was over. Whom the change itself names
says nothing about it (that mistake was made, and found by a model checker). Terms go on above all that were promised.

Generations. A committee that has lost its quorum for good can seal nothing. Then the job's owner, whose signature made the
first committee, names one anew: a `Generation`, which needs nobody's seal. It begins with an empty journal, its epochs and
its terms lie above all of the generation before, and whoever has seen it serves no older one again. The old committee may
come back and not have seen it: what it accepts then is accepted in a generation that is over, and counts nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peerinfer.codec import decode, decode_as
from peerinfer.committee import check_committee, quorum
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.ids import JobId, PeerId
from peerinfer.lease_messages import CommitteeChange, Generation, JournalBatch, SealStatement
from peerinfer.limits import EPOCHS_MAX, GENERATION_ROUNDS, GENERATIONS_MAX
from peerinfer.messages import Manifest, Signed, Term

COMMITTEE = "committee"
"""Event of the batch that names the next committee."""

SEAL_ROUNDS_MAX = 1 << 20
"""A seal that promises more rounds above the change than this is a liar's, and is left out."""


@dataclass(frozen=True, slots=True)
class Seated:
    """The committee of one epoch."""

    epoch: int
    """Counted on through all generations: each has room for `EPOCHS_MAX`."""
    electors: tuple[str, ...]
    byzantine: int
    before: tuple[str, ...] = ()
    """With the first of a later generation: who elected in those that are over."""

    @property
    def generation(self) -> int:
        return self.epoch // EPOCHS_MAX

    @property
    def quorum(self) -> int:
        return quorum(len(self.electors), self.byzantine)

    @property
    def replaced_max(self) -> int:
        """So many may change at once: those who stay are a quorum that holds the journal."""
        return max(self.byzantine, 1)


@dataclass(frozen=True, slots=True)
class Start:
    """What an elector of a new epoch begins with."""

    granted: Term
    """Nobody but its candidate is served for `lease_s`; candidate "": nobody is."""
    lease_s: float
    batches: int
    """The journal up to the change, it included."""
    head: bytes


def first_committee(manifest: Manifest) -> Seated:
    return Seated(0, manifest.committee, manifest.byzantine)


def check_next(before: Seated, committee: Sequence[str]) -> None:
    """Raises `ProtocolError` unless this committee may follow."""
    check_committee(committee, before.byzantine)
    if len(committee) != len(before.electors):
        raise ProtocolError(f"a committee of {len(before.electors)} cannot become one of {len(committee)}")
    fresh = [elector for elector in committee if elector not in before.electors]
    if not 1 <= len(fresh) <= before.replaced_max:
        raise ProtocolError(f"{len(fresh)} electors are replaced at once; 1 to {before.replaced_max} may be")
    if (before.epoch + 1) // EPOCHS_MAX > before.generation:
        raise ProtocolError(f"a job has {EPOCHS_MAX} committees at most; submit it again")


def open_change(job: JobId, before: Seated, signed: bytes) -> tuple[bytes, JournalBatch]:
    """The hash of the change, and the change. Raises `DecodeError` or `ProtocolError` unless it may follow `before`."""
    author, batch = unseal(JournalBatch, signed)
    if author != batch.term.candidate or batch.event != COMMITTEE:
        raise ProtocolError("this is no change of a committee, or another than its term's candidate signed it")
    if batch.job != job or batch.epoch != before.epoch:
        raise ProtocolError("the change is of another job or another epoch")
    check_next(before, batch.committee)
    return hashlib.sha256(decode_as(Signed, signed).payload).digest(), batch


def open_statements(
    job: JobId, seated: Seated, change: bytes, round_: int, signed: Iterable[bytes]
) -> dict[str, tuple[SealStatement, bytes]]:
    """The sound ones for the change of this hash and of a term of this round, by elector."""
    found: dict[str, tuple[SealStatement, bytes]] = {}
    for one in signed:
        try:
            elector, statement = unseal(SealStatement, one)
        except DecodeError:
            continue
        is_ours = (statement.job, statement.epoch, statement.change) == (job, seated.epoch, change)
        if is_ours and elector in seated.electors and statement.promised.round <= round_ + SEAL_ROUNDS_MAX:
            found[elector] = statement, one
    return found


def follow(job: JobId, before: Seated, record: bytes) -> tuple[Seated, Start]:
    """The committee after `before`. Raises `DecodeError` or `ProtocolError` unless a quorum of `before` sealed for it."""
    opened = decode_as(CommitteeChange, record)
    head, batch = open_change(job, before, opened.change)
    seals = open_statements(job, before, head, batch.term.round, opened.seals)
    if len(seals) < before.quorum:
        raise ProtocolError(f"a change of the committee has {len(seals)} seals, {before.quorum} are needed")
    statements = [statement for statement, _ in seals.values()]
    granted, lease_s = start_of(batch, statements)
    after = Seated(before.epoch + 1, batch.committee, before.byzantine)
    return after, Start(granted, lease_s, batch.sequence + 1, head)


def follow_all(
    job: JobId, manifest: Manifest, before: Sequence[Seated], records: Sequence[bytes]
) -> tuple[list[Seated], Start | None, int]:
    """The committees after those of `before`, as far as the records lead; how the last one's epoch began; how many led on.

    The records may begin anywhere; those of an older generation, and what does not follow, lead nowhere.
    """
    found, start, used = list(before), None, 0
    for record in records:
        try:
            if is_generation(record):
                seated, begun = open_generation(job, manifest, record)
                if seated.generation <= found[-1].generation:
                    break
                found = [seated]
            else:
                seated, begun = follow(job, found[-1], record)
                found.append(seated)
        except ProtocolError:
            break
        start = begun
        used += 1
    return found, start, used


def is_generation(record: bytes) -> bool:
    """Whether it claims to be one. Raises `DecodeError`."""
    return isinstance(decode(record), Signed)


def open_generation(job: JobId, manifest: Manifest, record: bytes) -> tuple[Seated, Start]:
    """The first committee of a later generation. Raises `DecodeError` or `ProtocolError` unless the owner named it."""
    _, named = unseal(Generation, record, signer=PeerId(manifest.submitter))
    if named.job != job:
        raise ProtocolError("the generation is another job's")
    if not 1 <= named.generation <= GENERATIONS_MAX:
        raise ProtocolError(f"generation {named.generation}; a job has {GENERATIONS_MAX} beside the first")
    check_committee(named.committee, manifest.byzantine)
    epoch = named.generation * EPOCHS_MAX
    seated = Seated(epoch, named.committee, manifest.byzantine, named.before)
    return seated, Start(lowest_term(named.generation), 0.0, 0, bytes(32))


def lowest_term(generation: int) -> Term:
    """Below every candidate's term of this generation, and above every one of the generations before."""
    return Term(generation * GENERATION_ROUNDS, "")


def number_of(term: Term) -> int:
    """As people count: the first term of every generation is near 1, whatever its round."""
    return term.round % GENERATION_ROUNDS


def generation_of(term: Term) -> int:
    """0 before the first rescue."""
    return term.round // GENERATION_ROUNDS


def highest_round(generation: int) -> int:
    return (generation + 1) * GENERATION_ROUNDS - 1


def start_of(change: JournalBatch, statements: Sequence[SealStatement]) -> tuple[Term, float]:
    """Whom the electors of the new epoch serve first, and for how long nobody else. `change` has no say in it."""
    round_ = max(statement.promised.round for statement in statements) + 1
    holders = {statement.granted.candidate for statement in statements}
    holder = holders.pop() if len(holders) == 1 else ""
    return Term(round_, holder), max(statement.lease_s for statement in statements)


def committees_of(job: JobId, manifest: Manifest, changes: Sequence[bytes]) -> tuple[list[Seated], Start | None]:
    """Every committee of the job's newest generation, and how the last of its epochs began. Raises as `follow`."""
    seated, start = [first_committee(manifest)], None
    for place, record in enumerate(changes):
        if place == 0 and is_generation(record):
            first, start = open_generation(job, manifest, record)
            seated = [first]
        else:
            after, start = follow(job, seated[-1], record)
            seated.append(after)
    return seated, start


def records_after(committees: Sequence[Seated], changes: Sequence[bytes], epoch: int) -> tuple[bytes, ...]:
    """What leads from this epoch to the newest. `changes` led to these committees, all of one generation."""
    first = committees[0].epoch
    if epoch < first:
        return tuple(changes)
    return tuple(changes[epoch - first + (first > 0) :])


def candidates_in(manifest: Manifest, seated: Seated) -> tuple[str, ...]:
    """Who may coordinate in this epoch, in order of rank."""
    return tuple(dict.fromkeys((manifest.submitter, *seated.electors)))
