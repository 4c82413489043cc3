"""What this node computed for others, and a statement of it that can be carried about.

The node counts its own work, and nobody need believe the count: a statement says who made it and that nobody has altered
it since. Beside it stand *confirmations*: attestations of the nodes that received the work and had it checked, each signed
by its own author. Whoever reads them must still ask who these authors are. It is for pride: nothing in here may ever be
used to trust anybody.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peerinfer.codec import message, uint, wire
from peerinfer.codec import number as finite
from peerinfer.control import Json
from peerinfer.cost import format_flops
from peerinfer.envelope import Sign, seal, unseal
from peerinfer.errors import DecodeError, InputError
from peerinfer.evidence_messages import Attestation
from peerinfer.ids import PeerId
from peerinfer.units import format_count, format_duration
from peerinfer.vouching import check_attestation

if TYPE_CHECKING:
    from peerinfer.cost import Given

FORMAT = "peerinfer/contribution/1"
CONFIRMATIONS_MAX = 64
"""That one statement brings, or that are shown: each takes 4 kB as text."""

STATEMENT_CHARS_MAX = 1 << 20


@message(44)
class Contribution:
    """What a node says that it computed for others."""

    since_s: float = wire(finite)
    """Wall clock when it began to count."""
    until_s: float = wire(finite)
    """Wall clock when it said so."""
    tasks: int = wire(uint(63))
    items: int = wire(uint(63))
    compute_s: float = wire(finite)
    energy_j: float = wire(finite)
    flops: float = wire(finite, default=0.0)
    """Operations, as the graphs of the models say."""

    def plus(self, given: Given) -> Contribution:
        return replace(
            self,
            tasks=self.tasks + given.tasks,
            items=self.items + given.items,
            compute_s=self.compute_s + given.compute_s,
            energy_j=self.energy_j + given.energy_j,
            flops=self.flops + given.flops,
        )

    def shown(self) -> Json:
        return {
            "since": round(self.since_s, 3),
            "until": round(self.until_s, 3),
            "tasks": self.tasks,
            "items": self.items,
            "compute_s": round(self.compute_s, 3),
            "energy_j": round(self.energy_j, 3),
            "flops": round(self.flops),
        }


def contribution_words(shown: Json) -> str:
    """In one line. What a device without a meter took is not known, and not said."""
    energy = float(shown["energy_j"])
    work = f", {format_flops(float(shown['flops']))}" if shown.get("flops") else ""
    taken = f", {energy / 3600:.3g} Wh where devices tell their power" if energy > 0 else ""
    done = f"{format_count(shown['tasks'], 'task')}, {format_count(shown['items'], 'item')}"
    return f"{done} for others in {format_duration(shown['compute_s'])} of computing{work}{taken}"


def confirmed_words(shown: Json) -> str:
    """How much of it others confirm, or nothing."""
    count = shown.get("confirmed_by") or 0
    flops = format_flops(float(shown.get("confirmed_flops") or 0))
    return f"{flops} of it, by checks of {format_count(count, 'other node')}" if count else ""


def from_shown(shown: Json) -> Contribution:
    """Raises `InputError`."""
    try:
        found = Contribution(
            float(shown["since"]),
            float(shown["until"]),
            int(shown["tasks"]),
            int(shown["items"]),
            float(shown["compute_s"]),
            float(shown["energy_j"]),
            float(shown.get("flops") or 0.0),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError("the daemon does not say what it contributed; is it of an older version?") from None
    check_sense(found)
    return found


def check_sense(found: Contribution) -> None:
    """Raises `InputError` if no node can have counted this."""
    numbers = (
        found.since_s,
        found.until_s,
        found.tasks,
        found.items,
        found.compute_s,
        found.energy_j,
        found.flops,
    )
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or found.since_s > found.until_s:
        raise InputError("the statement holds figures that cannot be; ask its author for another one")


def statement_of(found: Contribution, peer: PeerId, sign: Sign, confirmations: Sequence[str] = ()) -> str:
    """The text of a file: what is signed, and the same to read; `confirmations` are signed attestations, in hexadecimal."""
    content = {
        "format": FORMAT,
        "peer_id": peer,
        "contribution": found.shown(),
        "signed": seal(found, peer, sign).hex(),
        "confirmations": list(confirmations),
    }
    return json.dumps(content, indent=2) + "\n"


def read_statement(text: str) -> tuple[PeerId, Contribution]:
    """Who made a statement, and what it says. Raises `InputError` unless it is whole, and all in it is what was signed."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if type(content) is not dict or content.get("format") != FORMAT:
        raise InputError("this is no statement of `peerinfer reputation export`")
    try:
        author, found = unseal(Contribution, bytes.fromhex(content["signed"]))
    except (KeyError, TypeError, ValueError, DecodeError):
        raise InputError("the statement's signature is not good: it was altered, or damaged") from None
    if content.get("peer_id") != author or content.get("contribution") != found.shown():
        raise InputError("the statement was altered: its figures are not those that were signed")
    check_sense(found)
    return author, found


def read_confirmations(text: str, author: PeerId) -> list[tuple[PeerId, float]]:
    """Who confirms how much of a statement that `read_statement` took. Raises `InputError` if one of them is not whole."""
    content = json.loads(text)
    given = content.get("confirmations", [])
    if type(given) is not list or len(given) > CONFIRMATIONS_MAX:
        raise InputError("the statement's confirmations are no list; ask its author for another one")
    found: dict[PeerId, float] = {}
    for signed in given:
        try:
            who, said = unseal(Attestation, bytes.fromhex(signed))
            about = check_attestation(who, said, math.inf)
        except (TypeError, ValueError, DecodeError):
            raise InputError("a confirmation's signature is not good: it was altered, or damaged") from None
        if author not in about:
            raise InputError(f"a confirmation by {who} is not about this node")
        found[who] = max(about[author][0], found.get(who, 0.0))  # the same said twice is said once
    return list(found.items())
