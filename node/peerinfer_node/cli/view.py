"""status, peers, devices, models: what the node sees."""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from peerinfer.control import Control, Json
from peerinfer.errors import UsageError
from peerinfer.units import format_count, format_duration, format_size
from peerinfer_node.cli.arguments import Subcommands, add_command, add_json
from peerinfer_node.cli.output import show, show_json, table
from peerinfer_node.cli.place import add_place, with_daemon

WATCH_INTERVAL_S = 1.0


def add(commands: Subcommands) -> None:
    status = add_command(commands, "status", "What this node does now.", "peerinfer status --json --watch")
    peers = add_command(commands, "peers", "Who is there, and who may run a model.", "peerinfer peers --why model.onnx")
    peers.add_argument("--why", metavar="MODEL", help="say of each peer whether it may run this model file, or why not")
    devices = add_command(commands, "devices", "What this machine can compute with.", "peerinfer devices --json")
    models = add_command(commands, "models", "Which models this node holds.", "peerinfer models --json")
    reputation = add_command(
        commands, "reputation", "What this node has seen of its peers.", "peerinfer reputation --json"
    )
    reputation.add_argument(
        "peer",
        nargs="?",
        metavar="PEER|export|verify",
        help="a peer id, or the last characters of one; export: sign a statement of what this node gave; verify: check one",
    )
    reputation.add_argument("file", nargs="?", metavar="FILE", help="the statement that `verify` checks")
    reputation.add_argument("-o", "--output", metavar="OUT", help="write the statement of `export` there")
    for parser, command in (
        (status, _status),
        (peers, _peers),
        (reputation, _reputation),
        (devices, _devices),
        (models, _models),
    ):
        add_json(parser, watch=True)
        add_place(parser)
        parser.set_defaults(command=command)


def look(
    arguments: argparse.Namespace, ask: Callable[[Control], Awaitable[Any]], lines: Callable[[Any], list[str]]
) -> int:
    """Asks the daemon and prints the answer: as JSON or as `lines` of it, once or again and again."""

    import trio

    async def once_or_more(control: Control) -> None:
        while True:
            answer = await ask(control)
            if arguments.json:
                show_json(answer)
            else:
                show(lines(answer))
            if not arguments.watch:
                return
            if not arguments.json:
                show([""])
            await trio.sleep(WATCH_INTERVAL_S)

    with_daemon(arguments, once_or_more)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    return look(arguments, lambda control: control.status(), status_lines)


def _peers(arguments: argparse.Namespace) -> int:
    if arguments.why is None:
        return look(arguments, lambda control: control.peers(), peer_lines)
    model = os.path.abspath(arguments.why)
    is_there = os.path.isfile(model)

    async def why(control: Control) -> Any:
        if is_there:
            from peerinfer_node.cli.dry_run import model_ports  # with onnx: help does not wait for it

            model_ports(model)
        return await control.why(model)

    return look(arguments, why, why_lines)


def _reputation(arguments: argparse.Namespace) -> int:
    from peerinfer_node.cli.contributing import export_statement, verify_statement

    if arguments.peer == "export":
        return export_statement(arguments)
    if arguments.peer == "verify":
        return verify_statement(arguments)
    if arguments.file is not None or arguments.output is not None:
        raise UsageError("a file goes with `reputation export -o FILE` or `reputation verify FILE`")
    return look(arguments, lambda control: control.reputation(arguments.peer), reputation_lines)


def _devices(arguments: argparse.Namespace) -> int:
    return look(arguments, lambda control: control.devices(), device_lines)


def _models(arguments: argparse.Namespace) -> int:
    return look(arguments, lambda control: control.models(), model_lines)


# --- answers as lines ----------------------------------------------------------------------------------------------


def status_lines(status: Json) -> list[str]:
    from peerinfer.contribution import confirmed_words, contribution_words  # with the codec: help does not wait for it

    peers = status.get("peers") or {}
    counts = f"{peers.get('alive', 0)} alive, {peers.get('suspect', 0)} suspect, {peers.get('relayed', 0)} relayed"
    rows: list[tuple[str, Any]] = [
        ("peer id", status.get("peer_id")),
        ("name", status.get("name")),
        ("swarm", status.get("swarm")),
        ("state", status.get("state")),
        *((" because", reason_line(reason)) for reason in status.get("reasons") or ()),
        *(("address", address) for address in status.get("addresses") or ()),
        ("reachability", status.get("reachability")),
        ("peers", counts),
        *(("not reached", f"{each.get('address')}: {each.get('reason')}") for each in status.get("unreached") or ()),
        *(("device", _device(device)) for device in status.get("devices") or ()),
        ("jobs", format_count(status["jobs_coordinated"]) if isinstance(status.get("jobs_coordinated"), int) else None),
        ("contribution", contribution_words(status["contribution"]) if status.get("contribution") else None),
        *((("confirmed", confirmed),) if (confirmed := confirmed_words(status.get("contribution") or {})) else ()),
        ("sandbox", status.get("sandbox")),
        ("version", status.get("version")),
        ("process", status.get("pid")),
        ("api", status.get("api")),
        *((("http", status["http"]), ("token file", status.get("token_file"))) if status.get("http") else ()),
    ]
    return [f"{name:<13} {'-' if value in (None, '') else value}" for name, value in rows]


def peer_lines(peers: list[Json]) -> list[str]:
    if not peers:
        return ["no peers yet"]
    rows = [
        (
            peer.get("peer_id"),
            peer.get("name"),
            peer.get("state"),
            peer.get("path"),
            _milliseconds(peer.get("rtt_ms")),
            peer.get("queue"),
            _ago(peer.get("last_seen_s")),
            ", ".join(str(device.get("name") or device.get("kind")) for device in peer.get("devices") or ()),
        )
        for peer in peers
    ]
    return _table(("PEER", "NAME", "STATE", "PATH", "RTT", "QUEUE", "SEEN", "DEVICES"), rows)


def why_lines(answers: list[Json]) -> list[str]:
    if not answers:
        return ["no peers yet, so nobody may run it"]
    rows = [
        (
            answer.get("peer_id"),
            answer.get("name"),
            "yes" if answer.get("eligible") else "no",
            answer.get("why"),
        )
        for answer in answers
    ]
    return _table(("PEER", "NAME", "MAY RUN IT", "WHY"), rows)


def reputation_lines(peers: list[Json]) -> list[str]:
    if not peers:
        return ["this node has not worked with anybody yet"]
    lines = []
    for peer in peers:
        lines.append(f"{peer.get('peer_id')}  {peer.get('name') or ''}".rstrip())
        if peer.get("evidence") and not peer.get("barred"):
            right, in_time = round(100 * peer["integrity"]), round(100 * peer["reliability"])
            lines.append(f"  right in at least {right}% of its results and in time with {in_time}%, by what was seen")
        lines += [f"  {word}" for word in peer.get("words") or ()]
        lines += [f"    {_voucher(voucher)}" for voucher in peer.get("vouchers") or ()] if len(peers) == 1 else []
    return lines


def _voucher(voucher: Json) -> str:
    """One whose word it is, and what that is worth here."""
    who = f"{voucher.get('name') or ''} {voucher.get('peer_id')}".strip()
    said = f"{who} says that it passed {format_count(round(voucher.get('checks') or 0), 'check')} there"
    if not voucher.get("counted"):
        return f"{said}; its word counts for nothing here"
    return f"{said}; trusted with {100 * voucher['trust']:.2g}%, so that counts as {voucher['counted']:.2g}"


def device_lines(devices: list[Json]) -> list[str]:
    if not devices:
        return ["no devices: this node lends nothing"]
    rows = [
        (
            device.get("selector"),
            device.get("name"),
            device.get("kind"),
            device.get("provider"),
            _size(device.get("vram_bytes")),
            _unit((device.get("benchmark") or {}).get("gemm_gflops"), "GFLOP/s"),
            _unit((device.get("benchmark") or {}).get("bandwidth_gbs"), "GB/s"),
            _unit(device.get("temperature_c"), "°C"),
            device.get("state"),
            "; ".join(reason_line(reason) for reason in device.get("rests") or device.get("reasons") or ()),
        )
        for device in devices
    ]
    headers = ("--DEVICE", "NAME", "KIND", "PROVIDER", "MEMORY", "GEMM", "BANDWIDTH", "TEMP", "STATE", "BECAUSE")
    used = [device for device in devices if device.get("good_for") and device.get("state") != "refused"]
    lost = [f"{device.get('name')}: {_loss(device)}" for device in devices if device.get("losses")]
    return [*_table(headers, rows), *map(_fit, used), *lost]


def _fit(device: Json) -> str:
    at_s: Any = (device.get("benchmark") or {}).get("measured_at")
    measured = f" (measured on {datetime.fromtimestamp(at_s):%Y-%m-%d %H:%M})" if _is_number(at_s) else ""
    return f"{device['name']}: {device['good_for']}{measured}"


def _loss(device: Json) -> str:
    return f"lost {format_count(device['losses'], 'time')} in the last minutes; the last: {device.get('last_loss')}"


def model_lines(models: list[Json]) -> list[str]:
    if not models:
        return ["no models are held here"]
    rows = [(model.get("cid"), _size(model.get("bytes")), "yes" if model.get("loaded") else "no") for model in models]
    return _table(("MODEL", "SIZE", "LOADED"), rows)


def _table(headers: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """Without the columns that nobody fills."""
    used = [column for column in range(len(headers)) if any(row[column] not in (None, "") for row in rows)]
    return table([headers[column] for column in used], [[row[column] for column in used] for row in rows])


def _device(device: Any) -> str:
    if not isinstance(device, dict):
        return str(device)
    parts = [device.get("name"), device.get("kind"), device.get("state")]
    line = ", ".join(str(part) for part in parts if part)
    if device.get("state") == "paused":  # that is said of the whole node
        return line
    reasons = "; ".join(reason_line(reason) for reason in device.get("rests") or device.get("reasons") or ())
    return f"{line}: {reasons}" if reasons else line


def reason_line(reason: Any) -> str:
    if not isinstance(reason, dict):
        return str(reason)
    until_s: Any = reason.get("until")
    until = f" until {datetime.fromtimestamp(round(until_s)):%Y-%m-%d %H:%M}" if _is_number(until_s) else ""
    return f"{reason.get('reason')}{until}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e11


def _size(value: Any) -> str | None:
    return format_size(value) if _is_number(value) and value > 0 else None


def _unit(value: Any, unit: str) -> str | None:
    return f"{value:.3g} {unit}" if _is_number(value) and value > 0 else None


def _milliseconds(value: Any) -> str | None:
    return f"{value:.3g} ms" if _is_number(value) else None


def _ago(age_s: Any) -> str | None:
    return f"{format_duration(round(age_s))} ago" if _is_number(age_s) else None
