"""The priority of a running job: changed by its owner, wherever it is coordinated, and kept by whoever takes over."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import pytest
from committees import Five
from job_files import SLOW_ATOL, assert_same, write_model, write_npz
from swarm import Swarm, wait_for

from peerinfer.job_priority import newest

pytestmark = pytest.mark.slow

ITEMS, BATCH = 60, 3
"""Few: a job waits, however long it takes, until what is to happen has happened."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("priority")
    rows = np.linspace(-1, 1, ITEMS, dtype=np.float32).reshape(ITEMS, 1)
    return write_model(folder / "slow.onnx", models.slow(20)), write_npz(folder / "rows.npz", x=rows), rows


def test_a_change_reaches_the_coordinator_wherever_it_is_and_survives_it(
    shared: Swarm, files: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    five = Five(shared, ("ada", "bob", "cyd", "dan"))
    five.ensure_up()
    model, inputs, rows = files
    with five.idle():  # the job waits while all this happens
        job = five.detach("ada", model, inputs, BATCH)
        changed = shared.run("ada", "jobs", "priority", job.id[:8], "high", "--json")
        assert changed.code == 0, changed.told()
        assert changed.json["priority"] == "high"
        first = job.wait_term(0)
        assert five.name_of(first["coordinator"]) == "ada"
        ada = five["ada"].peer_id
        five.kill("ada")
        second = job.wait_term(first["term"], but=("ada",))
        assert second["coordinator"] != ada
        assert second["priority"] == "high", "who took over goes by what the owner said"
        five.ensure_up("ada")
        said = shared.run("ada", "jobs", "priority", job.id, "urgent")
        assert said.code == 0, said.told()
        assert "has priority urgent now" in said.stderr
        coordinator = job.coordinator
        view = job.seen_by(coordinator)
        assert view is not None
        assert view["priority"] == "urgent"
        assert job.seen_by("ada")["priority"] == "urgent"  # type: ignore[index]
        stranger = next(name for name in five.names if name not in ("ada", coordinator))
        refused = shared.run(stranger, "jobs", "priority", job.id, "low")
        assert refused.code == 2
        assert "there is no job" in refused.stderr or "only its owner" in refused.stderr
        if coordinator != "ada":
            five.kill(coordinator)
            third = job.wait_term(view["term"], but=(coordinator,))
            assert third["priority"] == "urgent"
    ended = job.wait_ended()
    assert ended["state"] == "done"
    wait_for(lambda: (job.seen_by("ada") or {}).get("state") == "done", saying="the owner to know")
    job.check_journals(tasks=ITEMS // BATCH)
    chain = max((job.journal(name) for name in job.committee), key=len)
    assert newest(chain, job.id, ada).word == "urgent"  # type: ignore[arg-type, union-attr]
    late = shared.run("ada", "jobs", "priority", job.id, "low")
    assert late.code == 2
    assert "has ended already" in late.stderr
    job.fetch("ada", tmp_path / "out.npz")
    assert_same(tmp_path / "out.npz", {"y": rows}, atol=SLOW_ATOL)


def test_the_job_that_became_urgent_is_done_first(
    swarm: Swarm, files: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    daemon = swarm.join("ada")
    daemon.ask("POST", "/node/pause")
    model, inputs, _ = files
    ids = []
    for _ in range(2):
        request = {"model": str(model), "inputs": [str(inputs)], "batch": BATCH, "priority": "low", "verify": "none"}
        ids.append(daemon.ask("POST", "/jobs", json=request)["job_id"])
    first, second = ids
    daemon.ask("POST", f"/jobs/{second}/priority", json={"priority": "urgent"})
    assert daemon.ask("GET", f"/jobs/{second}")["priority"] == "urgent"
    daemon.ask("POST", "/node/resume")

    def ended() -> list[str]:
        return [job for job in ids if daemon.ask("GET", f"/jobs/{job}")["state"] == "done"]

    assert wait_for(ended, saying="the first end") == [second]
    assert daemon.ask("GET", f"/jobs/{first}")["accepted"] < ITEMS // BATCH
