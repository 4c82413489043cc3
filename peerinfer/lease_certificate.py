"""The certificate of a term: grants of a quorum of the job's committee, which anybody can check without asking anybody."""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer.committee import quorum
from peerinfer.envelope import unseal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.lease_messages import Grant
from peerinfer.messages import Term


def check_grants(
    committee: Sequence[str], byzantine: int, job: str, epoch: int, term: Term, grants: Sequence[bytes]
) -> None:
    """Raises `ProtocolError` unless a quorum of this committee granted the term."""
    granted: set[str] = set()
    for signed in grants:
        try:
            elector, grant = unseal(Grant, signed)
        except DecodeError as error:
            raise ProtocolError(f"a grant in a certificate is not valid: {error}") from None
        if (grant.job, grant.epoch, grant.term) != (job, epoch, term):
            raise ProtocolError("a grant in a certificate is for something else")
        if elector in committee:
            granted.add(elector)
    needed = quorum(len(committee), byzantine)
    if len(granted) < needed:
        raise ProtocolError(f"a certificate has {len(granted)} grants of the committee, {needed} are needed")
