"""What things are called on the screen, and the figures that follow from a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping

from peerinfer_tui.figures import UNKNOWN
from peerinfer_tui.pictures import JobPicture, Snapshot

PRIORITIES = ("urgent", "high", "normal", "low")
JOB_ENDED = ("done", "failed", "cancelled")

_ID = re.compile(r"12D3KooW[0-9A-Za-z]{44}|(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


def short_id(peer_id: str) -> str:
    """The end of a peer id, where ids differ: all Ed25519 ids begin alike."""
    return f"…{peer_id[-8:]}" if len(peer_id) > 10 else peer_id or UNKNOWN


def short_job(job_id: str) -> str:
    return job_id[:8] or UNKNOWN


def short_address(address: str) -> str:
    """Without the peer id, which stands elsewhere."""
    return address.split("/p2p/12D3", 1)[0] if address.count("/p2p/") == 1 else address


def provider_name(provider: str) -> str:
    """ONNX Runtime's providers without the words that all of them share."""
    return provider.removesuffix("ExecutionProvider") or UNKNOWN


def model_name(model: str) -> str:
    """The file's name, or the beginning of a hash."""
    name = model.rsplit("/", 1)[-1]
    return name if "." in name or len(name) <= 20 else f"{name[:12]}…"


def names_in(snapshot: Snapshot) -> dict[str, str]:
    """What to call each peer: this node, its name, or the end of its id (for those that are not in it)."""
    names = {peer.peer_id: peer.name for peer in snapshot.peers if peer.name}
    if snapshot.node.peer_id:
        names[snapshot.node.peer_id] = "this node"
    return names


def peer_name(names: Mapping[str, str], peer_id: str) -> str:
    return names.get(peer_id) or short_id(peer_id)


def spoken(text: str, names: Mapping[str, str]) -> str:
    """What a daemon said, with its peers by their names and its jobs by the beginnings of their ids."""
    return _ID.sub(lambda found: peer_name(names, found[0]) if found[0][0:4] == "12D3" else short_job(found[0]), text)


def progress(job: JobPicture) -> float:
    if job.state == "done":
        return 1.0
    # Who does not coordinate knows from the journal alone what is final.
    return min(1.0, max(job.accepted, job.final) / job.tasks) if job.tasks else 0.0


def items_accepted(job: JobPicture) -> float:
    return job.items * progress(job)


def rate(job: JobPicture) -> float | None:
    """Items per second: the daemon's figure, else the mean since the job began."""
    if job.items_per_second is not None:
        return job.items_per_second
    if not job.elapsed_s or job.elapsed_s <= 0:
        return None
    return items_accepted(job) / job.elapsed_s


def remaining_s(job: JobPicture) -> float | None:
    speed = rate(job)
    if job.state != "running" or not speed:
        return None
    return job.items * (1 - progress(job)) / speed
