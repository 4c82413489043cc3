"""ZeroMQ and MessagePack, written by hand, in plaintext: about the least that two Python processes can do.

A message is a list of (number, input). The trial sends one task in each message, up to a window in flight; a second
figure sends 64 in each, merged into one batch, as our own frames do.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgpack
import zmq
from trial import Network, hand_in, task_p50, tasks_per_s

_TASKS = 20_000
_FRAMED_TASKS = 200_000
_IN_FLIGHT = 1024
_FRAME_TASKS = 64
_ANSWER_TIMEOUT_MS = 30_000


def _serve() -> None:
    network = Network()
    socket = zmq.Context().socket(zmq.ROUTER)
    print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin, zmq.POLLIN)
    # Standard input says nothing and ends when the other process does.
    while sys.stdin.fileno() not in dict(poller.poll()):
        while True:
            try:
                sender, message = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            numbers, tasks = zip(*msgpack.unpackb(message), strict=True)
            socket.send_multipart((sender, msgpack.packb(list(zip(numbers, network.run(tasks), strict=True)))))


class _Client:
    def __init__(self, port: int) -> None:
        self._socket = zmq.Context().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.RCVTIMEO, _ANSWER_TIMEOUT_MS)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def one(self, task: bytes) -> bytes:
        return self.many([task])[0]

    def many(self, tasks: Sequence[bytes], per_message: int = 1) -> list[bytes]:
        outputs = [b""] * len(tasks)
        numbered = list(enumerate(tasks))
        sent = received = 0
        while received < len(tasks):
            while sent < len(tasks) and sent - received < _IN_FLIGHT:
                self._socket.send(msgpack.packb(numbered[sent : sent + per_message]))
                sent = min(sent + per_message, len(tasks))
            for number, output in msgpack.unpackb(self._socket.recv()):
                outputs[number] = output
                received += 1
        return outputs

    def many_framed(self, tasks: Sequence[bytes]) -> list[bytes]:
        return self.many(tasks, _FRAME_TASKS)


def main() -> None:
    command = [sys.executable, str(Path(__file__).resolve()), "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        client = _Client(int(server.stdout.readline()))
        hand_in(
            task_p50("zeromq", client.one),
            tasks_per_s("zeromq", client.many, _TASKS),
            tasks_per_s("zeromq_framed", client.many_framed, _FRAMED_TASKS),
        )
        server.stdin.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve()
    else:
        main()
