"""Whether somebody's term is a lease: checked with what it brings along, by nodes that have no seat in the committee."""

from __future__ import annotations

from collections.abc import Sequence

from peerinfer.committees import committees_of
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId
from peerinfer.lease_certificate import check_grants
from peerinfer.manifests import open_manifest
from peerinfer.messages import Manifest, Term


def check_lease(
    job: JobId, term: Term, signed_manifest: bytes, grants: Sequence[bytes], changes: Sequence[bytes] = ()
) -> Manifest:
    """The manifest. Raises `DecodeError` or `ProtocolError` unless it is the job's, and its committee granted the term.

    `changes`: of the committee, if it is not the manifest's any more.
    """
    opened, manifest = open_manifest(signed_manifest)
    if opened != job:
        raise ProtocolError("the manifest is another job's")
    seated = committees_of(job, manifest, changes)[0][-1]
    check_grants(seated.electors, manifest.byzantine, job, seated.epoch, term, grants)
    return manifest
