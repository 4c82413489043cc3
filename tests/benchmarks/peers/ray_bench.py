"""Ray: one actor with the network, one call for each task."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import ray
from trial import Network, hand_in, task_p50, tasks_per_s

_TASKS = 5_000
_OBJECT_STORE_BYTES = 100_000_000


class Mlp:
    """The actor: one process with the network."""

    def __init__(self) -> None:
        self._network = Network()

    def run(self, task: bytes) -> bytes:
        return self._network.run([task])[0]


class _Client:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def one(self, task: bytes) -> bytes:
        output: bytes = ray.get(self._actor.run.remote(task))
        return output

    def many(self, tasks: Sequence[bytes]) -> list[bytes]:
        outputs: list[bytes] = ray.get([self._actor.run.remote(task) for task in tasks])
        return outputs


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=tempfile.gettempdir(),
    )
    try:
        client = _Client(ray.remote(Mlp).remote())
        hand_in(task_p50("ray", client.one), tasks_per_s("ray", client.many, _TASKS))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
