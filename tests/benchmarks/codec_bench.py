"""How many messages our codec encodes and decodes in a second, each once, on one core."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

from harness import Measurement

from peerinfer.codec import decode, encode
from peerinfer.messages import Cancel, Frame, Hello, Refused, Term, Window
from peerinfer.tensors import TensorSpec

_SMALL = (
    Hello(1, "peerinfer/0.1.0", "lab"),
    Window(2),
    Refused(7, "busy, retry later", False),
    Cancel(7, "the job was cancelled"),
)
_FRAME_TASKS = 256
_FRAME = Frame(
    frame=1,
    job="bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
    term=Term(3, "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"),
    tasks=tuple(range(_FRAME_TASKS)),
    attempts=(1,) * _FRAME_TASKS,
    items=(1,) * _FRAME_TASKS,
    tensors=(TensorSpec("x", "float32", (_FRAME_TASKS, 64)),),
)
_REPETITIONS = 5


def _per_second(messages: tuple[Any, ...], rounds: int) -> float:
    """Messages encoded and decoded per second; the median of some repetitions."""
    rates = []
    for _ in range(_REPETITIONS):
        started = perf_counter()
        for _ in range(rounds):
            for message in messages:
                decode(encode(message))
        rates.append(rounds * len(messages) / (perf_counter() - started))
    return median(rates)


async def run(quick: bool) -> list[Measurement]:
    for message in (*_SMALL, _FRAME):
        if decode(encode(message)) != message:
            raise ValueError(f"{type(message).__name__} does not survive the codec: the measurement is void")
    rounds = 2_000 if quick else 20_000
    return [
        Measurement("codec_messages", _per_second(_SMALL, rounds), "messages/s", "higher", budget=200_000),
        Measurement("codec_frames_256", _per_second((_FRAME,), rounds), "messages/s", "higher"),
    ]
