"""Who is there: a bounded table of peers, their adverts, and whether they live.

**Neighbours.** A node keeps connections to a few random peers and to those it works with. What it knows of its neighbours
it sees for itself: a connection that breaks, a probe that stays unanswered (`probing`). What it knows of everybody else
it is told by its neighbours (`news`), and a node that is told something doubtful about a neighbour asks the neighbour.

**States.** A silent peer becomes *suspect*, and *dead* when the suspicion's time is over (`suspicion`); *left* if it said
so. Of two statements about a peer the one about the higher (incarnation, sequence) counts, and these are the peer's
own: it refutes a suspicion by a new advert, which nobody can forge, and nobody can call it dead in its future. Between
equal versions alive < suspect < dead, so that rumours settle. An incarnation is the time at which a node started, so a
node that restarts replaces itself at once.

**Bounds.** The table is bounded (`member_table`), and what is sent and fetched about others has a budget (`exchange`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from statistics import median_low

from peerinfer.dialling import CONNECTIONS_WANTED, Dialler
from peerinfer.doubts import Doubts
from peerinfer.exchange import SYNC_EVERY_S, Doubt, Exchange
from peerinfer.ids import PeerId
from peerinfer.limits import (
    ADVERT_BYTES_MAX,
    CLOCK_SKEW_MAX_S,
    DIGEST_PEERS_MAX,
    MEMBERS_MAX,
)
from peerinfer.machine import NEVER, Tick
from peerinfer.member_messages import Adverts, AdvertsWanted, Digest, Known, News, Probe, ProbeAnswer
from peerinfer.member_table import STALE_AFTER_S, Entry, Table
from peerinfer.membership_events import (
    AddressSeen,
    AdvertSeen,
    Connected,
    DialFailed,
    Disconnected,
    Drop,
    Effect,
    Event,
    Heard,
    Member,
    OwnAdvert,
    PeerChanged,
    Refute,
    RttMeasured,
)
from peerinfer.messages import Advert
from peerinfer.news import Rank, peer_with
from peerinfer.probing import PROBE_EVERY_S, Prober
from peerinfer.releasing import Releaser
from peerinfer.spread_messages import Page, PageWanted, Released
from peerinfer.suspicion import TICK_LATE_S

REFUTE_EVERY_S = 1.0

FORGET_AFTER_S = 600.0
"""A dead peer is remembered this long in memory; its addresses stay in the store."""


class Membership:
    """The machine."""

    def __init__(
        self,
        own: PeerId,
        rng: random.Random,
        *,
        members_max: int = MEMBERS_MAX,
        connections_wanted: int = CONNECTIONS_WANTED,
        is_busy: Callable[[PeerId], bool] = lambda peer: False,
    ) -> None:
        """`is_busy` says whether the node works with a neighbour."""
        self._table = Table(own, rng, members_max)
        self._exchange = Exchange(self._table)
        # Neighbours stay in the table, so most of it must be left for others.
        self._dialler = Dialler(self._table, min(connections_wanted, max(members_max // 4, 1)))
        self._releaser = Releaser(self._table, members_max // 2, is_busy)
        self._prober = Prober(random.Random(rng.random()))  # noqa: S311
        self._ahead: dict[PeerId, float] = {}
        self._doubts = Doubts(self._table, self._exchange, self._dialler, self._prober)
        self.health = self._doubts.health
        self._refuted_s = -NEVER
        self.deadline_s = NEVER

    def handle(self, event: Event | Tick, now_s: float) -> list[Effect]:
        match event:
            case OwnAdvert(advert, signed):
                self._exchange.own_advert, self._exchange.own_signed = advert, signed
                for peer in self._table.neighbours:
                    self._table.send(peer, Adverts((signed,)))
            case AdvertSeen():
                self._advert_seen(event, now_s)
            case Heard(peer, message):
                self._heard(peer, message, now_s)
            case Connected(peer, path):
                self._connected(peer, path, now_s)
            case Disconnected(peer):
                self._disconnected(peer, now_s)
            case AddressSeen(peer, addresses):
                self._dialler.address_seen(peer, addresses, now_s)
            case DialFailed(peer):
                self._dial_failed(peer, now_s)
            case RttMeasured(peer, rtt_s):
                self._rtt(peer, rtt_s)
            case Tick():
                if now_s > self.deadline_s + TICK_LATE_S:
                    self.health.worse()
        self._doubts.check_probes(now_s)
        self._doubts.probe_next(now_s)
        self._sweep(now_s)
        self._exchange.gossip(now_s)
        self._exchange.sync(now_s)
        probe_s = min(self._doubts.probe_s, self._prober.deadline_s)
        self.deadline_s = min(probe_s, self._table.sweeps_s, self._exchange.deadline_s)
        effects, self._table.effects = self._table.effects, []
        return effects

    # --- reading -----------------------------------------------------------------------------------------------------

    def member(self, peer: PeerId) -> Member | None:
        entry = self._table.entries.get(peer)
        return entry.member if entry and _is_known(entry) else None

    def own_member(self) -> Member | None:
        """This node as its neighbours know it."""
        own = self._exchange
        if own.own_advert is None:
            return None
        return Member(self._table.own, "alive", own.own_advert.addresses, own.own_advert, own.own_signed)

    def members(self) -> list[Member]:
        """Without addresses that nobody has answered at yet."""
        return [entry.member for entry in self._table.entries.values() if _is_known(entry)]

    @property
    def ahead_s(self) -> float | None:
        """How far in the future everybody's adverts are, so that none could be taken: then the clock here is wrong.

        None where some could, or there are none.
        """
        if not self._ahead or any(entry.member.advert is not None for entry in self._table.entries.values()):
            return None
        return median_low(self._ahead.values())

    @property
    def members_max(self) -> int:
        return self._table.members_max

    @property
    def is_full(self) -> bool:
        """The swarm is larger than the table, as far as this node can tell."""
        return len(self._table.entries) >= 0.9 * self._table.members_max

    def snapshot(self) -> tuple[Member, ...]:
        return tuple(self.members())

    def check(self) -> None:
        assert len(self._table.entries) <= self._table.members_max, f"{len(self._table.entries)} peers are remembered"
        assert self._table.own not in self._table.entries, "this node is its own peer"
        connected = [peer for peer, entry in self._table.entries.items() if entry.is_connected]
        assert sorted(connected) == sorted(self._table.neighbours), "neighbours are those connected"
        for peer, entry in self._table.entries.items():
            state = entry.member.state
            assert (entry.suspicion is not None) <= (state == "suspect"), f"{peer} is {state} and under suspicion"
            assert not (entry.is_connected and state in ("dead",)), f"{peer} is connected and {state}"
            assert bool(entry.member.path) == entry.is_connected, f"{peer} has path {entry.member.path!r}"

    # --- connections -------------------------------------------------------------------------------------------------

    def _connected(self, peer: PeerId, path: str, now_s: float) -> None:
        if peer == self._table.own:
            return
        entry = self._table.entry(peer, now_s)
        if entry is None:
            self._table.effects.append(Drop(peer))  # It may come again when there is room.
            return
        if entry.is_connected:
            entry.member = replace(entry.member, path=path, rtt_s=None)  # There is another way to it now.
            self._table.effects.append(PeerChanged(peer))
            return
        entry.is_connected = entry.was_reached = True
        entry.leaves_s = None
        entry.suspicion, entry.dialling, entry.dials_failed, entry.redial_s = None, False, 0, NEVER
        entry.member = replace(entry.member, state="alive", path=path, heard_s=now_s)
        if not self._table.neighbours:
            self._doubts.probe_s = now_s + PROBE_EVERY_S
            self._exchange.sync_s = now_s + SYNC_EVERY_S * self._table.rng.random()
        self._table.neighbours[peer] = None
        entry.connected_s = now_s
        self._exchange.greet(peer)
        self._releaser.make_room(now_s)
        self._table.effects.append(PeerChanged(peer))

    def _disconnected(self, peer: PeerId, now_s: float) -> None:
        entry = self._table.entries.get(peer)
        if entry is None or not entry.is_connected:
            return
        self._doubts.lose(entry)
        if entry.leaves_s is not None:
            self._dialler.released(entry, now_s)
        elif entry.member.state != "left":
            self._doubts.suspect(entry, self._table.own, now_s)
            self._dialler.dial(entry)
        self._table.effects.append(PeerChanged(peer))

    def _dial_failed(self, peer: PeerId, now_s: float) -> None:
        entry = self._table.entries.get(peer)
        if entry is None:
            return
        if entry.suspicion is not None and entry.was_reached and not entry.is_connected:
            self._doubts.die(entry, now_s)  # Nobody answers where somebody did.
        self._dialler.failed(entry, now_s)

    # --- adverts -----------------------------------------------------------------------------------------------------

    def _advert_seen(self, event: AdvertSeen, now_s: float) -> None:
        advert, peer = event.advert, event.peer
        if peer == self._table.own:
            return
        ahead_s = advert.issued_at_s - event.wall_s
        if ahead_s > CLOCK_SKEW_MAX_S:
            if len(self._ahead) < MEMBERS_MAX:
                self._ahead[peer] = ahead_s
            return
        self._ahead.pop(peer, None)
        if len(event.signed) > ADVERT_BYTES_MAX:
            return
        # One that takes another's place in a full table is not new to the swarm: it would be told on for ever.
        is_stranger = self._table.is_full and peer not in self._table.entries
        entry = self._table.entry(peer, now_s)
        if entry is None or (advert.incarnation, advert.sequence) <= entry.member.version:
            return
        old = entry.member.advert
        is_new = old is None or entry.member.state in ("dead", "left")
        is_news = is_new or entry.suspicion is not None or entry.is_doubted or _says_more(advert, old)
        is_news = is_news and not is_stranger
        entry.is_doubted = False
        entry.suspicion = None if advert.state == "left" or not entry.is_connected else entry.suspicion
        state = "left" if advert.state == "left" else "suspect" if entry.suspicion else "alive"
        entry.member = replace(
            entry.member, advert=advert, signed=event.signed, addresses=advert.addresses, state=state, heard_s=now_s
        )
        entry.fresh_s = now_s
        if state == "left":
            entry.ended_s = now_s
            self._table.wake(now_s + FORGET_AFTER_S)
        elif is_new and not entry.is_connected:
            self._dialler.heard_of(entry, now_s)
        if is_news:
            self._exchange.tell(entry, {"left": Rank.LEFT, "suspect": Rank.SEEN}.get(state, Rank.ALIVE))
        self._table.effects.append(PeerChanged(peer))
        for doubt in self._exchange.arrived(peer, entry.member.version):
            self._doubts.doubt(entry, doubt.by, doubt.by, now_s, is_dead=doubt.is_dead)

    # --- what others say ---------------------------------------------------------------------------------------------

    def _heard(self, peer: PeerId, message: object, now_s: float) -> None:
        entry = self._table.entries.get(peer)
        if entry is None or not entry.is_connected:
            return  # It is gone already.
        self._doubts.heard(entry, now_s)
        match message:
            case Probe(nonce, about, news):
                self._believe_news(news, peer, now_s)
                self._asked(peer, nonce, about, now_s)
            case ProbeAnswer(nonce, about, news):
                self._believe_news(news, peer, now_s)
                self._answered(peer, nonce, about, now_s)
            case News(news):
                self._believe_news(news, peer, now_s)
            case Digest(told):
                unknown = self._believe(told, peer, now_s)
                self._exchange.mend(peer, message, now_s)
                self._exchange.reader.shown(peer, message, unknown, now_s)
            case PageWanted(after):
                self._exchange.send_page(peer, after, now_s)
            case Page(told):
                self._believe(told, peer, now_s)
                self._exchange.reader.read(peer, message, now_s)
            case AdvertsWanted(keys):
                self._exchange.send_adverts(peer, keys, now_s)
            case Released():
                self._releaser.released(entry, now_s)

    def _believe_news(self, told: tuple[Known, ...], by: PeerId, now_s: float) -> None:
        self._believe(told, by, now_s)
        self._exchange.set_right(by, told, now_s)

    def _believe(self, told: tuple[Known, ...], by: PeerId, now_s: float) -> int:
        """How many were unknown."""
        unknown = 0
        wanted: list[bytes] = []
        for each in told:
            peer = peer_with(each.key)
            if peer == self._table.own:
                self._doubted(each, now_s)
                continue
            version, entry = (each.incarnation, each.sequence), self._table.entries.get(peer)
            is_doubt = each.state in ("suspect", "dead")
            if entry is None or version > entry.member.version:
                unknown += entry is None and not is_doubt
                is_due = (entry is not None or not is_doubt) and len(wanted) < DIGEST_PEERS_MAX
                if is_due and self._exchange.want(peer, now_s, is_urgent=is_doubt):
                    wanted.append(each.key)
                if is_doubt and peer in self._exchange.wanted:
                    self._exchange.wanted[peer].note(Doubt(version, by, each.state == "dead"))
            elif version == entry.member.version and is_doubt:
                origin = by if len(each.by) != len(each.key) else peer_with(each.by)
                # What this node has seen it knows itself: its own rumour that comes back is hearsay.
                origin = by if origin == self._table.own else origin
                self._doubts.doubt(entry, origin, by, now_s, is_dead=each.state == "dead")
            elif is_doubt:
                self._doubts.doubt_of_old(entry, now_s)
        if wanted:
            self._table.send(by, AdvertsWanted(tuple(wanted)))
        return unknown

    def _doubted(self, each: Known, now_s: float) -> None:
        """Somebody says this of this node itself."""
        own = self._exchange.own_advert
        if own is None or each.state not in ("suspect", "dead") or own.state == "left":
            return
        is_current = (each.incarnation, each.sequence) == (own.incarnation, own.sequence)
        if is_current and now_s >= self._refuted_s + REFUTE_EVERY_S:
            self._refuted_s = now_s
            self.health.worse()
            self._table.effects.append(Refute())

    # --- signs of life -----------------------------------------------------------------------------------------------

    def _asked(self, asker: PeerId, nonce: int, about: str, now_s: float) -> None:
        if not about:
            self._table.send(asker, ProbeAnswer(nonce))
        elif PeerId(about) in self._table.neighbours:
            own = self._prober.start_for(asker, nonce, now_s)
            if own is not None:
                self._table.send(PeerId(about), Probe(own))

    def _answered(self, peer: PeerId, nonce: int, about: str, now_s: float) -> None:
        probe = self._prober.waiting.get(nonce)
        if probe is not None and probe.peer == (PeerId(about) if about else peer):
            del self._prober.waiting[nonce]
            self.health.better()
            if not about:
                self._rtt(peer, now_s - probe.sent_s)
            return
        asked = None if about else self._prober.answered_for(nonce)
        if asked is not None and asked[0] in self._table.neighbours:
            self._table.send(asked[0], ProbeAnswer(asked[1], peer))

    def _rtt(self, peer: PeerId, rtt_s: float) -> None:
        entry = self._table.entries.get(peer)
        if entry is not None:
            old_s = entry.member.rtt_s
            entry.member = replace(entry.member, rtt_s=rtt_s if old_s is None else 0.75 * old_s + 0.25 * rtt_s)

    # --- time --------------------------------------------------------------------------------------------------------

    def _sweep(self, now_s: float) -> None:
        """Looks at every entry whose time may have come."""
        if now_s < self._table.sweeps_s:
            return
        self._table.begin_sweep(now_s)
        self._exchange.ask_again(now_s)
        for entry in list(self._table.entries.values()):
            self._releaser.sweep(entry, now_s)
            self._sweep_one(entry, now_s)
        self._releaser.make_room(now_s)
        self._dialler.fill(now_s)

    def _sweep_one(self, entry: Entry, now_s: float) -> None:
        peer = entry.member.peer
        self._doubts.sweep(entry, now_s)
        if entry.is_connected or entry.dialling:
            return
        if entry.member.state in ("dead", "left"):
            forget_s = entry.ended_s + FORGET_AFTER_S
        else:
            forget_s = entry.fresh_s + STALE_AFTER_S
        if now_s >= forget_s:
            del self._table.entries[peer]
            self._table.effects.append(PeerChanged(peer))
            return
        self._table.wake(forget_s)
        if now_s < entry.redial_s:
            self._table.wake(entry.redial_s)


def _says_more(advert: Advert, old: Advert | None) -> bool:
    """Whether the advert says anything beside being newer."""
    return old is None or replace(advert, sequence=0, issued_at_s=0.0) != replace(old, sequence=0, issued_at_s=0.0)


def _is_known(entry: Entry) -> bool:
    return entry.member.advert is not None or entry.was_reached
