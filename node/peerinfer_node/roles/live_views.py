"""What this node knows of a job that is not over, beyond its row: how far it is, who leads it, and what it waits for."""

from __future__ import annotations

from peerinfer.candidacy import Candidacy
from peerinfer.candidacy_events import CandidacyPicture
from peerinfer.control import Json
from peerinfer.ids import JobId
from peerinfer.journal import Chain
from peerinfer.splitting import Split
from peerinfer_node.ports import LocalClock
from peerinfer_node.roles.coordinator import CoordinatorRole
from peerinfer_node.roles.elections import Elections
from peerinfer_node.roles.job_views import totals, totals_in
from peerinfer_node.roles.live_job import LiveJob, led


class LiveViews:
    def __init__(self, *, elections: Elections, coordinator: CoordinatorRole, clock: LocalClock) -> None:
        self._elections = elections
        self._coordinator = coordinator
        self._clock = clock

    def known(self, live: LiveJob) -> Json:
        """What this node knows of a job beyond its row."""
        machine = self._elections.machine(live.job)
        split = Split(live.manifest.items, live.manifest.items_per_task)
        picture = self._coordinator.machine.picture(live.job) or live.picture
        chain = self._chain(live, machine)
        known: Json = totals(picture, split) if picture is not None else {}
        if picture is None or live.body is None:  # What was provisional may be gone; what is written is not.
            known |= totals_in(chain, split, picture)
        if machine is not None:
            known["committee"] = list(machine.committee)
            known["generation"] = machine.seated.generation
            known |= led(chain, live.manifest, live.history)
            if live.body is None:
                known["blocked"] = _missing(live, machine)
                known["missing"] = list(machine.snapshot().missing)
        known["elapsed_s"] = self.elapsed_s(live)
        known["survives"] = live.survives
        if live.priority is not None:
            known["priority"] = live.priority.word
        known["copied_bytes"], known["copies_bytes"] = live.copied_bytes, live.copies_bytes
        known["warnings"] = list(live.files.inputs.warnings) if live.files is not None else []
        if live.body is not None:
            known["warnings"] += [
                f"{elector} takes no copies of results: {reason}" for elector, reason in live.copies_refused.items()
            ]
        return known

    def elapsed_s(self, live: LiveJob, ended_at_s: float = 0.0) -> float:
        """Since it was submitted; up to its end, which its owner may read long after, if its journal says when it was."""
        passed_s, until_end_s = self._clock.now_s() - live.started_s, ended_at_s - live.manifest.created_at_s
        return round(min(passed_s, until_end_s) if until_end_s > 0 else passed_s, 3)

    def untold(self, live: LiveJob) -> str:
        """What is still to happen with a job that its owner has cancelled."""
        machine = self._elections.machine(live.job)
        missing = machine.snapshot().missing if machine is not None else ()
        if not missing:
            return "cancelled by its owner; its electors are being told"
        return f"cancelled by its owner; these electors hear of it when they are back: {', '.join(missing)}"

    def _chain(self, live: LiveJob, machine: Candidacy | None) -> Chain:
        """The journal as far as it is known here: the candidate's own, or what its node's elector was sent since."""
        sent = self._elections.elector.chain(live.job)
        if machine is None:
            return sent or Chain()
        if sent is None or (machine.chain.last_term.order, len(machine.chain)) >= (sent.last_term.order, len(sent)):
            return machine.chain
        return sent


def _missing(live: LiveJob, machine: Candidacy) -> str:
    """Why nobody coordinates, as far as this node can tell."""
    picture = machine.snapshot()
    waiting = picture.waiting or live.waiting
    if not picture.missing or not picture.waiting:
        return waiting
    told = f"{waiting}; not heard of lately: {', '.join(picture.missing)}"
    return f"{told}; {live.going_on or left_to_its_owner(live.job)}" if is_quorum_missing(machine, picture) else told


def is_quorum_missing(machine: Candidacy, picture: CandidacyPicture) -> bool:
    """Whether too few electors answer this node, as far as it knows."""
    return bool(picture.waiting) and len(machine.committee) - len(picture.missing) < machine.seated.quorum


def left_to_its_owner(job: JobId) -> str:
    return f"if they are gone for good, its owner can go on without them: peerinfer jobs rescue {job[:8]}"
