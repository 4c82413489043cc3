from __future__ import annotations

import dataclasses

import pytest

from peerinfer.config import CACHE_BYTES_MIN, DEFAULTS, SETTINGS, NodeConfig
from peerinfer.errors import UsageError
from peerinfer.ids import peer_id_of
from peerinfer.invites import Invite, PrivateSwarm, format_invite
from peerinfer.units import DailyWindow, WeeklyWindow

PEER = peer_id_of(bytes(range(32)))

AVAILABLE = {
    "relay",
    "name",
    "listen",
    "bootstrap",
    "mdns",
    "device",
    "cpu_threads",
    "max_vram",
    "max_temp",
    "max_power",
    "idle_only",
    "on_battery",
    "allow_unsandboxed",
    "own_jobs_first",
    "exclusive",
    "schedule",
    "max_up",
    "max_down",
    "max_daily",
    "api",
    "models",
    "max_cache",
    "swarm",
    "log_format",
    "log_level",
}

SAMPLES = {
    "name": "box",
    "listen": "/ip4/0.0.0.0/tcp/4001,/ip6/::/tcp/0",
    "bootstrap": f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER},/dns4/peer.example.org/tcp/1/p2p/{PEER}",
    "mdns": "no",
    "relay": "yes",
    "device": "cpu",
    "cpu_threads": "4",
    "max_vram": "8GiB",
    "max_temp": "80.5",
    "max_power": "150",
    "idle_only": "on",
    "on_battery": "yes",
    "allow_unsandboxed": "yes",
    "own_jobs_first": "yes",
    "exclusive": "blender,game.exe",
    "schedule": "mon-fri 22:00-08:00,12:00-13:00",
    "max_up": "10MB/s",
    "max_down": "50Mbit/s",
    "max_daily": "5GiB",
    "max_cache": "1.5G",
    "api": "127.0.0.1:7741",
    "models": "/srv/models",
    "swarm": format_invite(Invite(PrivateSwarm("lab", b"k" * 32))),
    "log_format": "json",
    "log_level": "debug",
}


def test_exactly_the_promised_settings_are_available() -> None:
    assert SETTINGS.keys() == AVAILABLE
    assert SAMPLES.keys() == SETTINGS.keys()


@pytest.mark.parametrize("key", SAMPLES)
def test_every_setting_reads_what_it_shows(key: str) -> None:
    setting = SETTINGS[key]
    value = setting.read(SAMPLES[key])
    assert value != getattr(DEFAULTS, setting.field)
    assert setting.read(setting.text(value)) == value
    default = getattr(DEFAULTS, setting.field)
    assert setting.read(setting.text(default)) == default


def test_texts_become_values_in_the_field_s_unit() -> None:
    read = {key: SETTINGS[key].read(text) for key, text in SAMPLES.items()}
    assert read["listen"] == ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/0")
    assert read["mdns"] is False
    assert read["cpu_threads"] == 4
    assert read["max_cache"] == 3 * 2**29
    assert read["max_down"] == 6_250_000
    assert read["schedule"] == (WeeklyWindow(DailyWindow(1320, 480), 0, 4), WeeklyWindow(DailyWindow(720, 780)))


def test_values_of_toml_are_read_as_they_are() -> None:
    assert SETTINGS["mdns"].read(False) is False
    assert SETTINGS["cpu_threads"].read(8) == 8
    assert SETTINGS["max_cache"].read(2**30) == 2**30
    assert SETTINGS["listen"].read(["/ip4/127.0.0.1/tcp/1"]) == ("/ip4/127.0.0.1/tcp/1",)
    assert SETTINGS["listen"].read([]) == ()
    assert SETTINGS["max_temp"].read(80) == 80.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "x" * 65),
        ("name", "a\nb"),
        ("name", True),
        ("name", ["a"]),
        ("listen", "localhost:4001"),
        ("listen", "/ip4/0.0.0.0/udp/4001"),
        ("listen", "/ip4/300.0.0.1/tcp/1"),
        ("listen", "/ip6/127.0.0.1/tcp/1"),
        ("listen", "/ip4/0.0.0.0/tcp/65536"),
        ("listen", [1]),
        ("listen", ["/ip4/127.0.0.1/tcp/1"] * 17),
        ("bootstrap", "/ip4/192.0.2.7/tcp/4001"),
        ("bootstrap", "/ip4/192.0.2.7/tcp/4001/p2p/notapeer"),
        ("bootstrap", f"/ip4/192.0.2.7/tcp/0/p2p/{PEER}"),
        ("bootstrap", f"/dns4/bad host/tcp/1/p2p/{PEER}"),
        ("mdns", "perhaps"),
        ("mdns", 2),
        ("device", "tpu"),
        ("device", "gpu:x"),
        ("device", "auto,cpu"),
        ("device", "cpu,cpu"),
        ("device", "cpu,openvino"),
        ("device", ""),
        ("cpu_threads", "0"),
        ("cpu_threads", "-1"),
        ("cpu_threads", "2.5"),
        ("cpu_threads", 1025),
        ("cpu_threads", True),
        ("max_temp", "20"),
        ("max_temp", float("nan")),
        ("schedule", "22:00-08:00,07:00-09:00"),
        ("max_up", "100kB/s"),
        ("max_daily", "1MiB"),
        ("max_cache", "1MiB"),
        ("max_cache", "-5"),
        ("api", "7741"),
        ("api", "127.0.0.1:99999"),
        ("log_format", "xml"),
        ("log_level", "DEBUG"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_line(key: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        SETTINGS[key].read(value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_messages_about_two_values_print_both() -> None:
    with pytest.raises(UsageError, match=r"22:00-08:00 and 07:00-09:00 overlap"):
        SETTINGS["schedule"].read("22:00-08:00,07:00-09:00")
    with pytest.raises(UsageError, match=r"1 MiB .* 64 MiB"):
        SETTINGS["max_cache"].read("1MiB")
    with pytest.raises(UsageError, match=r"100 kB/s .* 30 s .* 280 kB/s"):
        SETTINGS["max_up"].read("100kB/s")


@pytest.mark.parametrize(
    ("first", "second", "collide"),
    [
        ("/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4001", True),
        ("/ip4/0.0.0.0/tcp/4001", "/ip4/127.0.0.1/tcp/4001", True),
        ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001", False),
        ("/ip4/10.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4001", False),
        ("/ip4/10.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0", False),
        ("/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1/tcp/0", False),
    ],
)
def test_two_doors_on_one_port_are_seen_before_the_start(first: str, second: str, collide: bool) -> None:
    if not collide:
        assert NodeConfig(listen=(first, second)).listen == (first, second)
        return
    with pytest.raises(UsageError) as caught:
        NodeConfig(listen=(first, second))
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_a_config_checks_itself_however_it_was_made() -> None:
    with pytest.raises(UsageError, match="max_cache: 1 MiB"):
        NodeConfig(max_cache_bytes=2**20)
    with pytest.raises(UsageError, match="bootstrap: "):
        dataclasses.replace(DEFAULTS, bootstrap=("nobody",))
    assert NodeConfig(max_cache_bytes=CACHE_BYTES_MIN).max_cache_bytes == CACHE_BYTES_MIN


def test_a_node_without_door_and_without_anybody_to_meet_is_standalone() -> None:
    assert not DEFAULTS.is_standalone
    assert NodeConfig(listen=(), mdns=False).is_standalone


def test_names_follow_from_the_key() -> None:
    assert SETTINGS["max_cache"].flag == "--max-cache"
    assert SETTINGS["max_cache"].variable == "PEERINFER_MAX_CACHE"
    assert SETTINGS["max_cache"].field == "max_cache_bytes"
    assert SETTINGS["mdns"].flag == "--no-mdns"
