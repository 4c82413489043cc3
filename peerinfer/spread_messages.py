"""What members tell each other beside who is there: statements that spread, and searches. Tags 100–109, on
`/peerinfer/members/1`, to peers whose `Hello.revision` is at least 1.
"""

from __future__ import annotations

from peerinfer.codec import blob, listed, message, part, record, text, wire
from peerinfer.limits import STATEMENT_BYTES_MAX, STATEMENTS_NAMED_MAX, STATEMENTS_PER_MESSAGE_MAX

_digest = blob(16, exactly=16)


@message(100)
class StatementsHeld:
    """The sender holds these statements, and gives each to whoever asks."""

    digests: tuple[bytes, ...] = wire(listed(_digest, STATEMENTS_NAMED_MAX))
    """The first 16 bytes of SHA-256 over kind, a zero byte and the signed bytes."""


@message(101)
class StatementsWanted:
    """Answered by `Statements` with those of them that the other still holds."""

    digests: tuple[bytes, ...] = wire(listed(_digest, STATEMENTS_NAMED_MAX))


@part
class Statement:
    """Something signed that everybody may want to know."""

    kind: str = wire(text(32))
    signed: bytes = wire(blob(STATEMENT_BYTES_MAX))
    """A `Signed`; what is in it is the kind's affair."""


@message(102)
class Statements:
    statements: tuple[Statement, ...] = wire(listed(record(Statement), STATEMENTS_PER_MESSAGE_MAX))
