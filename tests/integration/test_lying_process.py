"""A volunteer whose process lies: it is caught, what it gave is computed again, and the output is right."""

from contextlib import contextmanager
from pathlib import Path

import models
import numpy as np
import pytest
from job_files import SLOW_ATOL, assert_adds_up, assert_same, write_model, write_npz
from swarm import wait_for

pytestmark = pytest.mark.slow

LIAR = '''
"""Imported by the interpreter at its start: this process falsifies what its device computes."""
from dataclasses import replace

import numpy as np

from peerinfer_node.roles.models_at_work import ModelsAtWork

honest = ModelsAtWork.run


async def lie(self, brief, coordinator, executor, batch):
    result = await honest(self, brief, coordinator, executor, batch)
    groups = []
    for group in result.groups:
        values = np.frombuffer(bytes(group.body), dtype=group.tensors[0].dtype).copy()
        groups.append(replace(group, body=(values + 1).tobytes()))
    return replace(result, groups=tuple(groups))


ModelsAtWork.run = lie
'''

ROWS = np.random.default_rng(0).standard_normal((60, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    return write_model(folder / "slow.onnx", models.slow(8)), write_npz(folder / "rows.npz", x=ROWS)


@pytest.fixture(scope="module")
def liar_environ(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("liar")
    (folder / "sitecustomize.py").write_text(LIAR)
    return {"PYTHONPATH": str(folder)}


@contextmanager
def eve_first(eve, *others):
    """Only she gets work until she has answered; else the others might have done all of it."""
    for daemon in others:
        daemon.ask("POST", "/node/pause")
    yield
    wait_for(lambda: eve.ask("GET", "/node")["tasks_done"] > 0, saying="eve to answer")
    for daemon in others:
        daemon.ask("POST", "/node/resume")


def test_who_was_caught_by_one_daemon_is_caught_by_others_that_see_for_themselves(swarm, files, liar_environ, tmp_path):
    model, rows = files
    ada = swarm.join("ada")
    eve = swarm.join("eve", bootstrap=ada, environ=liar_environ, wait=False)
    bob = swarm.join("bob", bootstrap=ada)
    eve.wait_ready()
    out = tmp_path / "out.npz"
    with eve_first(eve, ada, bob):
        run = swarm.start("ada", "run", model, rows, "-o", out, "--json", "--batch", "1", "--verify", "adaptive")
    assert run.wait() == 0, run.told()
    assert_same(out, {"y": ROWS}, atol=SLOW_ATOL)

    def has_seen() -> bool:
        return "computed again here" in str(bob.ask("GET", "/reputation", params={"peer": eve.peer_id}))

    wait_for(has_seen, timeout_s=180, saying="bob to see for itself")
    told = swarm.run("bob", "reputation", eve.peer_id).stdout
    assert f"told by {ada.peer_id[-8:]}" in told
    assert "gets no work from this node" in told
    assert "computed again here" in swarm.run("bob", "peers", "--why", model).stdout
    assert bob.code is None


@pytest.mark.parametrize("verify", ["spot", "quorum:2", "adaptive"])
def test_a_process_that_lies_is_caught_and_the_output_is_right(swarm, files, liar_environ, tmp_path, verify):
    model, rows = files
    eve = swarm.join("eve", environ=liar_environ, wait=False)
    ada, bob = (swarm.join(name, wait=False) for name in ("ada", "bob"))
    for daemon in (eve, ada, bob):
        daemon.wait_ready()
    out = tmp_path / "out.npz"
    bootstrap = [word for peer in (eve, ada, bob) for word in ("--bootstrap", peer.address)]
    with eve_first(eve, ada, bob):
        run = swarm.start("me", "run", model, rows, "-o", out, "--json", "--batch", "1", "--verify", verify, *bootstrap)
    assert run.wait() == 0, run.told()
    summary = run.json
    assert_adds_up(summary, items=len(ROWS))
    assert summary["verification"]["policy"] == verify
    assert summary["verification"]["audits_failed"] >= 1, summary
    assert eve.peer_id not in {peer["peer_id"] for peer in summary["peers"]}
    assert_same(out, {"y": ROWS}, atol=SLOW_ATOL)
