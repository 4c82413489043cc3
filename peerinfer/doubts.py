"""Whether somebody still lives: neighbours are asked, of others it is weighed what is said of them.

A neighbour's answer is the only proof of its life, and its silence the only reason to call it dead. What others say of a
neighbour makes this node ask at once, and again every 0.3 s, in place of one question and a detour through helpers: who
says it has asked before. If the neighbour is silent to this node as well, those who said so before count as witnesses, so
that all neighbours of a peer come to their end together and not each after a round of its own.

Of others nothing is decided here: a suspicion waits for the verdict of those who see the peer themselves. News is told
a few times and then rests, so a verdict may miss somebody; who has waited for two seconds asks its neighbours, one after
the other, and those that know better say so (`Exchange.set_right`).
"""

from __future__ import annotations

from dataclasses import replace

from peerinfer.dialling import Dialler
from peerinfer.exchange import Exchange
from peerinfer.ids import PeerId
from peerinfer.machine import NEVER
from peerinfer.member_messages import Probe
from peerinfer.member_table import Entry, Table
from peerinfer.membership_events import Drop, PeerChanged
from peerinfer.news import Rank, known
from peerinfer.probing import HELPERS, PROBE_EVERY_S, Prober
from peerinfer.suspicion import CONFIRMATIONS_MAX, SUSPICION_MAX_S, Health, Suspicion

ASK_SUSPECT_EVERY_S = 0.3
ASK_OTHERS_EVERY_S = 2.0
"""How often a neighbour is asked what became of a peer that this node has only heard rumours of."""

VERDICT_WAIT_S = 15.0
"""A suspicion that one was only told of is forgotten after this time, if nobody called the peer dead."""

DEATH_WITNESSES = 2
"""Who is called dead by somebody, and suspected by so many in all, is dead at once: one liar cannot bury anybody."""


class Doubts:
    """The part of membership that decides who is dead."""

    def __init__(self, table: Table, exchange: Exchange, dialler: Dialler, prober: Prober) -> None:
        self._table = table
        self._exchange = exchange
        self._dialler = dialler
        self._prober = prober
        self.health = Health()
        self.heard_s = -NEVER
        """When anybody was heard last."""
        self.probe_s = NEVER

    # --- asking ------------------------------------------------------------------------------------------------------

    def probe_next(self, now_s: float) -> None:
        if now_s < self.probe_s:
            return
        self.probe_s = now_s + PROBE_EVERY_S * (0.9 + 0.2 * self._table.rng.random())
        silent = [peer for peer in self._table.neighbours if self._is_silent(self._table.entries[peer], now_s)]
        peer = self._prober.choose(silent)
        if peer is not None:
            self._probe(self._table.entries[peer], now_s)

    def check_probes(self, now_s: float) -> None:
        for nonce, probe in list(self._prober.waiting.items()):
            if now_s < probe.deadline_s:
                continue
            if not probe.has_asked_others:
                probe.has_asked_others = True
                # Also when this is late: they need time to answer.
                probe.fails_s = max(probe.fails_s, now_s + probe.fails_s - probe.ask_others_s)
                others = [peer for peer in self._table.neighbours if peer != probe.peer]
                for helper in self._table.rng.sample(others, min(HELPERS, len(others))):
                    self._table.send(helper, Probe(nonce, probe.peer))
                continue
            del self._prober.waiting[nonce]
            if self.heard_s <= probe.sent_s:
                self.health.worse()  # Nobody at all was heard: the fault may be here.
            self.suspect(self._table.entries[probe.peer], self._table.own, now_s)

    def _is_silent(self, entry: Entry, now_s: float) -> bool:
        return now_s - entry.member.heard_s >= PROBE_EVERY_S

    def _probe(self, entry: Entry, now_s: float) -> None:
        peer = entry.member.peer
        nonce = self._prober.start(peer, entry.member.rtt_s, self.health.stretch, now_s)
        if nonce is not None:
            # Who is doubted must hear of it to refute it.
            is_doubted = (entry.is_doubted or entry.suspicion is not None) and entry.member.advert is not None
            news = (known(peer, *entry.member.version, "suspect", self._table.own),) if is_doubted else ()
            self._table.send(peer, Probe(nonce, news=news))

    def _ask_at_once(self, entry: Entry, now_s: float) -> None:
        """Asks a neighbour of whom others say that it is gone."""
        if not self._prober.is_waiting_for(entry.member.peer):
            self._probe(entry, now_s)
            entry.ask_s = now_s + ASK_SUSPECT_EVERY_S
        if self._is_silent(entry, now_s):
            self._prober.hurry(entry.member.peer)
        self._table.wake(entry.ask_s)

    def _ask_again(self, entry: Entry, now_s: float) -> None:
        """A lost packet must not cost a life: a neighbour that is doubted is asked again and again."""
        if entry.is_connected and entry.member.advert is not None:
            if now_s >= entry.ask_s:
                entry.ask_s = now_s + ASK_SUSPECT_EVERY_S
                doubt = known(entry.member.peer, *entry.member.version, "suspect", self._table.own)
                self._table.send(entry.member.peer, Probe(self._prober.next_nonce(), news=(doubt,)))
            self._table.wake(entry.ask_s)

    def _ask_others(self, entry: Entry, now_s: float) -> None:
        if now_s >= entry.ask_s:
            entry.ask_s = now_s + ASK_OTHERS_EVERY_S
            self._exchange.ask_about(entry, now_s)
        self._table.wake(entry.ask_s)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def heard(self, entry: Entry, now_s: float) -> None:
        """The neighbour has said something: it lives."""
        self.heard_s = now_s
        entry.member = replace(entry.member, heard_s=now_s)
        entry.doubters.clear()
        if entry.suspicion is not None:
            self._believe_alive(entry)

    def doubt(self, entry: Entry, origin: PeerId, teller: PeerId, now_s: float, *, is_dead: bool = False) -> None:
        """Somebody suspects this peer, or calls it dead. Of a neighbour that is only a reason to ask it."""
        if entry.member.state not in ("alive", "suspect"):
            return
        if entry.is_connected and entry.suspicion is None:
            entry.is_doubted = True
            # One teller takes one place, whatever names it gives: honest witnesses need the others.
            has_room = len(entry.doubters) < CONFIRMATIONS_MAX and teller not in entry.doubters.values()
            if has_room and self._is_silent(entry, now_s):
                entry.doubters.setdefault(origin, teller)
            self._ask_at_once(entry, now_s)
            return
        suspicion = entry.suspicion
        is_rumour = suspicion is None or suspicion.origin != self._table.own
        is_new = suspicion is None or (is_dead and suspicion.verdict_s is None)
        if is_rumour and is_new and not self._exchange.believes(teller, now_s, is_dead=is_dead):
            return
        suspicion = suspicion or self.suspect(entry, origin, now_s)
        suspicion.confirm(origin, teller)
        if is_dead:
            suspicion.condemn(teller, now_s)
            witnesses = len(suspicion.tellers) + (suspicion.origin == self._table.own)
            if witnesses >= DEATH_WITNESSES:
                self.die(entry, now_s)
                return
        self._table.wake(self._decides_s(entry, suspicion))

    def doubt_of_old(self, entry: Entry, now_s: float) -> None:
        """Somebody doubts a peer in a version that is out of date here: of a neighbour that is silent, a reason to ask."""
        if entry.is_connected and entry.suspicion is None and self._is_silent(entry, now_s):
            self._ask_at_once(entry, now_s)

    def suspect(self, entry: Entry, origin: PeerId, now_s: float) -> Suspicion:
        suspicion = entry.suspicion
        is_own = origin == self._table.own
        if suspicion is None:
            others = len(self._table.neighbours) - entry.is_connected
            suspicion = entry.suspicion = Suspicion(now_s, origin, others, self.health.stretch)
            entry.member = replace(entry.member, state="suspect")
            entry.ask_s = now_s if is_own else now_s + ASK_OTHERS_EVERY_S
            if is_own:
                for first, teller in entry.doubters.items():
                    suspicion.confirm(first, teller)
            self._table.effects.append(PeerChanged(entry.member.peer))
            self._exchange.tell(entry, Rank.SEEN if is_own else Rank.RUMOUR)
        elif is_own and suspicion.origin != self._table.own:
            # Now this node has seen it for itself.
            first = suspicion.origin
            suspicion.origin, suspicion.started_s = origin, now_s
            suspicion.confirm(first, first)
        self._table.wake(now_s)
        return suspicion

    def die(self, entry: Entry, now_s: float) -> None:
        peer = entry.member.peer
        if entry.is_connected:
            self.lose(entry)
            self._table.effects.append(Drop(peer))
        is_own = entry.suspicion is not None and entry.suspicion.origin == self._table.own
        entry.suspicion = None
        entry.ended_s = now_s
        entry.member = replace(entry.member, state="dead")
        self._dialler.lost(entry, now_s)
        self._exchange.tell(entry, Rank.SEEN if is_own else Rank.DEATH)
        self._table.effects.append(PeerChanged(peer))

    def lose(self, entry: Entry) -> None:
        """It is no neighbour any more."""
        entry.is_connected = False
        entry.doubters.clear()
        entry.pages = None
        entry.member = replace(entry.member, path="")
        del self._table.neighbours[entry.member.peer]
        self._prober.forget(entry.member.peer)
        if not self._table.neighbours:
            self.probe_s = self._exchange.sync_s = NEVER

    def sweep(self, entry: Entry, now_s: float) -> None:
        suspicion = entry.suspicion
        if suspicion is None:
            if entry.is_doubted and self._prober.is_waiting_for(entry.member.peer):
                self._ask_again(entry, now_s)
            return
        decides_s = self._decides_s(entry, suspicion)
        if now_s < decides_s:
            self._table.wake(decides_s)
            if suspicion.origin == self._table.own:
                self._ask_again(entry, now_s)
            elif suspicion.verdict_s is None:
                self._ask_others(entry, now_s)
        elif suspicion.origin == self._table.own or suspicion.verdict_s is not None:
            self.die(entry, now_s)
        else:
            self._believe_alive(entry)  # Whoever began it has changed its mind.

    def _believe_alive(self, entry: Entry) -> None:
        entry.suspicion = None
        entry.member = replace(entry.member, state="alive")
        self._table.effects.append(PeerChanged(entry.member.peer))

    def _decides_s(self, entry: Entry, suspicion: Suspicion) -> float:
        """When the suspicion is over. Who has seen nothing itself leaves the verdict to those who have."""
        if suspicion.origin == self._table.own:
            return suspicion.deadline_s
        if suspicion.verdict_s is not None:
            return suspicion.verdict_s + SUSPICION_MAX_S
        return suspicion.started_s + VERDICT_WAIT_S
