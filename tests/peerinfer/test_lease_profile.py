"""Which lease a job takes: by how far its electors are, stated once, and no other."""

from dataclasses import replace

import pytest
from lease_setting import PEERS, Setting, keys

from peerinfer.envelope import seal
from peerinfer.errors import DecodeError, ProtocolError
from peerinfer.lease_profile import LAN, LAN_RTT_S_MAX, SOLO, STATED, WAN, Distance, choose_profile
from peerinfer.manifests import open_manifest, profile_of


@pytest.mark.parametrize(
    ("distances", "profile"),
    [
        ([], LAN),
        ([Distance(0.001, False), Distance(LAN_RTT_S_MAX, True)], LAN),
        ([Distance(0.001, False), Distance(LAN_RTT_S_MAX + 1e-9, False)], WAN),
        ([Distance(None, False), Distance(0.001, False)], LAN),
        ([Distance(None, True), Distance(0.001, False)], WAN),
    ],
)
def test_electors_that_are_far_take_the_long_lease(distances, profile):
    assert choose_profile(distances) is profile


def stated(lease_s, electors=3, submitter=7):
    manifest = replace(Setting(electors, submitter=submitter).manifest, lease_s=lease_s)
    return seal(manifest, PEERS[submitter], keys(submitter).sign)


@pytest.mark.parametrize("lease_s", STATED)
def test_everybody_goes_by_what_the_manifest_states(lease_s):
    _, manifest = open_manifest(stated(lease_s))
    assert profile_of(manifest) is STATED[lease_s]


def test_a_node_that_elects_alone_takes_its_time():
    _, manifest = open_manifest(stated(3.0, electors=1, submitter=0))
    assert profile_of(manifest) is SOLO


@pytest.mark.parametrize("lease_s", [0.0, -3.0, 2.999, 60.0, 1e300, float("inf"), float("nan")])
def test_a_manifest_with_another_lease_is_refused(lease_s):
    with pytest.raises((ProtocolError, DecodeError)):
        open_manifest(stated(lease_s))
