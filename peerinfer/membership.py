"""Who is there: a bounded table of peers, their adverts, and whether they live.

**Neighbours.** A node keeps connections to a few random peers and to those it works with. What it knows of its neighbours
it sees for itself: a connection that breaks, a probe that stays unanswered (`probing`). What it knows of everybody else
it is told by its neighbours (`news`), and a node that is told something doubtful about a neighbour asks the neighbour.

**States.** A silent peer becomes *suspect*, and *dead* when the suspicion's time is over (`suspicion`); *left* if it said
so. Of two statements about a peer the one about the higher (incarnation, sequence) counts, and these are the peer's
own: it refutes a suspicion by a new advert, which nobody can forge, and nobody can call it dead in its future. Between
equal versions alive < suspect < dead, so that rumours settle. An incarnation is the time at which a node started, so a
node that restarts replaces itself at once.

**Bounds.** The table holds `MEMBERS_MAX` peers. When it is full, a newcomer takes the place of one that left or died (the
longest ago), else of a random one that is not connected: so the table of a node in a larger swarm is a sample that keeps
changing, and nobody can push a neighbour out. What is sent about others has a budget, and what is fetched too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from peerinfer.ids import PeerId
from peerinfer.limits import (
    ADVERT_BYTES_MAX,
    CLOCK_SKEW_MAX_S,
    DIGEST_PEERS_MAX,
    MEMBERS_MAX,
    NEWS_PER_MESSAGE_MAX,
)
from peerinfer.machine import NEVER, Tick
from peerinfer.membership_events import (
    AddressSeen,
    AdvertSeen,
    Connected,
    Dial,
    DialFailed,
    Disconnected,
    Drop,
    Effect,
    Event,
    Heard,
    Member,
    MemberMessage,
    OwnAdvert,
    PeerChanged,
    Refute,
    RttMeasured,
    Send,
)
from peerinfer.messages import Advert, Adverts, AdvertsWanted, Digest, Known, News, Probe, ProbeAnswer
from peerinfer.news import (
    ADVERTS_BYTES_BURST,
    ADVERTS_BYTES_PER_S,
    KNOWN_BYTES,
    MESSAGE_BYTES,
    NEWS_BYTES_BURST,
    NEWS_BYTES_PER_S,
    NEWS_BYTES_URGENT,
    Budget,
    NewsQueue,
    key_of,
    known,
    peer_with,
)
from peerinfer.probing import HELPERS, PROBE_EVERY_S, Prober
from peerinfer.suspicion import SUSPICION_MAX_S, TICK_LATE_S, Health, Suspicion

CONNECTIONS_WANTED = 16
"""Neighbours that are dialled because they exist. Others are dialled when there is work for them. A random graph of this
degree stays whole when most of its nodes fall, and a swarm of up to 17 is a full mesh."""

REDIAL_FIRST_S = 1.0
REDIAL_MAX_S = 60.0
REDIALS_MAX = 8
"""After so many failed dials in a row a peer is left alone until something new is heard of it, or nobody else is there."""

DIAL_JITTER_S = 0.5
"""Of two nodes that hear of each other at the same time, one is first."""

GOSSIP_EVERY_S = 0.25
GOSSIP_FANOUT = 2
SYNC_EVERY_S = 30.0
"""A sample of the table goes to a random neighbour, who mends what gossip has missed."""

SYNC_PEERS = 64
INTRODUCED = 8
"""Neighbours whose adverts a new one gets at once."""

REFUTE_EVERY_S = 1.0
ASK_SUSPECT_EVERY_S = 0.3
VERDICT_WAIT_S = 15.0
"""A suspicion that one was only told of is forgotten after this time, if nobody called the peer dead."""

DEATH_WITNESSES = 2
"""Who is called dead by somebody, and suspected by so many in all, is dead at once: one liar cannot bury anybody."""

WANTED_AGAIN_S = 2.0
WANTED_ASKED_MAX = 4
"""Neighbours that are asked for one advert, each after the other."""

ADVERTS_BYTES = 256 * 1024
"""Adverts in one message, together."""

RECONNECT_EVERY_S = 30.0
"""A random dead peer is dialled this often, whatever else is there: so two halves of a swarm find each other again after
the network between them was cut (serf's reconnect interval)."""

FORGET_AFTER_S = 600.0
"""A dead peer is remembered this long in memory; its addresses stay in the store."""

STALE_AFTER_S = 1800.0
"""A peer that is not connected and sent no new advert for so long (six times the refresh) is forgotten: its death was
missed."""

_ORDER = {"alive": 0, "suspect": 1, "dead": 2, "left": 3}


@dataclass(slots=True)
class _Entry:
    member: Member
    is_connected: bool = False
    was_reached: bool = False
    """One of its addresses has worked."""
    dialling: bool = False
    dials_failed: int = 0
    redial_s: float = NEVER
    suspicion: Suspicion | None = None
    is_doubted: bool = False
    """Others doubt that this neighbour lives: its next advert refutes them, and is news."""
    fresh_s: float = 0.0
    """When its newest advert came."""
    ended_s: float = 0.0
    ask_s: float = 0.0
    connected_s: float = 0.0


@dataclass(slots=True)
class _Wanted:
    """An advert that was asked for."""

    again_s: float
    asked: int = 1
    doubt: tuple[tuple[int, int], PeerId] | None = None
    """Who doubts that the peer lives, as of which version."""


class Membership:
    """The machine."""

    def __init__(
        self,
        own: PeerId,
        rng: random.Random,
        *,
        members_max: int = MEMBERS_MAX,
        connections_wanted: int = CONNECTIONS_WANTED,
    ) -> None:
        self._own = own
        self._rng = rng
        self._members_max = members_max
        self._connections_wanted = connections_wanted
        self._own_advert: Advert | None = None
        self._own_signed = b""
        self._entries: dict[PeerId, _Entry] = {}
        self._neighbours: dict[PeerId, None] = {}
        self._prober = Prober(random.Random(rng.random()))  # noqa: S311
        self._news = NewsQueue()
        self._telling = Budget(NEWS_BYTES_PER_S, NEWS_BYTES_BURST)
        self._serving = Budget(ADVERTS_BYTES_PER_S, ADVERTS_BYTES_BURST)
        self._fetching = Budget(ADVERTS_BYTES_PER_S, ADVERTS_BYTES_BURST)
        self._wanted: dict[PeerId, _Wanted] = {}
        self._heard_s = -NEVER
        self.health = Health()
        self._probe_s = self._gossip_s = self._sync_s = self._sweep_s = NEVER
        self._refuted_s = self._reconnect_s = -NEVER
        self._effects: list[Effect] = []
        self.deadline_s = NEVER

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        match event:
            case OwnAdvert(advert, signed):
                self._own_advert, self._own_signed = advert, signed
                for peer in self._neighbours:
                    self._send(peer, Adverts((signed,)))
            case AdvertSeen():
                self._advert_seen(event, now_s)
            case Heard(peer, message):
                self._heard(peer, message, now_s)
            case Connected(peer, path):
                self._connected(peer, path, now_s)
            case Disconnected(peer):
                self._disconnected(peer, now_s)
            case AddressSeen(peer, addresses):
                self._address_seen(peer, addresses, now_s)
            case DialFailed(peer):
                self._dial_failed(peer, now_s)
            case RttMeasured(peer, rtt_s):
                self._rtt(peer, rtt_s)
            case Tick():
                if now_s > self.deadline_s + TICK_LATE_S:
                    self.health.worse()
        self._check_probes(now_s)
        self._probe_next(now_s)
        self._sweep(now_s)
        self._gossip(now_s)
        self._sync(now_s)
        gossip_s = self._gossip_s if self._news and self._neighbours else NEVER
        self.deadline_s = min(self._probe_s, self._prober.deadline_s, self._sweep_s, self._sync_s, gossip_s)
        effects, self._effects = self._effects, []
        return effects

    # --- reading -----------------------------------------------------------------------------------------------------

    def member(self, peer: PeerId) -> Member | None:
        entry = self._entries.get(peer)
        return entry.member if entry and _is_known(entry) else None

    def members(self) -> list[Member]:
        """Without addresses that nobody has answered at yet."""
        return [entry.member for entry in self._entries.values() if _is_known(entry)]

    def snapshot(self) -> tuple[Member, ...]:
        return tuple(self.members())

    def check(self) -> None:
        assert len(self._entries) <= self._members_max, f"{len(self._entries)} peers are remembered"
        assert self._own not in self._entries, "this node is its own peer"
        connected = [peer for peer, entry in self._entries.items() if entry.is_connected]
        assert sorted(connected) == sorted(self._neighbours), "neighbours are those connected"
        for peer, entry in self._entries.items():
            state = entry.member.state
            assert (entry.suspicion is not None) <= (state == "suspect"), f"{peer} is {state} and under suspicion"
            assert not (entry.is_connected and state in ("dead",)), f"{peer} is connected and {state}"
            assert bool(entry.member.path) == entry.is_connected, f"{peer} has path {entry.member.path!r}"

    # --- connections -------------------------------------------------------------------------------------------------

    def _entry(self, peer: PeerId, now_s: float) -> _Entry | None:
        """None if the table is full of neighbours."""
        entry = self._entries.get(peer)
        if entry is None:
            if len(self._entries) >= self._members_max and not self._evict():
                return None
            entry = self._entries[peer] = _Entry(Member(peer, heard_s=now_s), fresh_s=now_s)
            self._wake(now_s + STALE_AFTER_S)
        return entry

    def _evict(self) -> bool:
        free = [entry for entry in self._entries.values() if not entry.is_connected]
        ended = [entry for entry in free if entry.member.state in ("dead", "left")]
        if not free:
            return False
        victim = min(ended, key=lambda entry: entry.ended_s) if ended else self._rng.choice(free)
        del self._entries[victim.member.peer]
        self._effects.append(PeerChanged(victim.member.peer))
        return True

    def _connected(self, peer: PeerId, path: str, now_s: float) -> None:
        entry = None if peer == self._own else self._entry(peer, now_s)
        if entry is None:
            return
        entry.is_connected = entry.was_reached = True
        entry.suspicion, entry.dialling, entry.dials_failed, entry.redial_s = None, False, 0, NEVER
        entry.member = replace(entry.member, state="alive", path=path, heard_s=now_s)
        if not self._neighbours:
            self._probe_s = now_s + PROBE_EVERY_S
            self._sync_s = now_s + SYNC_EVERY_S * self._rng.random()
        self._neighbours[peer] = None
        entry.connected_s = now_s
        # A few strangers' adverts go along in any case: a newcomer must not depend on the one that it came in by.
        others = [other.member.signed for other in self._entries.values() if other.is_connected and other.member.signed]
        adverts = self._rng.sample(others, min(INTRODUCED, len(others)))
        if self._own_signed:
            adverts.append(self._own_signed)
        if adverts:
            self._send(peer, Adverts(tuple(adverts)))
        self._send(peer, Digest(self._sample(DIGEST_PEERS_MAX, peer)))
        self._effects.append(PeerChanged(peer))

    def _disconnected(self, peer: PeerId, now_s: float) -> None:
        entry = self._entries.get(peer)
        if entry is None or not entry.is_connected:
            return
        self._lose(entry)
        if entry.member.state != "left":
            self._suspect(entry, self._own, now_s)
            self._dial(entry)
        self._effects.append(PeerChanged(peer))

    def _lose(self, entry: _Entry) -> None:
        entry.is_connected = False
        entry.member = replace(entry.member, path="")
        del self._neighbours[entry.member.peer]
        self._prober.forget(entry.member.peer)
        if not self._neighbours:
            self._probe_s = self._sync_s = NEVER

    def _address_seen(self, peer: PeerId, addresses: tuple[str, ...], now_s: float) -> None:
        entry = None if peer == self._own or not addresses else self._entry(peer, now_s)
        if entry is None or entry.is_connected:
            return
        if entry.member.advert is None:
            entry.member = replace(entry.member, addresses=addresses)
        else:
            # What was just seen is more likely to work than what the advert says.
            both = dict.fromkeys((*addresses, *entry.member.advert.addresses))
            entry.member = replace(entry.member, addresses=tuple(both))
        entry.dials_failed, entry.redial_s = 0, now_s
        self._wake(now_s)

    def _dial_failed(self, peer: PeerId, now_s: float) -> None:
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.dialling = False
        if entry.is_connected:
            return
        entry.dials_failed += 1
        if entry.suspicion is not None and entry.was_reached:
            self._die(entry, now_s)  # Nobody answers where somebody did.
        wait_s = min(REDIAL_FIRST_S * 2 ** min(entry.dials_failed - 1, 16), REDIAL_MAX_S)
        entry.redial_s = now_s + wait_s * (0.5 + 0.5 * self._rng.random())
        self._wake(entry.redial_s)

    def _dial(self, entry: _Entry) -> None:
        if not (entry.dialling or entry.is_connected) and entry.member.addresses:
            entry.dialling = True
            entry.redial_s = NEVER
            self._effects.append(Dial(entry.member.peer, entry.member.addresses))

    def _may_dial(self, entry: _Entry) -> bool:
        if entry.is_connected or entry.dialling or entry.member.state == "left":
            return False
        return entry.dials_failed < REDIALS_MAX or not self._neighbours

    # --- adverts -----------------------------------------------------------------------------------------------------

    def _advert_seen(self, event: AdvertSeen, now_s: float) -> None:
        advert, peer = event.advert, event.peer
        wanted = self._wanted.pop(peer, None)
        if peer == self._own or advert.issued_at_s > event.wall_s + CLOCK_SKEW_MAX_S:
            return
        if len(event.signed) > ADVERT_BYTES_MAX:
            return
        entry = self._entry(peer, now_s)
        if entry is None or (advert.incarnation, advert.sequence) <= entry.member.version:
            return
        old = entry.member.advert
        is_new = old is None or entry.member.state in ("dead", "left")
        is_news = is_new or entry.suspicion is not None or entry.is_doubted or _says_more(advert, old)
        entry.is_doubted = False
        entry.suspicion = None if advert.state == "left" or not entry.is_connected else entry.suspicion
        state = "left" if advert.state == "left" else "suspect" if entry.suspicion else "alive"
        entry.member = replace(
            entry.member, advert=advert, signed=event.signed, addresses=advert.addresses, state=state, heard_s=now_s
        )
        entry.fresh_s = now_s
        if state == "left":
            entry.ended_s = now_s
            self._wake(now_s + FORGET_AFTER_S)
        elif is_new and not entry.is_connected:
            entry.dials_failed = 0
            entry.redial_s = now_s + DIAL_JITTER_S * self._rng.random()
            self._wake(entry.redial_s)
        if is_news:
            self._tell(entry)
        self._effects.append(PeerChanged(peer))
        if wanted and wanted.doubt and wanted.doubt[0] == entry.member.version:
            self._doubt(entry, wanted.doubt[1], wanted.doubt[1], now_s)

    def _send_adverts(self, peer: PeerId, keys: tuple[bytes, ...], now_s: float) -> None:
        found: list[bytes] = []
        size_bytes = 0
        for key in keys:
            wanted = peer_with(key)
            entry = self._entries.get(wanted)
            signed = self._own_signed if wanted == self._own else entry.member.signed if entry else b""
            if not signed or size_bytes + len(signed) > ADVERTS_BYTES:
                continue
            if not self._serving.take(len(signed), now_s):
                break
            found.append(signed)
            size_bytes += len(signed)
        if found:
            self._send(peer, Adverts(tuple(found)))

    def _want(self, peer: PeerId, now_s: float) -> bool:
        """Whether to ask for this peer's advert now."""
        if peer in self._wanted or len(self._wanted) >= self._members_max:
            return False
        if not self._fetching.take(ADVERT_BYTES_MAX / 10, now_s):  # an advert takes 400 to 1,000 bytes
            return False
        self._wanted[peer] = _Wanted(now_s + WANTED_AGAIN_S)
        self._wake(now_s + WANTED_AGAIN_S)
        return True

    def _ask_again(self, now_s: float) -> None:
        """Asks somebody else for the adverts that did not come."""
        again: list[bytes] = []
        for peer, wanted in list(self._wanted.items()):
            if now_s < wanted.again_s:
                self._wake(wanted.again_s)
            elif wanted.asked >= WANTED_ASKED_MAX or not self._neighbours:
                del self._wanted[peer]
            elif len(again) < DIGEST_PEERS_MAX:
                wanted.asked += 1
                wanted.again_s = now_s + WANTED_AGAIN_S
                self._wake(wanted.again_s)
                again.append(key_of(peer))
        if again:
            self._send(self._rng.choice(list(self._neighbours)), AdvertsWanted(tuple(again)))

    # --- what others say ---------------------------------------------------------------------------------------------

    def _heard(self, peer: PeerId, message: object, now_s: float) -> None:
        entry = self._entries.get(peer)
        if entry is None or not entry.is_connected:
            return  # It is gone already.
        self._heard_s = now_s
        entry.member = replace(entry.member, heard_s=now_s)
        if entry.suspicion is not None:
            entry.suspicion = None
            entry.member = replace(entry.member, state="alive")
            self._effects.append(PeerChanged(peer))
        match message:
            case Probe(nonce, about, news):
                self._believe(news, peer, now_s)
                self._asked(peer, nonce, about, now_s)
            case ProbeAnswer(nonce, about, news):
                self._believe(news, peer, now_s)
                self._answered(peer, nonce, about, now_s)
            case News(news):
                self._believe(news, peer, now_s)
            case Digest(told):
                self._believe(told, peer, now_s)
                self._mend(peer, told, now_s)
            case AdvertsWanted(keys):
                self._send_adverts(peer, keys, now_s)

    def _believe(self, told: tuple[Known, ...], by: PeerId, now_s: float) -> None:
        wanted: list[bytes] = []
        for each in told:
            peer = peer_with(each.key)
            if peer == self._own:
                self._doubted(each, now_s)
                continue
            version, entry = (each.incarnation, each.sequence), self._entries.get(peer)
            is_doubt = each.state in ("suspect", "dead")
            if entry is None or version > entry.member.version:
                if (entry is not None or not is_doubt) and len(wanted) < DIGEST_PEERS_MAX and self._want(peer, now_s):
                    wanted.append(each.key)
                    # Only the peer itself can say that there is such a version: a doubt waits for that advert.
                    self._wanted[peer].doubt = (version, by) if is_doubt else None
            elif version == entry.member.version and is_doubt:
                origin = by if len(each.by) != len(each.key) else peer_with(each.by)
                # What this node has seen it knows itself: its own rumour that comes back is hearsay.
                origin = by if origin == self._own else origin
                self._doubt(entry, origin, by, now_s, is_dead=each.state == "dead")
        if wanted:
            self._send(by, AdvertsWanted(tuple(wanted)))

    def _doubt(self, entry: _Entry, origin: PeerId, teller: PeerId, now_s: float, *, is_dead: bool = False) -> None:
        """Somebody suspects this peer, or calls it dead. Of a neighbour that is only a reason to ask it."""
        if entry.member.state not in ("alive", "suspect"):
            return
        if entry.is_connected and entry.suspicion is None:
            entry.is_doubted = True
            if not self._prober.is_waiting_for(entry.member.peer):
                self._probe(entry, now_s)
            return
        suspicion = entry.suspicion or self._suspect(entry, origin, now_s)
        suspicion.confirm(origin, teller)
        if is_dead:
            suspicion.condemn(teller, now_s)
            witnesses = len(suspicion.tellers) + (suspicion.origin == self._own)
            if witnesses >= DEATH_WITNESSES:
                self._die(entry, now_s)
                return
        self._wake(self._decides_s(entry, suspicion))

    def _decides_s(self, entry: _Entry, suspicion: Suspicion) -> float:
        """When the suspicion is over. Who has seen nothing itself leaves the verdict to those who have."""
        if suspicion.origin == self._own:
            return suspicion.deadline_s
        if suspicion.verdict_s is not None:
            return suspicion.verdict_s + SUSPICION_MAX_S
        return suspicion.started_s + VERDICT_WAIT_S

    def _doubted(self, each: Known, now_s: float) -> None:
        """Somebody says this of this node itself."""
        own = self._own_advert
        if own is None or each.state not in ("suspect", "dead") or own.state == "left":
            return
        is_current = (each.incarnation, each.sequence) == (own.incarnation, own.sequence)
        if is_current and now_s >= self._refuted_s + REFUTE_EVERY_S:
            self._refuted_s = now_s
            self.health.worse()
            self._effects.append(Refute())

    def _mend(self, peer: PeerId, told: tuple[Known, ...], now_s: float) -> None:
        """Answers a digest with what is missing in it, or stands in it wrongly."""
        states = {each.key: each for each in told}
        # On connection each side sends a digest, and needs no answer to know what the other has.
        is_whole = len(told) < SYNC_PEERS and now_s > self._entries[peer].connected_s + WANTED_AGAIN_S
        better = []
        for each in self._sample(len(self._entries), peer):
            other = states.get(each.key)
            if other is None:
                is_better = is_whole and each.state in ("alive", "suspect")
            else:
                mine, theirs = (each.incarnation, each.sequence), (other.incarnation, other.sequence)
                is_better = mine > theirs or (mine == theirs and _ORDER[each.state] > _ORDER[other.state])
            if is_better:
                better.append(each)
        for start in range(0, min(len(better), DIGEST_PEERS_MAX), NEWS_PER_MESSAGE_MAX):
            part = tuple(better[start : start + NEWS_PER_MESSAGE_MAX])
            if self._telling.take(MESSAGE_BYTES + KNOWN_BYTES * len(part), now_s, keep=NEWS_BYTES_URGENT):
                self._send(peer, News(part))

    # --- signs of life -----------------------------------------------------------------------------------------------

    def _asked(self, asker: PeerId, nonce: int, about: str, now_s: float) -> None:
        if not about:
            self._send(asker, ProbeAnswer(nonce))
        elif PeerId(about) in self._neighbours:
            own = self._prober.start_for(asker, nonce, now_s)
            if own is not None:
                self._send(PeerId(about), Probe(own))

    def _answered(self, peer: PeerId, nonce: int, about: str, now_s: float) -> None:
        probe = self._prober.waiting.get(nonce)
        if probe is not None and probe.peer == (PeerId(about) if about else peer):
            del self._prober.waiting[nonce]
            self.health.better()
            if not about:
                self._rtt(peer, now_s - probe.sent_s)
            return
        asked = None if about else self._prober.answered_for(nonce)
        if asked is not None and asked[0] in self._neighbours:
            self._send(asked[0], ProbeAnswer(asked[1], peer))

    def _rtt(self, peer: PeerId, rtt_s: float) -> None:
        entry = self._entries.get(peer)
        if entry is not None:
            old_s = entry.member.rtt_s
            entry.member = replace(entry.member, rtt_s=rtt_s if old_s is None else 0.75 * old_s + 0.25 * rtt_s)

    def _probe_next(self, now_s: float) -> None:
        if now_s < self._probe_s:
            return
        self._probe_s = now_s + PROBE_EVERY_S * (0.9 + 0.2 * self._rng.random())
        silent = [peer for peer in self._neighbours if now_s - self._entries[peer].member.heard_s >= PROBE_EVERY_S]
        peer = self._prober.choose(silent)
        if peer is not None:
            self._probe(self._entries[peer], now_s)

    def _probe(self, entry: _Entry, now_s: float) -> None:
        peer = entry.member.peer
        nonce = self._prober.start(peer, entry.member.rtt_s, self.health.stretch, now_s)
        if nonce is not None:
            # Who is doubted must hear of it to refute it.
            is_doubted = (entry.is_doubted or entry.suspicion is not None) and entry.member.advert is not None
            news = (known(peer, *entry.member.version, "suspect", self._own),) if is_doubted else ()
            self._send(peer, Probe(nonce, news=news))

    def _check_probes(self, now_s: float) -> None:
        for nonce, probe in list(self._prober.waiting.items()):
            if now_s < probe.deadline_s:
                continue
            if not probe.has_asked_others:
                probe.has_asked_others = True
                # Also when this is late: they need time to answer.
                probe.fails_s = max(probe.fails_s, now_s + probe.fails_s - probe.ask_others_s)
                others = [peer for peer in self._neighbours if peer != probe.peer]
                for helper in self._rng.sample(others, min(HELPERS, len(others))):
                    self._send(helper, Probe(nonce, probe.peer))
                continue
            del self._prober.waiting[nonce]
            if self._heard_s <= probe.sent_s:
                self.health.worse()  # Nobody at all was heard: the fault may be here.
            self._suspect(self._entries[probe.peer], self._own, now_s)

    def _suspect(self, entry: _Entry, origin: PeerId, now_s: float) -> Suspicion:
        suspicion = entry.suspicion
        if suspicion is None:
            others = len(self._neighbours) - entry.is_connected
            suspicion = entry.suspicion = Suspicion(now_s, origin, others, self.health.stretch)
            entry.member = replace(entry.member, state="suspect")
            entry.ask_s = now_s
            self._effects.append(PeerChanged(entry.member.peer))
            self._tell(entry)
        elif origin == self._own and suspicion.origin != self._own:
            # Now this node has seen it for itself.
            first = suspicion.origin
            suspicion.origin, suspicion.started_s = origin, now_s
            suspicion.confirm(first, first)
        self._wake(now_s)
        return suspicion

    def _die(self, entry: _Entry, now_s: float) -> None:
        peer = entry.member.peer
        if entry.is_connected:
            self._lose(entry)
            self._effects.append(Drop(peer))
        entry.suspicion = None
        entry.ended_s = now_s
        entry.member = replace(entry.member, state="dead")
        entry.redial_s = now_s + REDIAL_FIRST_S * (0.5 + 0.5 * self._rng.random())
        self._wake(entry.redial_s)
        self._tell(entry)
        self._effects.append(PeerChanged(peer))

    # --- what is passed on -------------------------------------------------------------------------------------------

    def _send(self, peer: PeerId, message: MemberMessage) -> None:
        self._effects.append(Send(peer, message))

    def _tell(self, entry: _Entry) -> None:
        if entry.member.advert is not None:
            if not self._news:
                self._gossip_s = -NEVER
            origin = entry.suspicion.origin if entry.suspicion else None
            self._news.add(known(entry.member.peer, *entry.member.version, entry.member.state, origin))

    def _sample(self, count: int, but: PeerId) -> tuple[Known, ...]:
        """At random, of all peers that have an advert."""
        members = [entry.member for entry in self._entries.values() if entry.member.advert and entry.member.peer != but]
        chosen = members if len(members) <= count else self._rng.sample(members, count)
        return tuple(_known(member) for member in chosen)

    def _gossip(self, now_s: float) -> None:
        if now_s < self._gossip_s or not self._news or not self._neighbours:
            return
        self._gossip_s = now_s + GOSSIP_EVERY_S
        neighbours = list(self._neighbours)
        for peer in self._rng.sample(neighbours, min(GOSSIP_FANOUT, len(neighbours))):
            size_bytes = MESSAGE_BYTES + KNOWN_BYTES * min(len(self._news), NEWS_PER_MESSAGE_MAX)
            keep = 0 if self._news.has_urgent else NEWS_BYTES_URGENT
            if not len(self._news) or not self._telling.take(size_bytes, now_s, keep=keep):
                return
            self._send(peer, News(self._news.take(len(self._entries))))

    def _sync(self, now_s: float) -> None:
        if now_s < self._sync_s:
            return
        self._sync_s = now_s + SYNC_EVERY_S * (0.9 + 0.2 * self._rng.random())
        peer = self._rng.choice(list(self._neighbours))
        sample = self._sample(SYNC_PEERS, peer)
        if self._telling.take(MESSAGE_BYTES + KNOWN_BYTES * len(sample), now_s, keep=NEWS_BYTES_URGENT):
            self._send(peer, Digest(sample))

    # --- time --------------------------------------------------------------------------------------------------------

    def _wake(self, at_s: float) -> None:
        self._sweep_s = min(self._sweep_s, at_s)

    def _sweep(self, now_s: float) -> None:
        """Looks at every entry whose time may have come."""
        if now_s < self._sweep_s:
            return
        self._sweep_s = NEVER
        self._ask_again(now_s)
        for entry in list(self._entries.values()):
            self._sweep_one(entry, now_s)
        self._fill(now_s)

    def _sweep_one(self, entry: _Entry, now_s: float) -> None:
        peer = entry.member.peer
        suspicion = entry.suspicion
        if suspicion is not None:
            decides_s = self._decides_s(entry, suspicion)
            if now_s < decides_s:
                self._wake(decides_s)
                self._ask_suspect(entry, now_s)
            elif suspicion.origin == self._own or suspicion.verdict_s is not None:
                self._die(entry, now_s)
            else:
                # Whoever began it has changed its mind.
                entry.suspicion = None
                entry.member = replace(entry.member, state="alive")
                self._effects.append(PeerChanged(peer))
        if entry.is_connected or entry.dialling:
            return
        if entry.member.state in ("dead", "left"):
            forget_s = entry.ended_s + FORGET_AFTER_S
        else:
            forget_s = entry.fresh_s + STALE_AFTER_S
        if now_s >= forget_s:
            del self._entries[peer]
            self._effects.append(PeerChanged(peer))
            return
        self._wake(forget_s)
        if now_s < entry.redial_s:
            self._wake(entry.redial_s)

    def _ask_suspect(self, entry: _Entry, now_s: float) -> None:
        """A lost packet must not cost a life: a neighbour under suspicion is asked again and again."""
        if entry.is_connected and entry.member.advert is not None:
            if now_s >= entry.ask_s:
                entry.ask_s = now_s + ASK_SUSPECT_EVERY_S
                doubt = known(entry.member.peer, *entry.member.version, "suspect", self._own)
                self._send(entry.member.peer, Probe(self._prober.next_nonce(), news=(doubt,)))
            self._wake(entry.ask_s)

    def _fill(self, now_s: float) -> None:
        """Dials until there are neighbours enough."""
        under_way = sum(entry.dialling for entry in self._entries.values())
        missing = self._connections_wanted - len(self._neighbours) - under_way
        dead = [entry for entry in self._entries.values() if entry.member.state == "dead" and not entry.dialling]
        if dead:
            if now_s >= self._reconnect_s:
                self._reconnect_s = now_s + RECONNECT_EVERY_S
                self._dial(self._rng.choice(dead))
            self._wake(self._reconnect_s)
        if missing <= 0:
            return
        due = [entry for entry in self._entries.values() if now_s >= entry.redial_s and self._may_dial(entry)]
        self._rng.shuffle(due)
        for entry in due[:missing]:
            self._dial(entry)


def _says_more(advert: Advert, old: Advert | None) -> bool:
    """Whether the advert says anything beside being newer."""
    return old is None or replace(advert, sequence=0, issued_at_s=0.0) != replace(old, sequence=0, issued_at_s=0.0)


def _known(member: Member) -> Known:
    return known(member.peer, *member.version, member.state)


def _is_known(entry: _Entry) -> bool:
    return entry.member.advert is not None or entry.was_reached


__all__ = [
    "CONNECTIONS_WANTED",
    "AddressSeen",
    "AdvertSeen",
    "Connected",
    "Dial",
    "DialFailed",
    "Disconnected",
    "Drop",
    "Effect",
    "Event",
    "Heard",
    "Member",
    "Membership",
    "OwnAdvert",
    "PeerChanged",
    "Refute",
    "RttMeasured",
    "Send",
]
