"""Celery on Redis: one worker with one process, one task message for each task.

MessagePack instead of the default JSON, and a prefetch that suits short tasks, as Celery's manual advises. Redis runs on
a loopback port of its own, keeps nothing on disk, and ends with the trial.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import redis
from celery import Celery
from trial import Network, hand_in, task_p50, tasks_per_s

_TASKS = 500
_PREFETCH = 64
_START_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_URL = "PEERINFER_BENCH_REDIS"
"""The worker imports this file as well, and learns from the environment where Redis is."""

app = Celery("celery_bench", broker=os.environ.get(_URL), backend=os.environ.get(_URL))
app.conf.update(
    task_serializer="msgpack",
    result_serializer="msgpack",
    accept_content=["msgpack"],
    worker_prefetch_multiplier=_PREFETCH,
    broker_connection_retry_on_startup=True,
)


@cache
def _network() -> Network:
    """Made by the worker's first task: what is opened before Celery forks does not survive it."""
    return Network()


def _run(task: bytes) -> bytes:
    return _network().run([task])[0]


run = app.task(_run, name="run")


def _one(task: bytes) -> bytes:
    output: bytes = run.delay(task).get(timeout=_ANSWER_TIMEOUT_S)
    return output


def _many(tasks: Sequence[bytes]) -> list[bytes]:
    pending = [run.delay(task) for task in tasks]
    return [result.get(timeout=_ANSWER_TIMEOUT_S) for result in pending]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _process(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_redis(port: int) -> None:
    client = redis.Redis(port=port)
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
        else:
            client.close()
            return


def main() -> None:
    server = shutil.which("redis-server")
    if server is None:
        sys.exit("redis-server is not installed; on Debian: apt-get install redis-server")
    port = _free_port()
    url = f"redis://127.0.0.1:{port}/0"
    os.environ[_URL] = url
    app.conf.update(broker_url=url, result_backend=url)
    redis_command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tempfile.gettempdir()]
    worker_command = [sys.executable, "-m", "celery", "-A", "celery_bench", "worker", "--concurrency", "1"]
    with _process(redis_command):
        _wait_for_redis(port)
        with _process([*worker_command, "--loglevel", "WARNING"]):
            hand_in(task_p50("celery", _one), tasks_per_s("celery", _many, _TASKS))


if __name__ == "__main__":
    main()
