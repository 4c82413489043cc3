"""`verify: quorum:K` of a single request: as many peers as it names compute it, and one who lies is not believed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import models
import numpy as np
import onnxruntime
import pytest
from swarm import Daemon, Swarm, wait_for

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)


class Server:
    def __init__(self, daemon: Daemon, volunteers: list[Daemon]) -> None:
        token = Path(daemon.ready["token_file"]).read_text().strip()
        self.volunteers = volunteers
        self.http = httpx.Client(
            base_url=daemon.ready["http"],
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            trust_env=False,
        )

    def ask(self, row: int, verify: str) -> httpx.Response:
        data = ROWS[row].tolist()
        given = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": data}
        return self.http.post(
            "/v2/models/mlp/infer", json={"inputs": [given], "parameters": {"verify": verify, "timeout": 20_000_000}}
        )

    def done(self) -> int:
        return sum(daemon.ask("GET", "/node")["tasks_done"] for daemon in self.volunteers)


@pytest.fixture(scope="module")
def server(shared: Swarm) -> Iterator[Server]:
    first = shared.join("ada")
    second = shared.join("bob", bootstrap=first)
    folder = shared.root / "models"
    folder.mkdir()
    (folder / "mlp.onnx").write_bytes(models.mlp())
    serving = shared.start(
        "eve", "serve", "--api", "127.0.0.1:0", "--models", folder, "--log-format", "json",
        "--bootstrap", first.address, "--bootstrap", second.address, "--listen", "/ip4/127.0.0.1/tcp/0",
    )  # fmt: skip
    daemon = Ready(serving)
    found = Server(daemon, [first, second])  # type: ignore[arg-type]
    wait_for(lambda: found.ask(0, "none").status_code == 200, timeout_s=30, saying="the first answer")
    yield found
    found.http.close()


class Ready:
    """What `serve` says when it takes requests."""

    def __init__(self, process: Any) -> None:
        import json

        def told() -> Any:
            assert process.code is None, process.told()
            lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
            return next((line for line in lines if line.get("event") == "ready"), None)

        self.ready = wait_for(told, timeout_s=60, saying="serve to be ready")


def wanted() -> Any:
    session = onnxruntime.InferenceSession(models.mlp(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": ROWS})[0]


def test_two_peers_compute_each_request_and_the_answer_is_what_both_say(server: Server) -> None:
    before = server.done()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda row: server.ask(row, "quorum:2"), range(len(ROWS))))
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    found = np.array([answer.json()["outputs"][0]["data"] for answer in answers])
    np.testing.assert_allclose(found, wanted(), rtol=1e-3, atol=1e-5)
    done = wait_for(lambda: (count := server.done() - before) >= 2 * len(ROWS) and count, timeout_s=60)
    print(f"{done} tasks done for {len(ROWS)} requests")


def test_statistics_tell_waiting_from_computing(server: Server) -> None:
    for row in range(5):
        assert server.ask(row, "none").status_code == 200
    (stats,) = server.http.get("/v2/models/mlp/stats").json()["model_stats"]
    spent = stats["inference_stats"]
    assert spent["success"]["count"] == spent["queue"]["count"] == spent["compute_infer"]["count"]
    assert spent["queue"]["ns"] + spent["compute_infer"]["ns"] == spent["success"]["ns"]
    assert 0 < spent["queue"]["ns"] < spent["success"]["ns"]
