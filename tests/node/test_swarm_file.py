import stat

import pytest

from peerinfer.config import NodeConfig
from peerinfer.errors import StateUnusable, UsageError
from peerinfer.ids import peer_id_of
from peerinfer.invites import Invite, PrivateSwarm, format_invite, parse_invite
from peerinfer_node.home import Home
from peerinfer_node.swarm_file import (
    choose_port,
    read_swarm,
    remember_port,
    remembered_port,
    settle,
    swarm_path,
    write_swarm,
)

LAB = PrivateSwarm("lab", b"k" * 32)
FIRST, SECOND = (f"/ip4/192.0.2.{n}/tcp/4001/p2p/{peer_id_of(bytes([n]) * 32)}" for n in (1, 2))


@pytest.fixture
def home(tmp_path):
    found = Home.resolve({"PEERINFER_HOME": str(tmp_path)})
    found.prepare()
    return found


def test_a_home_without_a_swarm_is_in_the_open_one(home):
    assert read_swarm(home) is None
    assert settle(home, NodeConfig(), wall_s=0, keeps=True) == NodeConfig()
    assert not swarm_path(home).exists()


def test_joining_once_is_enough_and_only_the_owner_can_read_the_key(home):
    invite = Invite(LAB, (FIRST,), 100)
    joined = settle(home, NodeConfig(swarm=format_invite(invite)), wall_s=50, keeps=True)
    assert stat.S_IMODE(swarm_path(home).stat().st_mode) == 0o600
    assert parse_invite(joined.swarm) == Invite(LAB, (FIRST,))
    later = settle(home, NodeConfig(), wall_s=1e9, keeps=True)
    assert parse_invite(later.swarm) == Invite(LAB, (FIRST,)), "who is in stays in, although the invite has expired"


def test_a_second_invite_to_the_same_swarm_brings_its_addresses_even_if_it_has_expired(home):
    write_swarm(home, Invite(LAB, (FIRST,)))
    settle(home, NodeConfig(swarm=format_invite(Invite(LAB, (SECOND,), 1))), wall_s=9, keeps=True)
    assert read_swarm(home) == Invite(LAB, (SECOND, FIRST))


def test_an_expired_invite_lets_nobody_in(home):
    with pytest.raises(UsageError, match="expired"):
        settle(home, NodeConfig(swarm=format_invite(Invite(LAB, (), 1))), wall_s=2, keeps=True)
    assert read_swarm(home) is None


@pytest.mark.parametrize("name", ["other", "lab"])
def test_a_home_belongs_to_one_swarm(home, name):
    write_swarm(home, Invite(LAB))
    other = NodeConfig(swarm=format_invite(Invite(PrivateSwarm(name, b"o" * 32))))
    with pytest.raises(UsageError, match=r"belongs to swarm lab.*PEERINFER_HOME"):
        settle(home, other, wall_s=0, keeps=True)
    assert parse_invite(settle(home, other, wall_s=0, keeps=False).swarm).swarm.name == name
    assert read_swarm(home) == Invite(LAB)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"invite": 3}', '{"invite": "peerinfer1:2"}', "\xff", "[" * 60000])
def test_a_damaged_file_is_said_in_one_line(home, text):
    write_swarm(home, Invite(LAB))
    swarm_path(home).write_text(text, "latin-1")
    with pytest.raises(StateUnusable, match="damaged; remove it") as caught:
        read_swarm(home)
    assert "\n" not in str(caught.value)


def test_a_key_that_others_can_read_is_not_used(home):
    write_swarm(home, Invite(LAB))
    swarm_path(home).chmod(0o640)
    with pytest.raises(StateUnusable, match="chmod 600"):
        read_swarm(home)


def test_a_node_keeps_the_port_that_its_invites_name(home):
    assert remembered_port(home) is None
    port = choose_port(home)
    assert choose_port(home) == remembered_port(home) == port
    remember_port(home, 4001)
    assert choose_port(home) == 4001
    for damaged in ("", "x", "80", "99999", "4001" * 9):
        (home.data / "port").write_text(damaged)
        assert remembered_port(home) is None
