"""A membership machine that tests drive by hand."""

import random

from peerinfer.ids import peer_id_of
from peerinfer.machine import Tick
from peerinfer.member_messages import Probe, ProbeAnswer
from peerinfer.membership import Membership
from peerinfer.membership_events import (
    AdvertSeen,
    Connected,
    Dial,
    Drop,
    Heard,
    OwnAdvert,
    PeerChanged,
    Refute,
    Send,
)
from peerinfer.messages import Advert

OWN, ADA, BOB, CID, DAN, EVE, *CROWD = (peer_id_of(number.to_bytes(32, "big")) for number in range(500))


def advert_of(peer, sequence=1, *, incarnation=1, state="running", issued_at_s=0.0, name=""):
    addresses = (f"/ip4/192.0.2.9/tcp/4001/p2p/{peer}",)
    return Advert(incarnation, sequence, issued_at_s, name, "t", addresses, state, (), (), (), "none")


class Driven:
    """A machine with a clock, and its effects since they were last asked for."""

    def __init__(self, **options):
        self.machine = Membership(OWN, random.Random(1), **options)
        self.now_s = 100.0
        self.effects = []
        self.post(OwnAdvert(advert_of(OWN), b"own 1"))

    def post(self, *events):
        for event in events:
            self.effects += self.machine.handle(event, self.now_s)
            self.machine.check()

    def advert(self, peer, sequence=1, **more):
        advert = advert_of(peer, sequence, **more)
        self.post(AdvertSeen(peer, advert, f"{peer} {advert.incarnation} {sequence}".encode(), self.now_s))

    def meet(self, *peers):
        for peer in peers:
            self.post(Connected(peer, "direct"))
            self.advert(peer)

    def pass_time(self, seconds, *, answering=()):
        end_s = self.now_s + seconds
        while self.machine.deadline_s <= end_s:
            self.now_s = max(self.machine.deadline_s, self.now_s)
            seen = len(self.effects)
            self.post(Tick())
            for effect in self.effects[seen:]:
                is_probe = isinstance(effect, Send) and isinstance(effect.message, Probe) and not effect.message.peer
                if is_probe and effect.peer in answering:
                    self.post(Heard(effect.peer, ProbeAnswer(effect.message.nonce)))
        self.now_s = end_s

    def take(self, kind, to=None):
        """The effects of a kind, or messages of a kind that were sent; all are forgotten."""
        found, self.effects = self.effects, []
        if issubclass(kind, (Send, Dial, Drop, Refute, PeerChanged)):
            return [effect for effect in found if isinstance(effect, kind)]
        sent = [effect for effect in found if isinstance(effect, Send) and isinstance(effect.message, kind)]
        return [effect.message for effect in sent if to in (None, effect.peer)]

    def state(self, peer):
        member = self.machine.member(peer)
        return member.state if member else None
