"""Outputs on their way to the caller, and what a job's end means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer import job_ends
from peerinfer.control import Json, ResultBlock
from peerinfer.errors import PartialFailure, PeerinferError
from peerinfer.strings import unpacked

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Item:
    """The outputs of one item of a job."""

    index: int
    outputs: Mapping[str, NDArray[Any]]


class Gathered:
    """Blocks of a job, each item once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def items(self, block: ResultBlock) -> list[Item]:
        """The items of a block that were not there before."""
        found = []
        for position in range(block.items):
            index = block.first_item + position
            if index not in self._seen:
                self._seen.add(index)
                found.append(Item(index, {name: _shown(rows[position]) for name, rows in block.rows.items()}))
        return found


def whole(blocks: list[ResultBlock], items: int) -> Arrays:
    """All outputs in the order of the inputs. Items that have none are zero, or empty strings."""
    found: Arrays = {}
    for block in blocks:
        for name, rows in block.rows.items():
            if name not in found:
                shape = (items, *rows.shape[1:])
                is_text = rows.dtype.kind == "V"
                found[name] = np.full(shape, "", object) if is_text else np.zeros(shape, rows.dtype.newbyteorder("="))
            found[name][block.first_item : block.first_item + block.items] = _shown(rows)
    return found


def _shown(rows: NDArray[Any]) -> NDArray[Any]:
    """Strings as Python's."""
    return unpacked(rows) if rows.dtype.kind == "V" else rows


def error_of(job: Json) -> PeerinferError | None:
    """What an ended job raises, the same kind that gives the command line its exit code; None if all is well."""
    error = job_ends.error_of(job)
    if isinstance(error, PartialFailure):
        return PartialFailure(f"{error}; results() gives the others")
    return error
