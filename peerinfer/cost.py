"""Work, in a unit that is the same for all models: operations on numbers, as the graph says (`graph_cost` reads it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peerinfer.tensors import FREE, Port, TensorSpec

GROWTH_MAX = 1 << 24


def growth(ports: Sequence[Port], given: Sequence[TensorSpec]) -> int:
    """By how much one item is larger than the graph was counted for: with all that its model leaves open taken as one.

    `given` are the whole arrays for these ports; their first axis counts items.
    """
    shapes = {spec.name: spec.shape for spec in given}
    largest = 1
    for port in ports:
        have = shapes.get(port.name, ())
        size = 1
        # Counted from the last axis: the array may have an axis for items where the model has none.
        for want, count in zip(reversed(port.shape[1:]), reversed(have), strict=False):
            if want == FREE:
                size *= max(count, 1)
        largest = max(largest, size)
    return min(largest, GROWTH_MAX)


@dataclass(slots=True)
class Given:
    """The running count of what a node computed for others."""

    tasks: int = 0
    items: int = 0
    compute_s: float = 0.0
    energy_j: float = 0.0
    flops: float = 0.0

    def add(self, tasks: int, items: int, compute_s: float, energy_j: float, flops: float) -> None:
        self.tasks += tasks
        self.items += items
        self.compute_s += compute_s
        self.energy_j += energy_j
        self.flops += flops


_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def format_flops(flops: float) -> str:
    """As people say it: 1.23 TFLOP."""
    place = 0
    while flops >= 1000 and place < len(_PREFIXES) - 1:
        flops, place = flops / 1000, place + 1
    return f"{flops:.3g} {_PREFIXES[place]}FLOP"
