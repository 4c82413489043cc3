"""Signed statements on their way through the swarm: what this node brings in, takes, and passes on.

    members.statements.accept("attestation", take)      before the node runs
    members.statements.spread("attestation", signed, until_s)

`take(signed)` looks at one that a peer has told: it returns until when (wall clock) it is worth passing on, 0.0 if it is
nothing new, and raises `DecodeError` for a forged or malformed one, which ends the stream of whoever told it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peerinfer.codec import decode_as
from peerinfer.errors import UsageError
from peerinfer.ids import PeerId
from peerinfer.limits import STATEMENT_BYTES_MAX
from peerinfer.membership_events import MemberMessage, Send
from peerinfer.messages import Signed
from peerinfer.news import Budget
from peerinfer.spread_messages import Statement, Statements, StatementsHeld, StatementsWanted
from peerinfer.spreading import OWN_BURST, OWN_PER_S, Event, Gone, Met, Spreading, Taken, Told, digest_of
from peerinfer_node.driver import Driver
from peerinfer_node.log import Log
from peerinfer_node.ports import LocalClock

Take = Callable[[bytes], float]


@dataclass(frozen=True, slots=True)
class _Kind:
    take: Take
    of_signer_max: int


class StatementsRole:
    """Runs the spreading machine on the members' streams."""

    def __init__(
        self, *, machine: Spreading, clock: LocalClock, log: Log, send: Callable[[PeerId, MemberMessage], None]
    ) -> None:
        self.machine = machine
        self._clock = clock
        self._log = log
        self._send = send
        self._kinds: dict[str, _Kind] = {}
        self._own = Budget(OWN_PER_S, OWN_BURST)
        self._driver: Driver[Event, Send] = Driver(machine, clock, self._perform)

    def accept(self, kind: str, take: Take, *, of_signer_max: int = 1) -> None:
        """Statements of this kind are taken and passed on; of one signer so many, the newest to arrive."""
        self._kinds[kind] = _Kind(take, of_signer_max)

    def spread(self, kind: str, signed: bytes, until_s: float) -> bool:
        """Tells the swarm. `until_s` is the time (wall clock) that `take` would read from it.

        False if this node has said too much lately: later, then. Raises `UsageError` for what could not travel.
        """
        if kind not in self._kinds or len(signed) > STATEMENT_BYTES_MAX:
            raise UsageError(f"a statement of {len(signed)} bytes of the kind {kind!r} cannot be spread")
        if not self._own.take(1, self._clock.now_s()):
            return False
        self._taken(kind, signed, until_s, None)
        return True

    def take_again(self, kind: str, signed: bytes) -> None:
        """Goes on with what was taken before this process began. Raises `DecodeError`."""
        if kind in self._kinds:
            self._taken(kind, signed, self._kinds[kind].take(signed), None)

    async def run(self) -> None:
        await self._driver.run()

    def met(self, peer: PeerId) -> None:
        self._driver.post(Met(peer))

    def gone(self, peer: PeerId) -> None:
        self._driver.post(Gone(peer))

    async def hear(self, peer: PeerId, message: StatementsHeld | StatementsWanted | Statements) -> None:
        """Raises `DecodeError` for a forged or malformed statement: its sender passed it on unchecked."""
        if not isinstance(message, Statements):
            self._driver.post(Told(peer, message))
            await self._driver.wait_room()
            return
        for statement in message.statements:
            kind = self._kinds.get(statement.kind)
            if not self.machine.expects(digest_of(statement.kind, statement.signed)):
                continue
            # What an older node does not know it passes on to nobody: it could not check it.
            until_s = 0.0 if kind is None else kind.take(statement.signed)
            self._taken(statement.kind, statement.signed, until_s, peer)

    def _taken(self, kind: str, signed: bytes, until_s: float, by: PeerId | None) -> None:
        known, signer = self._kinds.get(kind), PeerId("")
        keep_s = until_s - self._clock.wall_s() if until_s else 0.0
        if known is not None:
            signer = PeerId(decode_as(Signed, signed).signer)
        self._driver.post(Taken(Statement(kind, signed), signer, keep_s, known.of_signer_max if known else 1, by))

    async def _perform(self, effect: Send) -> None:
        self._send(effect.peer, effect.message)
