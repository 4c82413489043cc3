"""What members tell each other beside who is there: statements that spread, searches, and pages of tables. Tags 100–109,
on `/peerinfer/members/1`, to peers whose `Hello.revision` is at least 1, and pages to those of revision 3.
"""

from __future__ import annotations

from peerinfer.codec import blob, flag, listed, message, part, record, text, uint, wire
from peerinfer.limits import (
    ADVERT_BYTES_MAX,
    FOUND_PER_MESSAGE_MAX,
    PAGE_PEERS_MAX,
    SEARCH_WORDS_MAX,
    STATEMENT_BYTES_MAX,
    STATEMENTS_NAMED_MAX,
    STATEMENTS_PER_MESSAGE_MAX,
)
from peerinfer.member_messages import Known

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


@message(103)
class Search:
    """Whom does the receiver know that all these words are true of? Answered by `Found`, or not at all."""

    nonce: int = wire(uint(32))
    words: tuple[str, ...] = wire(listed(text(80), SEARCH_WORDS_MAX))
    """Capability classes and `model:<cid>`; see `classes.py`."""
    passed_on: bool = wire(flag, default=False)
    """The sender asks for somebody else: the receiver answers only for itself and its own table."""


@message(104)
class Found:
    nonce: int = wire(uint(32))
    adverts: tuple[bytes, ...] = wire(listed(blob(ADVERT_BYTES_MAX), FOUND_PER_MESSAGE_MAX))
    """Each a `Signed` `Advert`."""


@message(105)
class Released:
    """The sender lives and has too many neighbours: it asks the receiver to close the connection."""


@message(106)
class PageWanted:
    """What comes in the receiver's table after this key? Answered by `Page`, if the receiver has said little lately."""

    after: bytes = wire(blob(32), default=b"")


@message(107)
class Page:
    """Some of the sender's table, in the order of the keys; the last page is one that is not full."""

    known: tuple[Known, ...] = wire(listed(record(Known), PAGE_PEERS_MAX))
