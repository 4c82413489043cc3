import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerinfer.errors import UsageError
from peerinfer.ids import base58_decode, base58_encode, peer_id_of
from peerinfer.invites import PREFIX, Invite, PrivateSwarm, check_name, format_invite, parse_invite
from peerinfer.limits import ADDRESSES_PER_PEER_MAX, INVITE_CHARS_MAX, INVITE_PEERS_MAX

KEY = bytes(range(32))
PEERS = [peer_id_of(bytes([number]) * 32) for number in range(12)]
SWARM = PrivateSwarm("lab", KEY)


def address(peer, host="192.0.2.7"):
    return f"/ip4/{host}/tcp/4001/p2p/{peer}"


def test_an_invite_says_what_was_put_into_it():
    relayed = f"{address(PEERS[1])}/p2p-circuit/p2p/{PEERS[2]}"
    bootstrap = (address(PEERS[0]), f"/dns4/lab.example.org/tcp/443/p2p/{PEERS[0]}", relayed)
    invite = Invite(SWARM, bootstrap, 1_900_000_000)
    text = format_invite(invite)
    assert text.startswith(PREFIX)
    assert text.removeprefix(PREFIX).isalnum()
    assert parse_invite(text) == invite


def test_white_space_from_a_mail_or_a_terminal_does_no_harm():
    text = format_invite(Invite(SWARM, (address(PEERS[0]),)))
    broken = "\n  ".join(text[i : i + 20] for i in range(0, len(text), 20))
    assert parse_invite(f" {broken}\r\n") == parse_invite(text)


def test_any_single_wrong_or_missing_character_is_found():
    text = format_invite(Invite(SWARM, (address(PEERS[0]),)))
    for position in range(len(PREFIX), len(text)):
        other = "2" if text[position] != "2" else "3"
        for damaged in (text[:position] + other + text[position + 1 :], text[:position] + text[position + 1 :]):
            with pytest.raises(UsageError, match="damaged"):
                parse_invite(damaged)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "begins with peerinfer1:"),
        ("lab", "begins with peerinfer1:"),
        ("peerinfer2:abc", "newer version"),
        (PREFIX, "damaged"),
        (PREFIX + "0OIl", "damaged"),
        (PREFIX + "é" * 9, "damaged"),
        (PREFIX + "2" * INVITE_CHARS_MAX, "longer than"),
    ],
)
def test_what_is_no_invite_is_refused_with_the_reason(text, hint):
    with pytest.raises(UsageError, match=hint):
        parse_invite(text)


@given(st.text(alphabet="123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=200) | st.text())
@settings(max_examples=200)
def test_any_text_is_an_invite_or_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_invite(PREFIX + text)


def test_a_sound_checksum_over_nonsense_is_no_invite():
    from hashlib import sha256

    from peerinfer.codec import encode
    from peerinfer.member_messages import (
        InviteContents,
        InvitedPeer,
    )

    nowhere = encode(InviteContents("lab", KEY, 0, (InvitedPeer(bytes(32), ("/ip4/1.2.3.4/udp/1",)),)))
    unnamed = encode(InviteContents("\x1b[2J", KEY, 0, ()))
    for payload, hint in ((b"\x93\x01\x02", "does not understand"), (nowhere, "nobody can dial"), (unnamed, "no name")):
        with pytest.raises(UsageError, match=hint):
            parse_invite(PREFIX + base58_encode(payload + sha256(payload).digest()[:4]))


def test_an_invite_holds_a_few_members_and_drops_the_rest():
    text = format_invite(Invite(SWARM, tuple(address(peer) for peer in PEERS)))
    assert parse_invite(text).bootstrap == tuple(address(peer) for peer in PEERS[:INVITE_PEERS_MAX])


def test_the_largest_invite_fits_its_limit():
    longest = [f"/dns4/{'a' * 63}.{'b' * 63}.{n:02}.example.org/tcp/65535" for n in range(ADDRESSES_PER_PEER_MAX)]
    text = format_invite(Invite(SWARM, tuple(f"{place}/p2p/{PEERS[0]}" for place in longest)))
    assert len(text) < INVITE_CHARS_MAX
    assert len(base58_decode(text.removeprefix(PREFIX))) > 2000


def test_an_address_that_nobody_could_dial_does_not_get_into_an_invite():
    with pytest.raises(UsageError, match="not the address of a peer"):
        format_invite(Invite(SWARM, ("/ip4/192.0.2.7/tcp/4001",)))


def test_an_expired_invite_says_what_to_do():
    invite = Invite(SWARM, (), 1000)
    invite.check_in_time(999.9)
    Invite(SWARM, ()).check_in_time(1e12)
    with pytest.raises(UsageError, match="expired 1s ago; ask a member"):
        invite.check_in_time(1000)
    with pytest.raises(UsageError, match="expired 10d12h ago"):
        invite.check_in_time(1000 + 10.5 * 86400)


@pytest.mark.parametrize("name", ["", "a b", "-lab", "läb", "x" * 33, "lab\n", "../lab"])
def test_a_name_that_could_not_be_typed_or_shown_is_refused(name):
    with pytest.raises(UsageError, match="no name for a swarm"):
        check_name(name)


def test_a_swarm_shows_its_key_to_nobody():
    assert KEY.hex() not in repr(SWARM) + str(SWARM)
    assert repr(KEY) not in repr(Invite(SWARM))
    assert SWARM.tag != PrivateSwarm("lab", KEY[::-1]).tag
    assert SWARM.tag == PrivateSwarm("other", KEY).tag
