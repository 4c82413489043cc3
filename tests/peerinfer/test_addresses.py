"""Addresses as text: in which networks they lead to a peer."""

import pytest

from peerinfer.addresses import CIRCUIT, families
from peerinfer.ids import peer_id_of

ADA = peer_id_of(bytes(32))


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        ((), set()),
        (("/ip4/192.0.2.1/tcp/1",), {"ip4"}),
        (("/ip6/2001:db8::1/tcp/1",), {"ip6"}),
        (("/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1"), {"ip4", "ip6"}),
        (("/dns/example.org/tcp/1",), {"ip4", "ip6"}),
        (("/dns6/example.org/tcp/1",), {"ip6"}),
        (("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"), set()),
        (("", "/", "x", "/ip4", "/ip4//tcp", "/ip4/::1/tcp/1", "/ip6/1.2.3.4", "/unix/a", "/dns/../tcp/1"), set()),
        ((f"/ip4/192.0.2.1/tcp/1/p2p/{ADA}{CIRCUIT}{ADA}",), set()),
    ],
    ids=[
        "none",
        "ipv4",
        "ipv6",
        "both",
        "a name",
        "a name on ipv6",
        "this machine alone",
        "nonsense",
        "through a relay",
    ],
)
def test_addresses_lead_to_a_peer_in_networks_of_their_kind(addresses, found):
    assert families(addresses) == found
