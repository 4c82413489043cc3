"""An invite that leads nowhere, or elsewhere: the node says so in a line that says what to do, and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import models
import numpy as np
import pytest
from job_files import write_model, write_npz
from swarm import Daemon, Swarm, wait_for

pytestmark = pytest.mark.slow

LISTEN = {"PEERINFER_LISTEN": "/ip4/127.0.0.1/tcp/0"}


def warnings(daemon: Daemon) -> list[str]:
    return [f"{event['event']} {event.get('reason', '')}" for event in daemon.events() if event["level"] == "warning"]


def test_an_invite_whose_addresses_are_all_dead_is_said_once_and_works_when_one_comes_back(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        created = swarm.run("first", "swarm", "create", "lab", **LISTEN)
        assert "peerinfer swarm invite makes one that works without it" in created.stderr
        newcomer = swarm.join("newcomer", created.stdout.strip())
        wait_for(lambda: any("this node is alone" in said for said in warnings(newcomer)), timeout_s=60)
        assert any("connection refused" in said for said in warnings(newcomer))
        wait_for(lambda: newcomer.ask("GET", "/node")["reachability"].startswith("unknown"), timeout_s=60)
        doctor = swarm.run("newcomer", "doctor")
        assert "peerinfer join --bootstrap ADDR, or an INVITE" in doctor.stdout
        first = swarm.join("first")
        wait_for(lambda: [peer["state"] for peer in newcomer.ask("GET", "/peers")] == ["alive"], timeout_s=60)
        assert sum("this node is alone" in said for said in warnings(newcomer)) == 1
        wait_for(lambda: "not alone any more" in newcomer.stderr, timeout_s=60, saying="the good news")
        assert newcomer.ask("GET", "/peers")[0]["peer_id"] == first.peer_id


def test_an_invite_with_another_key_is_refused_plainly(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        swarm.run("first", "swarm", "create", "lab", **LISTEN)
        first = swarm.join("first")
        forged = swarm.run("forger", "swarm", "create", "lab", "--address", first.address, **LISTEN)
        assert forged.code == 0, forged.told()
        newcomer = swarm.join("newcomer", forged.stdout.strip())
        refusal = "the swarm keys differ; check the invite"
        wait_for(lambda: any(refusal in said for said in warnings(newcomer)), timeout_s=60, saying="the refusal")
        assert newcomer.ask("GET", "/peers") == first.ask("GET", "/peers") == []
        # Who brings no invite at all hears of it while the job waits, and again in the end.
        model = write_model(tmp_path / "model.onnx", models.mlp())
        inputs = write_npz(tmp_path / "in.npz", x=np.ones((3, 64), np.float32))
        words = ["run", model, inputs, "-o", tmp_path / "out.npz", "--bootstrap", first.address, "--timeout", "1h"]
        stray = swarm.run("stray", *words, "--json")
        assert stray.code == 4, stray.told()
        refused = "refused a node without a swarm's key"
        assert refused in json.loads(stray.stdout)["error"]
        assert sum(refused in line for line in stray.stderr.splitlines()) >= 2
        assert "answers" not in stray.stderr, "it does answer"
        planned = swarm.run("stray", *words[:3], "--bootstrap", first.address, "--dry-run")
        assert planned.code == 4, planned.told()
        assert refused in planned.stderr.splitlines()[-1]
        # A home stays in the swarm that it is in, and says how to be in another.
        real = swarm.run("first", "swarm", "invite")
        again = swarm.run("newcomer", "join", real.stdout.strip())
        assert again.code == 2
        assert "use another PEERINFER_HOME" in again.stderr
