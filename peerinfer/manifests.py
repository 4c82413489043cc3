"""A job's manifest, opened and checked, and what follows from it for its elections."""

from __future__ import annotations

from peerinfer.codec import decode_as
from peerinfer.committee import check_committee
from peerinfer.envelope import unseal
from peerinfer.errors import ProtocolError
from peerinfer.ids import JobId, job_id_of
from peerinfer.lease_profile import SOLO, STATED, LeaseProfile
from peerinfer.limits import JOB_TASKS_MAX
from peerinfer.messages import Manifest, Signed
from peerinfer.splitting import Split


def open_manifest(signed: bytes) -> tuple[JobId, Manifest]:
    """The job's id and manifest. Raises `DecodeError` or `ProtocolError` unless the submitter signed a sound one."""
    author, manifest = unseal(Manifest, signed)
    if author != manifest.submitter:
        raise ProtocolError("the manifest is not signed by its submitter")
    check_committee(manifest.committee, manifest.byzantine)
    if manifest.items_per_task < 1 or manifest.tasks != Split(manifest.items, manifest.items_per_task).tasks:
        raise ProtocolError("the manifest's tasks are not those that its items make")
    if manifest.tasks > JOB_TASKS_MAX:
        raise ProtocolError(f"the manifest has {manifest.tasks} tasks; {JOB_TASKS_MAX} are possible")
    if manifest.lease_s not in STATED:
        raise ProtocolError(f"the manifest wants leases of {manifest.lease_s:g} s; {_lengths()} s are possible")
    return job_id_of(decode_as(Signed, signed).payload), manifest


def _lengths() -> str:
    return " or ".join(f"{lease_s:g}" for lease_s in STATED)


def profile_of(manifest: Manifest) -> LeaseProfile:
    """The times that all candidates of the job go by."""
    return SOLO if manifest.committee == (manifest.submitter,) else STATED[manifest.lease_s]
