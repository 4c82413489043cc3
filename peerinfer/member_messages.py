"""Messages between members: tags 30–39 adverts, probes, news and relays, 90–99 reachability; and what an invite says."""

from __future__ import annotations

from peerinfer.codec import blob, listed, message, one_of, part, record, text, uint, wire
from peerinfer.limits import (
    ADDRESSES_PER_PEER_MAX,
    ADVERTS_PER_MESSAGE_MAX,
    DIAL_BACK_PORTS_MAX,
    DIGEST_PEERS_MAX,
    INVITE_PEERS_MAX,
    NEWS_PER_MESSAGE_MAX,
)

_id = text(64)


@message(30)
class Adverts:
    """Signed adverts that the sender knows; each is a `Signed` `Advert`."""

    adverts: tuple[bytes, ...] = wire(listed(blob(65536), ADVERTS_PER_MESSAGE_MAX))


@message(31)
class Heartbeat:
    """A sign of life with the little that changes often."""

    incarnation: int = wire(uint(63))
    sequence: int = wire(uint(48))
    state: str = wire(text(16))
    queue: int = wire(uint(32))


MEMBER_STATES = ("alive", "suspect", "dead", "left")


@part
class Known:
    """What the sender believes of one peer, as of that peer's advert with this (incarnation, sequence)."""

    key: bytes = wire(blob(32, exactly=32))
    """The peer's Ed25519 public key, which its id is made of."""
    incarnation: int = wire(uint(63))
    sequence: int = wire(uint(48))
    state: str = wire(one_of(*MEMBER_STATES))
    by: bytes = wire(blob(32), default=b"")
    """Of a suspicion: the key of the peer that first had it."""


@message(32)
class Probe:
    """Asks for a sign of life: of the receiver, or (`peer` set) of somebody whom the sender cannot reach itself."""

    nonce: int = wire(uint(32))
    peer: str = wire(_id, default="")
    news: tuple[Known, ...] = wire(listed(record(Known), NEWS_PER_MESSAGE_MAX), default=())


@message(33)
class ProbeAnswer:
    """The answer to a `Probe` with the same nonce."""

    nonce: int = wire(uint(32))
    peer: str = wire(_id, default="")
    """Whose sign of life it is; empty: the sender's."""
    news: tuple[Known, ...] = wire(listed(record(Known), NEWS_PER_MESSAGE_MAX), default=())


@message(34)
class News:
    """What has changed, as the sender believes it."""

    news: tuple[Known, ...] = wire(listed(record(Known), NEWS_PER_MESSAGE_MAX))


@message(35)
class Digest:
    """A sample of what the sender knows. The receiver answers with what it knows better, and asks for what is new."""

    known: tuple[Known, ...] = wire(listed(record(Known), DIGEST_PEERS_MAX))
    of: int = wire(uint(32), default=0)
    """Of how many that the sender knows; 0 if it does not say."""


@message(36)
class AdvertsWanted:
    """Answered by `Adverts` with those of them that the other has."""

    keys: tuple[bytes, ...] = wire(listed(blob(32, exactly=32), DIGEST_PEERS_MAX))


@message(37)
class RelayWanted:
    """From a dialer to a relay: connect me to this peer. Answered by `Relayed` or `Goodbye`."""

    peer: str = wire(_id)


@message(38)
class Relayed:
    """From a relay, to both ends: what follows on this stream are the bytes of a connection with this peer."""

    peer: str = wire(_id)


@message(90)
class DialBackWanted:
    """Asks whether the receiver can dial the sender, at the address that it sees it at and these ports."""

    ports: tuple[int, ...] = wire(listed(uint(16), DIAL_BACK_PORTS_MAX))


@message(91)
class DialedBack:
    """The ports of a `DialBackWanted` at which the sender answered."""

    host: str = wire(text(64))
    """The IP address at which the sender is seen."""
    ports: tuple[int, ...] = wire(listed(uint(16), DIAL_BACK_PORTS_MAX))


@message(92)
class MeetWanted:
    """Where the world sees the sender, and the port from which it will dial. Both sides send one, over a relay."""

    host: str = wire(text(64))
    port: int = wire(uint(16))


@message(93)
class MeetNow:
    """The receiver dials at once; the sender dials after half a round trip, so that both do at the same moment."""


@part
class InvitedPeer:
    """A member that a newcomer may dial first."""

    key: bytes = wire(blob(32, exactly=32))
    """Its Ed25519 public key, which its peer id is made of."""
    addresses: tuple[str, ...] = wire(listed(text(256), ADDRESSES_PER_PEER_MAX))
    """Without the `/p2p/<peer id>` at the end."""


@message(39)
class InviteContents:
    """What an invite to a private swarm says. It never travels on a stream: people pass it on."""

    name: str = wire(text(32))
    key: bytes = wire(blob(32, exactly=32))
    """The swarm's key."""
    expires_at_s: int = wire(uint(48))
    """Wall clock, seconds since 1970; 0 never."""
    peers: tuple[InvitedPeer, ...] = wire(listed(record(InvitedPeer), INVITE_PEERS_MAX))
