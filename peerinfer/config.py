"""What an owner may decide about a node: one frozen object, each setting with its unit, its effect and its price.

`SETTINGS` describes the same fields to those who read them from text: command line, environment, config.toml. Where
neither field nor key names a unit, there is none.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from peerinfer.addresses import is_dialable, is_ip, is_port
from peerinfer.errors import UsageError
from peerinfer.limits import ADDRESSES_PER_PEER_MAX, BODY_BYTES_MAX, GIB, MIB, WRITE_TIMEOUT_S
from peerinfer.units import WeeklyWindow, format_rate, format_size, parse_rate, parse_size, parse_weekly

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

NODE_NAME_CHARS_MAX = 64
"""A name stands in tables on other people's screens."""

BOOTSTRAP_MAX = 64
"""Every one is dialled at the start."""

CPU_THREADS_MAX = 1024
CACHE_BYTES_MIN = 64 * MIB
"""A smaller cache could not hold one usual model, and would fetch it again for every frame."""

VRAM_BYTES_MIN = 256 * MIB
"""A driver and ONNX Runtime take about as much before there is a model."""

DAILY_BYTES_MIN = 64 * MIB
"""Being a member takes 6 MB a day, and one usual model more than the rest of this."""

SCHEDULE_WINDOWS_MAX = 24
EXCLUSIVE_MAX = 64
"""Every process of the machine is compared with each, twice a second."""

_DEVICE = re.compile(r"auto|cpu|openvino|gpu:[0-9]{1,3}")
_SETTING = "peerinfer.setting"


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of `NodeConfig` is read from text and shown to people."""

    key: str
    """Its name in config.toml; with dashes on the command line, in capitals in the environment."""
    convert: Callable[[str], Any]
    """One value (of a list: one element) from text. Raises `UsageError`."""
    check: Callable[[Any], None]
    """Of the whole value. Raises `UsageError`."""
    show: Callable[[Any], str]
    """Of one value (of a list: one element); what `convert` reads."""
    is_list: bool = False
    is_switch: bool = False
    field: str = ""

    @property
    def flag(self) -> str:
        return "--no-mdns" if self.key == "mdns" else "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return "PEERINFER_" + self.key.upper()

    def read(self, value: object) -> Any:
        """The field's value from text, or from what TOML and argparse make of it. Raises `UsageError`."""
        if self.is_switch and isinstance(value, bool):
            read: Any = value
        elif self.is_list:
            parts = value.split(",") if isinstance(value, str) else value
            if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
                raise UsageError("write a list of texts")
            read = tuple(self.convert(part.strip()) for part in parts if part.strip())
        elif isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UsageError("write true or false" if self.is_switch else "write one value")
        else:
            read = self.convert(str(value).strip())
        self.check(read)
        return read

    def text(self, value: Any) -> str:
        """The field's value as text that `read` understands."""
        return ",".join(self.show(part) for part in value) if self.is_list else self.show(value)


# --- values --------------------------------------------------------------------------------------------------------


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"not a whole number: {text[:64]!r}")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise UsageError(f"not a number: {text[:64]!r}")
    return float(text)


def _switch(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise UsageError(f"neither true nor false: {text[:64]!r}")


def _or_none(word: str, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == word else convert(text)


def _show_none_as(word: str, show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: word if value is None else show(value)


def _show_size(size_bytes: int) -> str:
    """Exact, unlike `format_size`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size_bytes and size_bytes % 1024**power == 0:
            return f"{size_bytes // 1024**power}{unit}"
    return f"{size_bytes}B"


def _fits(_: Any) -> None:
    return None


def _one_of(*choices: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value not in choices:
            raise UsageError(f"{str(value)[:64]!r} is not a choice: choose {', '.join(choices)}")

    return check


def _between(low: float, high: float, unit: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise UsageError(f"{value:g} is out of bounds: give {low:g} to {high:g}{unit}")

    return check


def _check_name(value: str) -> None:
    if len(value) > NODE_NAME_CHARS_MAX or not value.isprintable():
        raise UsageError(f"give at most {NODE_NAME_CHARS_MAX} printable characters")


def _check_cache(value: int) -> None:
    if value < CACHE_BYTES_MIN:
        raise UsageError(f"{format_size(value)} is too little: give at least {format_size(CACHE_BYTES_MIN)}")


def _check_vram(value: int | None) -> None:
    if value is not None and value < VRAM_BYTES_MIN:
        raise UsageError(f"{format_size(value)} is too little: give at least {format_size(VRAM_BYTES_MIN)}")


def _check_rate(value: int | None) -> None:
    if value is not None and value * WRITE_TIMEOUT_S < BODY_BYTES_MAX:
        least = math.ceil(BODY_BYTES_MAX / WRITE_TIMEOUT_S)
        raise UsageError(
            f"at {format_rate(value)} one message of {format_size(BODY_BYTES_MAX)} would take longer than the "
            f"{WRITE_TIMEOUT_S:g} s after which a peer is given up: give at least {format_rate(least)}"
        )


def _check_daily(value: int | None) -> None:
    if value is not None and value < DAILY_BYTES_MIN:
        raise UsageError(f"{format_size(value)} is too little: give at least {format_size(DAILY_BYTES_MIN)}")


def _check_listen(addresses: tuple[str, ...]) -> None:
    if len(addresses) > ADDRESSES_PER_PEER_MAX:
        raise UsageError(f"{len(addresses)} addresses; give at most {ADDRESSES_PER_PEER_MAX}")
    for address in addresses:
        parts = address.split("/")
        if len(parts) != 5 or parts[0] or not is_ip(parts[1], parts[2]) or not is_port(parts[3], parts[4], 0):
            raise UsageError(f"{address[:128]!r} is not an address to listen on; write it like /ip4/0.0.0.0/tcp/4001")


def _check_bootstrap(addresses: tuple[str, ...]) -> None:
    if len(addresses) > BOOTSTRAP_MAX:
        raise UsageError(f"{len(addresses)} addresses; give at most {BOOTSTRAP_MAX}")
    for address in addresses:
        if not is_dialable(address):
            raise UsageError(
                f"{address[:128]!r} is not the address of a peer; write it as that peer prints it, "
                "like /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…"
            )


def _check_device(devices: tuple[str, ...]) -> None:
    for device in devices:
        if _DEVICE.fullmatch(device) is None:
            raise UsageError(
                f"{device[:64]!r} is not a device: choose auto, cpu, openvino, or GPUs by number like gpu:0"
            )
    if not devices or len(set(devices)) != len(devices) or ("auto" in devices and len(devices) > 1):
        raise UsageError("choose auto alone, or name each device once")
    if "cpu" in devices and "openvino" in devices:
        raise UsageError("cpu and openvino are the same processor: choose one of them")


def _check_schedule(windows: tuple[WeeklyWindow, ...]) -> None:
    if len(windows) > SCHEDULE_WINDOWS_MAX:
        raise UsageError(f"{len(windows)} windows; give at most {SCHEDULE_WINDOWS_MAX}")
    for position, window in enumerate(windows):
        for other in windows[:position]:
            if window.overlaps(other):
                raise UsageError(f"{other} and {window} overlap: give windows that do not")


def _check_exclusive(names: tuple[str, ...]) -> None:
    if len(names) > EXCLUSIVE_MAX or not all(0 < len(name) <= 64 and name.isprintable() for name in names):
        raise UsageError(f"give at most {EXCLUSIVE_MAX} names of programs, each of at most 64 characters")


def _check_api(value: str | None) -> None:
    host, _, port = (value or "127.0.0.1:1").rpartition(":")
    if not host or not is_port("tcp", port, 0):
        raise UsageError(f"{str(value)[:128]!r} is not an address; write it like 127.0.0.1:7741")


def _check_folder(value: str) -> None:
    if "\0" in value or len(value) > 4096:
        raise UsageError("not a path: give a folder, like /srv/models")


def _check_swarm(value: str) -> None:
    if value:
        from peerinfer.invites import parse_invite  # Knows the messages: too much for every start of the command line.

        parse_invite(value)


def _setting(default: Any, key: str, convert: Callable[[str], Any], check: Callable[[Any], None], **more: Any) -> Any:
    more.setdefault("show", str)
    return dataclasses.field(default=default, metadata={_SETTING: Setting(key, convert, check, **more)})


# --- the configuration ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How a node is set up. Raises `UsageError` if values do not fit, one by one or together."""

    name: str = _setting("", "name", str, _check_name)
    """What people see beside the peer id; "" shows the id alone. Anybody in the swarm can read it."""

    listen: tuple[str, ...] = _setting(("/ip4/0.0.0.0/tcp/0",), "listen", str, _check_listen, is_list=True)
    """Multiaddrs to accept peers on; port 0 takes a free one, new at every start. A fixed port can be forwarded by a
    router and given to others as a bootstrap address. Empty: this node only dials, and costs nothing to guard."""

    bootstrap: tuple[str, ...] = _setting((), "bootstrap", str, _check_bootstrap, is_list=True)
    """Peers to dial first, each ending in /p2p/<peer id>. More make joining surer, at one connection each."""

    mdns: bool = _setting(True, "mdns", _switch, _fits, is_switch=True, show=lambda value: str(value).lower())
    """Find and be found by peers on the local network. Everybody on that network can see that this node runs."""

    relay: bool = _setting(False, "relay", _switch, _fits, is_switch=True, show=lambda value: str(value).lower())
    """Carry traffic for peers that cannot be reached directly. Costs bandwidth both ways."""

    device: tuple[str, ...] = _setting(("auto",), "device", str, _check_device, is_list=True)
    """What to compute with: auto (all that works), cpu, gpu:N."""

    cpu_threads: int | None = _setting(
        None,
        "cpu_threads",
        _or_none("auto", _whole_number),
        _between(1, CPU_THREADS_MAX, " threads"),
        show=_show_none_as("auto", str),
    )
    """Threads of one inference on the CPU; None takes every core. More are faster until the cores are used up, and the
    machine is slower for its owner meanwhile."""

    max_vram_bytes: int | None = _setting(
        None,
        "max_vram",
        _or_none("none", parse_size),
        _check_vram,
        show=_show_none_as("none", _show_size),
    )
    """GPU memory to lend; None lends what is free. A worker that takes more is ended."""

    max_temp_c: float | None = _setting(
        None,
        "max_temp",
        _or_none("none", _number),
        _between(40, 110, " °C"),
        show=_show_none_as("none", "{:g}".format),
    )
    """Degrees Celsius at which a device rests until it has cooled. Lower is quieter and slower."""

    max_power_w: float | None = _setting(
        None,
        "max_power",
        _or_none("none", _number),
        _between(10, 1000, " W"),
        show=_show_none_as("none", "{:g}".format),
    )
    """Watts at which a card rests until it takes less. Keeps a weak power supply, or the bill, within bounds."""

    idle_only: bool = _setting(
        False, "idle_only", _switch, _fits, is_switch=True, show=lambda value: str(value).lower()
    )
    """Lend only while nobody uses the machine. The owner notices nothing; the swarm gets less."""

    on_battery: bool = _setting(
        False, "on_battery", _switch, _fits, is_switch=True, show=lambda value: str(value).lower()
    )
    """Lend also while the machine runs on its battery, which then empties sooner."""

    allow_unsandboxed: bool = _setting(
        False, "allow_unsandboxed", _switch, _fits, is_switch=True, show=lambda value: str(value).lower()
    )
    """Run other people's models also where this system has no sandbox for them. Whoever sends a model that breaks ONNX
    Runtime is then you."""

    own_jobs_first: bool = _setting(
        False, "own_jobs_first", _switch, _fits, is_switch=True, show=lambda value: str(value).lower()
    )
    """While jobs of this node wait for its devices, others' do too. Else all submitters get equal shares."""

    exclusive: tuple[str, ...] = _setting((), "exclusive", str, _check_exclusive, is_list=True)
    """Names of programs, as the system lists its processes, beside which nothing is lent while they run."""

    schedule: tuple[WeeklyWindow, ...] = _setting((), "schedule", parse_weekly, _check_schedule, is_list=True)
    """Hours to lend in, local time, on every day or on some (`mon-fri 22:00-08:00`); empty lends always."""

    max_up_bytes_s: int | None = _setting(
        None, "max_up", _or_none("none", parse_rate), _check_rate, show=_show_none_as("none", str)
    )
    """Bytes per second sent to all peers together; None sends as fast as it goes. Tasks with large outputs slow down."""

    max_down_bytes_s: int | None = _setting(
        None, "max_down", _or_none("none", parse_rate), _check_rate, show=_show_none_as("none", str)
    )
    """Bytes per second received from all peers together. Models take longer to arrive."""

    max_daily_bytes: int | None = _setting(
        None, "max_daily", _or_none("none", parse_size), _check_daily, show=_show_none_as("none", _show_size)
    )
    """Bytes sent and received on one day, by local time; then nothing is lent or served until midnight. For lines that
    are paid by what goes through them."""

    max_cache_bytes: int = _setting(20 * GIB, "max_cache", parse_size, _check_cache, show=_show_size)
    """Disk for models and inputs of others, least recently used go first. More saves fetching them again; blobs that a
    running job needs are kept even beyond it."""

    api: str | None = _setting(None, "api", _or_none("none", str), _check_api, show=_show_none_as("none", str))
    """HOST:PORT on which to serve HTTP, like 127.0.0.1:7741; port 0 takes a free one. Whoever reaches it and has the
    token of this home can use this node; beyond this machine, token and data can be read on the way."""

    models: str = _setting("", "models", str, _check_folder)
    """The folder whose models are served online by their names. "" is models/ beside the identity."""

    swarm: str = _setting("", "swarm", str, _check_swarm)
    """The invite of a private swarm. "" is the swarm that this home was created in or has joined, else the open one.
    Whoever reads the invite is in."""

    log_format: str = _setting("text", "log_format", str, _one_of(*LOG_FORMATS))
    """text for people, json for programs: one object per line."""

    log_level: str = _setting("info", "log_level", str, _one_of(*LOG_LEVELS))
    """The least serious messages that are logged. debug costs a few percent of speed and much disk."""

    def __post_init__(self) -> None:
        for setting in SETTINGS.values():
            value = getattr(self, setting.field)
            try:
                setting.check(value)
            except UsageError as error:
                raise UsageError(f"{setting.key}: {error}") from None
        self._check_together()

    def _check_together(self) -> None:
        ports = [(address, int(address.rsplit("/", 1)[1])) for address in self.listen]
        if self.api is not None:
            ports.append((self.api, int(self.api.rsplit(":", 1)[1])))
        for position, (address, port) in enumerate(ports):
            for other, other_port in ports[:position]:
                if address == other or (port == other_port != 0 and _are_on_one_host(address, other)):
                    raise UsageError(f"listen: {other} and {address} want the same port; give each its own")

    @property
    def is_standalone(self) -> bool:
        """True if no peer can be met: nobody to dial, nobody to find, no door."""
        return not (self.listen or self.bootstrap or self.mdns or self.swarm)


def _are_on_one_host(address: str, other: str) -> bool:
    """Whether two addresses with the same port collide: the same host, or one of them on all hosts of its family."""
    first, second = _host(address), _host(other)
    if first == second:
        return True
    families = {":" in first, ":" in second}
    return len(families) == 1 and bool({"0.0.0.0", "::"} & {first, second})  # noqa: S104  # compared, never bound


def _host(address: str) -> str:
    return address.split("/")[2] if address.startswith("/") else address.rsplit(":", 1)[0].strip("[]")


SETTINGS: Mapping[str, Setting] = {
    field.metadata[_SETTING].key: dataclasses.replace(field.metadata[_SETTING], field=field.name)
    for field in dataclasses.fields(NodeConfig)
}
"""By key, in the order of the fields."""

DEFAULTS = NodeConfig()
