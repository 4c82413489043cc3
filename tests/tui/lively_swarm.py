"""A swarm in which much goes on, the same in every run: what the snapshot tests show."""

from __future__ import annotations

import hashlib
from typing import Any

from peerinfer_tui.mirror import Mirror
from peerinfer_tui.pictures import Snapshot

NOW_S = 1_800_000_000.0
"""Friday 2027-01-15 08:00:00 UTC."""

OWN = "12D3KooWAlder1111111111111111111111111111AAAAbbbb"
NAMES = ["ash", "aspen", "beech", "birch", "cedar", "elm", "hazel", "hornbeam", "larch", "linden", "maple", "oak"]
CARDS = [("Radeon RX 580", 8, 5200.0), ("GeForce RTX 3060", 12, 11800.0), ("Arc A770", 16, 15400.0)]


def peer_id(name: str) -> str:
    return "12D3KooW" + hashlib.sha256(name.encode()).hexdigest()[:44]


def job_id(number: int) -> str:
    return hashlib.sha256(f"job {number}".encode()).hexdigest()[:32]


def peer(index: int) -> dict[str, Any]:
    name = NAMES[index] if index < len(NAMES) else f"node-{index:04}"
    card, gib, gflops = CARDS[index % 3]
    devices = [{"name": "cpu", "kind": "cpu", "provider": "CPUExecutionProvider", "vram_bytes": 32 << 30,
                "gemm_gflops": 310.0}]  # fmt: skip
    if index % 4 != 3:
        devices.insert(0, {"name": card, "kind": "gpu", "provider": "WebGpuExecutionProvider", "vram_bytes": gib << 30,
                           "gemm_gflops": gflops})  # fmt: skip
    state = "suspect" if index % 11 == 4 else "dead" if index % 11 == 9 else "alive"
    why = ""
    if state != "alive":
        why = f"it is {state}: there is no connection to it"
    elif index % 11 == 6:
        why = "it is paused: paused by its owner"
    elif index % 11 == 8:
        why = "it answered task 12 of job 5c1e7a90 wrongly: outputs differ by 0.31"
    return {
        "peer_id": peer_id(name),
        "name": name,
        "state": state,
        "lends": "paused" if index % 11 == 6 else "running",
        "path": "relay" if index % 5 == 2 else "direct",
        "rtt_ms": None if state == "dead" else 0.8 + 7.3 * (index % 13),
        "addresses": [f"/ip4/192.0.2.{index % 250 + 1}/tcp/4001/p2p/{peer_id(name)}"],
        "devices": devices,
        "reputation": {
            "integrity": 0.0 if index % 11 == 8 else 0.99 - 0.03 * (index % 4) if index % 3 else None,
            "reliability": 0.97 if index % 3 else None,
            "evidence": 17 * (index % 3),
        },
        "why_not": why,
        "queue": 0 if why else index % 7,
        "last_seen_s": 0.2 + index % 3 if state == "alive" else 75.0,
        "agent": "peerinfer/0.1.0",
        "sandbox": "full",
    }


def job(number: int, state: str, **more: Any) -> dict[str, Any]:
    tasks = 400
    return {
        "job_id": job_id(number),
        "state": state,
        "submitter": OWN,
        "coordinator": OWN,
        "term": 1,
        "committee": [OWN, peer_id("ash"), peer_id("beech"), peer_id("cedar"), peer_id("oak")],
        "handovers": [{"term": 1, "coordinator": OWN, "at": NOW_S - 190.0, "why": "submitted"}],
        "model": "/home/ada/models/digits.onnx",
        "items": 100 * tasks,
        "tasks": tasks,
        "open": 0,
        "assigned": 0,
        "accepted": tasks,
        "final": tasks,
        "failed": [],
        "failed_tasks": 0,
        "retried": 3,
        "hedged": 1,
        "audited": 21,
        "audits_failed": 0,
        "peers": [{"peer_id": peer_id("ash"), "tasks": 170}, {"peer_id": peer_id("hazel"), "tasks": 90}],
        "verify": "spot",
        "priority": "normal",
        "strategy": "adaptive",
        "elapsed_s": 190.0,
        "reason": "",
        "blocked": "",
        **more,
    }


def jobs() -> list[dict[str, Any]]:
    handed_over = [
        {"term": 1, "coordinator": OWN, "at": NOW_S - 190.0, "why": "submitted"},
        {"term": 2, "coordinator": peer_id("beech"), "at": NOW_S - 61.0, "why": "the lease of the one before ran out"},
    ]
    failures = [
        {"task": 31, "first_item": 3100, "items": 100, "reason": "4 attempts failed; the last one: out of memory"},
        {"task": 77, "first_item": 7700, "items": 100, "reason": "4 attempts failed; the last one: NaN in output 'y'"},
    ]
    return [
        job(1, "running", accepted=260, final=244, open=98, assigned=40, failed=failures, failed_tasks=2),
        job(2, "running", accepted=391, final=380, assigned=9, coordinator=peer_id("beech"), term=2, hedged=4,
            handovers=handed_over, model="/home/ada/models/whale-songs.onnx", priority="high"),
        job(3, "queued", accepted=0, final=0, open=400, elapsed_s=4.0, peers=[],
            blocked="no peer has a GPU with 24 GiB of memory: 11 have less, 1 has none"),
        job(4, "done"),
        job(5, "failed", accepted=12, final=12, failed_tasks=388, reason="no peer could run the model: 4 refused it"),
        job(6, "cancelled", accepted=80, final=80),
    ]  # fmt: skip


def devices() -> list[dict[str, Any]]:
    return [
        {
            "name": "Radeon RX 580",
            "kind": "gpu",
            "provider": "WebGpuExecutionProvider",
            "vram_bytes": 8 << 30,
            "memory_used_bytes": 5 << 30,
            "temperature_c": 79.0,
            "max_temp_c": 80.0,
            "power_w": 112.0,
            "max_power_w": 150.0,
            "busy_ratio": 0.93,
            "benchmark": {"gemm_gflops": 5210.0, "bandwidth_gbs": 198.0},
            "certified": True,
            "state": "busy",
            "reasons": [],
        },
        {
            "name": "cpu",
            "kind": "cpu",
            "provider": "CPUExecutionProvider",
            "vram_bytes": 32 << 30,
            "memory_used_bytes": 11 << 30,
            "temperature_c": 61.0,
            "max_temp_c": 80.0,
            "power_w": None,
            "max_power_w": None,
            "busy_ratio": 0.38,
            "benchmark": {"gemm_gflops": 310.0, "bandwidth_gbs": 24.0},
            "certified": True,
            "state": "resting",
            "reasons": ["somebody uses this machine"],
        },
    ]


def answers(peers: int = 12) -> dict[str, Any]:
    listed = [peer(index) for index in range(peers)]
    states = [each["state"] for each in listed]
    return {
        "/api/v1/node": {
            "peer_id": OWN,
            "name": "alder",
            "swarm": "forest",
            "addresses": [f"/ip4/192.0.2.200/tcp/4001/p2p/{OWN}", f"/ip6/2001:db8::7/tcp/4001/p2p/{OWN}"],
            "state": "running",
            "reasons": [],
            "reachability": "can be dialled by everybody",
            "peers": {
                "alive": states.count("alive"),
                "suspect": states.count("suspect"),
                "relayed": sum(each["path"] == "relay" for each in listed),
            },
            "devices": devices(),
            "jobs_coordinated": 1,
            "coordinators_served": 2,
            "frames_running": 2,
            "frames_waiting": 5,
            "tasks_done": 1873,
            "items_done": 187_300,
            "energy_j": 412_000.0,
            "contribution": {"tasks": 48_210, "items": 4_821_000, "compute_s": 61_330.0, "energy_j": 6.2e6},
            "sandbox": "full",
            "version": "0.1.0",
            "pid": 4711,
            "api": "",
        },
        "/api/v1/devices": devices(),
        "/api/v1/peers": listed,
        "/api/v1/jobs": jobs(),
    }


def read_snapshot(node: Any, devices: Any, peers: Any, jobs: Any, now_s: float = NOW_S) -> Snapshot:
    """The picture that the window makes of what a daemon tells first."""
    mirror = Mirror()
    mirror.take({"event": "snapshot", "node": node, "devices": devices, "peers": peers, "jobs": jobs}, now_s)
    return mirror.snapshot(now_s)
