"""A job as the control API shows it."""

from __future__ import annotations

import json

from peerinfer.assignment import JobPicture
from peerinfer.committees import generation_of, number_of
from peerinfer.control import Json
from peerinfer.envelope import unseal
from peerinfer.ids import PeerId
from peerinfer.journal import Chain
from peerinfer.messages import Manifest, OutputRule, Term
from peerinfer.splitting import Split
from peerinfer.tensors import Port
from peerinfer_node.ports import JobRow
from peerinfer_node.record_rows import RecordRow

FAILED_SHOWN_MAX = 1000
"""Failed tasks that a job's JSON lists."""

EARLIER_TERM = "failed in an earlier term"
"""All that a journal tells of why a task failed."""

_BLANK: Json = {
    "accepted": 0,
    "final": 0,
    "failed": [],
    "failed_tasks": 0,
    "retried": 0,
    "hedged": 0,
    "audited": 0,
    "audits_failed": 0,
    "verification": {},
    "peers": [],
    "blocked": "",
    "open": 0,
    "assigned": 0,
    "reason": "",
    "kind": "",
    "warnings": [],
    "coordinator": "",
    "term": 0,
    "handovers": [],
    "elapsed_s": 0.0,
    "generation": 0,
    "missing": [],
    "survives": False,
    "copied_bytes": 0,
    "copies_bytes": 0,
    "results_gone": "",
}


def totals(picture: JobPicture, split: Split) -> Json:
    """The part of a job's JSON that its coordinator knows."""
    failed = [_failed(task, split, reason) for task, reason in sorted(picture.failed.items())[:FAILED_SHOWN_MAX]]
    return {
        "open": picture.open,
        "assigned": picture.assigned,
        "accepted": picture.provisional + picture.final,
        "final": picture.final,
        "failed": failed,
        "failed_tasks": len(picture.failed),
        "retried": picture.retried,
        "hedged": picture.hedged,
        "audited": picture.audited,
        "audits_failed": picture.audits_failed,
        "verification": verification(picture),
        "peers": [{"peer_id": peer, "tasks": tasks} for peer, tasks in picture.peers.items()],
        "blocked": picture.blocked,
    }


def totals_in(chain: Chain, split: Split, picture: JobPicture | None) -> Json:
    """The same by the journal, where nobody coordinates here or the job is over: what it names is accepted and final.

    `picture`, of a time at which this node coordinated, says more of why tasks failed than a journal does.
    """
    register = chain.register
    workers, failed = register.tally(FAILED_SHOWN_MAX)
    final = register.written - register.failed
    reasons = picture.failed if picture is not None else {}
    return {
        "open": split.tasks - register.written,
        "assigned": 0,
        "accepted": final,
        "final": final,
        "failed": [_failed(task, split, reasons.get(task, EARLIER_TERM)) for task in failed],
        "failed_tasks": register.failed,
        "verification": _verification_of(final, picture),
        "peers": [{"peer_id": peer, "tasks": tasks} for peer, tasks in workers.items()],
    }


def _verification_of(final: int, picture: JobPicture | None) -> Json:
    """A journal does not tell why a result is believed: nothing is known of what this node did not judge itself."""
    if picture is None:
        return {"tasks": 0, "unknown": final} if final else {}
    level = verification(picture)
    # What was judged and never came into the journal was computed again, for somebody else.
    judged = min(level["tasks"], max(picture.final - picture.earlier, 0), final)
    return {**level, "tasks": judged, "unknown": final - judged}


def _failed(task: int, split: Split, reason: str) -> Json:
    return {"task": task, "first_item": split.first_item(task), "items": split.items_of(task), "reason": reason}


def verification(picture: JobPicture) -> Json:
    """The level of verification that a job has reached, as far as its coordinator has judged it in this term."""
    bound = picture.error_bound
    return {
        "policy": picture.verify,
        "audits": picture.audited,
        "audits_failed": picture.audits_failed,
        "copies": picture.copied,
        "grounds": dict(picture.grounds),
        "error_bound": None if bound is None else float(f"{bound:.3g}"),
        "tasks": sum(picture.grounds.values()),
        "unknown": picture.earlier,
    }


_POLICY_CHARS_MAX = 32
"""As in a manifest."""

_LEVEL = ("policy", "audits", "audits_failed", "copies", "grounds", "error_bound", "tasks", "unknown")


def told_checks(told: Json) -> Json:
    """What another node says of a job's checks, if it has the form that this node would give it."""
    level = told.get("verification")
    if not isinstance(level, dict) or not all(_is_count(told.get(name)) for name in ("audited", "audits_failed")):
        return {}
    level = {name: level[name] for name in _LEVEL if name in level}
    policy = level.get("policy", "")
    counts = [level.get(name, 0) for name in ("audits", "audits_failed", "copies", "tasks", "unknown")]
    grounds, bound = level.get("grounds", {}), level.get("error_bound")
    if not isinstance(grounds, dict) or not all(_is_count(count) for count in (*counts, *grounds.values())):
        return {}
    if not isinstance(policy, str) or len(policy) > _POLICY_CHARS_MAX:
        return {}
    if bound is not None and not (type(bound) in (float, int) and 0 <= bound <= 1):
        return {}
    return {"audited": told["audited"], "audits_failed": told["audits_failed"], "verification": level}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def handovers(chain: Chain, created_at_s: float, last: Term) -> list[Json]:
    """Who coordinated, term by term, up to `last`."""
    found: list[Json] = []
    for term, batch in chain.handovers():
        if term.order > last.order:
            break
        at_s = batch.at_s or created_at_s
        generation = generation_of(term)
        first = "its owner's node went on with it under another committee" if generation else "submitted"
        why = first if batch.event == "accepted" else batch.detail or "the lease of the one before ran out"
        found.append(
            {
                "term": number_of(term),
                "generation": generation,
                "coordinator": term.candidate,
                "at": at_s,
                "why": why,
            }
        )
    return found


def job_json(row: JobRow, state: str, known: Json) -> Json:
    """A job's JSON: what its row says, and what is known beyond it."""
    _, manifest = unseal(Manifest, row.manifest)
    request = json.loads(row.request)
    own = "replica" not in request
    request = request if own else request["replica"].get("request", {})
    return {
        **_BLANK,
        "job_id": row.job,
        "own": own,
        "state": state,
        "submitter": manifest.submitter,
        "committee": list(manifest.committee),
        "lease_s": manifest.lease_s,
        "items": manifest.items,
        "tasks": manifest.tasks,
        "items_per_task": manifest.items_per_task,
        "model": request.get("model", manifest.model) if own else manifest.model,
        "inputs": _ports(manifest.inputs),
        "outputs": _ports(manifest.outputs),
        "verify": manifest.verify,
        "strategy": request.get("strategy", "adaptive"),
        "priority": request.get("priority", "normal"),
        "deadline_s": request.get("deadline_s"),
        "created": manifest.created_at_s,
        **known,
    }


def provenance_json(row: JobRow, shown: Json, receipts: list[RecordRow]) -> Json:
    """What a researcher cites: hashes, peers, how far results were checked, signed receipts."""
    submitter, manifest = unseal(Manifest, row.manifest)
    return {
        "job_id": row.job,
        "state": shown["state"],
        "submitter": submitter,
        "created": shown["created"],
        "model": {"cid": manifest.model, "sha256": manifest.model_sha256.hex()},
        "inputs": {
            "digest": manifest.inputs_digest.hex(),
            "items": manifest.items,
            "ports": [str(port) for port in manifest.inputs],
        },
        "outputs": [str(port) for port in manifest.outputs],
        "verification": {
            "policy": manifest.verify,
            "compare": manifest.compare,
            "rtol": manifest.rtol if manifest.rtol >= 0 else None,
            "atol": manifest.atol if manifest.atol >= 0 else None,
            "outputs": [_rule(rule) for rule in manifest.rules],
            "tasks_checked": shown["audited"],
            "checks_failed": shown["audits_failed"],
            "reached": shown["verification"],
        },
        "committee": shown["committee"],
        "handovers": shown["handovers"],
        "peers": shown["peers"],
        "manifest": row.manifest.hex(),
        "receipts": [
            {"peer": PeerId(receipt.peer), "frame": receipt.frame, "signed": receipt.receipt.hex()}
            for receipt in receipts
        ],
    }


def _rule(rule: OutputRule) -> Json:
    """Tolerances between devices of one class, and of different ones; null where they follow from the dtype."""

    def pair(rtol: float, atol: float) -> Json | None:
        return {"rtol": float(f"{rtol:.3g}"), "atol": float(f"{atol:.3g}")} if rtol >= 0 and atol >= 0 else None

    return {
        "name": rule.name,
        "compare": rule.compare,
        "same_class": pair(rule.rtol, rule.atol),
        "other_class": pair(rule.rtol_other, rule.atol_other),
    }


def _ports(ports: tuple[Port, ...]) -> list[Json]:
    return [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in ports]
